"""Networks that the method is compared with and that the product does not need."""

from __future__ import annotations

import torch
from torch import nn


class Refiner(nn.Module):
    """A plain network given image and proposal, in the place of a denoiser: it looks at neither x_t nor t.

    Trained and asked through the same pipeline with a single step, it is a refiner without diffusion.

    Args:
        network: (B, image channels + K, ...) -> (B, K, ...) logits.
        num_classes: K.
        divisor: what its input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 8) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.divisor = divisor

    def encode(self, image: torch.Tensor, proposal: torch.Tensor) -> list[torch.Tensor]:
        """Return the refined logits as the only feature."""
        return [self.network(torch.cat([image, proposal], dim=1))]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the refined logits, whatever x_t and t are."""
        return features[0].expand(len(x_t), *features[0].shape[1:])
