"""MONAI inferers: how a network is called, in training and on whole volumes."""

from .autocast import AutocastInferer
from .communicator import Communicator
from .config import EnsembleConfig
from .denoising_inferer import Denoised, DenoisingInferer
from .output import EnsembleOutput
from .pdddpm import PDDDPMInferer
from .run_info import EnsembleRunInfo

__all__ = [
    "AutocastInferer",
    "Communicator",
    "Denoised",
    "DenoisingInferer",
    "EnsembleConfig",
    "EnsembleOutput",
    "EnsembleRunInfo",
    "PDDDPMInferer",
]
