"""MONAI inferers: how a network is called, in training and on whole volumes."""

from .autocast import AutocastInferer
from .pdddpm import PDDDPMInferer
from .training import Denoised, DenoisingInferer

__all__ = ["AutocastInferer", "Denoised", "DenoisingInferer", "PDDDPMInferer"]
