"""MONAI inferers: how a network is called, in training and on whole volumes."""

from .autocast import AutocastInferer
from .pdddpm import PDDDPMInferer
from .spread import SpreadInferer
from .training import Denoised, DenoisingInferer

__all__ = ["AutocastInferer", "Denoised", "DenoisingInferer", "PDDDPMInferer", "SpreadInferer"]
