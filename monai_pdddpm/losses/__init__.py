"""The losses."""

from .denoising_loss import DenoisingLoss
from .partial import PartialDiceCELoss

__all__ = ["DenoisingLoss", "PartialDiceCELoss"]
