"""The loss of the denoiser."""

from .denoising_loss import DenoisingLoss

__all__ = ["DenoisingLoss"]
