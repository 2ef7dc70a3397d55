"""MONAI inferers: how a network is called, in training and on whole volumes."""

from .autocast import AutocastInferer
from .config import EnsembleConfig
from .denoising_inferer import Denoised, DenoisingInferer
from .distributed import SpreadInferer
from .output import EnsembleOutput
from .pdddpm import PDDDPMInferer
from .run_info import EnsembleRunInfo

__all__ = [
    "AutocastInferer",
    "Denoised",
    "DenoisingInferer",
    "EnsembleConfig",
    "EnsembleOutput",
    "EnsembleRunInfo",
    "PDDDPMInferer",
    "SpreadInferer",
]
