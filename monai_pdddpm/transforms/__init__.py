"""Dictionary transforms that MONAI lacks, and the corruption of proposals."""

from .corruption import ProposalCorruption
from .cross_fitting import CrossFittedProposald
from .dicom_seg import SaveDicomSegd
from .evaluate import Evaluated
from .label_values import LabelValuesd
from .outputs import InvertMembersd, SplitOutputd, Uncertaintyd
from .readings import RandReadingd
from .spacing import Spacingd
from .summary import Summarised

__all__ = [
    "CrossFittedProposald",
    "Evaluated",
    "InvertMembersd",
    "LabelValuesd",
    "ProposalCorruption",
    "RandReadingd",
    "SaveDicomSegd",
    "Spacingd",
    "SplitOutputd",
    "Summarised",
    "Uncertaintyd",
]
