"""Dictionary transforms that MONAI lacks, and the corruption of proposals."""

from .corruption import ProposalCorruption
from .cross_fitting import CrossFittedProposald
from .evaluate import Evaluated
from .outputs import SplitOutputd, Uncertaintyd
from .readings import RandReadingd
from .spacing import Spacingd
from .summary import Summarised

__all__ = [
    "CrossFittedProposald",
    "Evaluated",
    "ProposalCorruption",
    "RandReadingd",
    "Spacingd",
    "SplitOutputd",
    "Summarised",
    "Uncertaintyd",
]
