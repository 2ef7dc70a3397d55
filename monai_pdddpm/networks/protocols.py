"""Interfaces of a denoiser and of the pair of segmenter and denoiser."""

from __future__ import annotations

from typing import Protocol

import torch

from monai_pdddpm.schedulers import Chain


class Denoiser(Protocol):
    """A network that splits its work into a condition, which no time step changes, and the rest."""

    image_channels: int
    num_classes: int
    divisor: int

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the condition's features; image and pre-segmentation are (B, C, ...) and (B, K, ...)."""

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str, solver_steps: int
    ) -> torch.Tensor:
        """Return the output, (B, K, ...), for a state of that shape and time indices, (B,) or (1,)."""


class Pair(Protocol):
    """The parts of :class:`monai_pdddpm.networks.PDDDPM`, eager or as TorchScript, that an inferer calls."""

    num_classes: int
    divisor: int
    residual: bool
    abar: torch.Tensor

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Return the segmenter's probabilities, (B, K, ...)."""

    def prepare_presegmentation(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the pre-segmentation from which the chain starts, (B, K, ...)."""

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the condition's features."""

    def reverse(
        self, presegmentation: torch.Tensor, features: list[torch.Tensor], noise: list[torch.Tensor], chain: Chain
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities at the first and at the last time step of a chain, each (B, K, ...)."""
