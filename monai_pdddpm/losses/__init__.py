"""The losses."""

from .denoising_loss import DenoisingLoss, PartialDiceCELoss

__all__ = ["DenoisingLoss", "PartialDiceCELoss"]
