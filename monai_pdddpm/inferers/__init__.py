"""MONAI inferers: how a network is called, in training and on whole volumes."""

from .autocast import AutocastInferer
from .denoising_inferer import Denoised, DenoisingInferer
from .distributed import SpreadInferer
from .pdddpm import PDDDPMInferer

__all__ = ["AutocastInferer", "Denoised", "DenoisingInferer", "PDDDPMInferer", "SpreadInferer"]
