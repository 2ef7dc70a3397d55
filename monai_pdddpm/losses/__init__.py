"""The loss of the denoiser."""

from .denoising import DenoisingLoss

__all__ = ["DenoisingLoss"]
