"""Synthetic cases of four sizes, and networks whose answers are drawn, so that maps look like those of trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F

from benchmarks import common
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import in_fast_layout

LESION = common.ROOT / "bundles" / "ms_lesion_mri_segmentation"
REACH = 50.0  # voxels from a surface up to which the distance is drawn
LAYER = 6.0  # voxels of each class inside the one before
SURE = 9.0  # largest logit: a trained network leaves some 1e-4 in the background


@dataclass(frozen=True)
class Size:
    """A size of case: image, bundle with overrides, the balls in it, and whether the bundle's weights fit."""

    image: tuple[int, int, int]
    bundle: Path
    balls: int
    radius: float
    overrides: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True


def classes_and_window(classes: int, window: int) -> dict[str, Any]:
    """Return overrides for another number of classes and another window."""
    keys = ("segmenter_def::out_channels", "network_def::denoiser::num_classes")
    keys += ("network_def::denoiser::presegmentation_channels",)
    return dict.fromkeys(keys, classes) | {"roi_size": [window] * 3}


SIZES = {
    "hippocampus": Size((40, 40, 40), common.HIPPOCAMPUS, 1, 10),
    "lesion": Size((140, 160, 130), LESION, 8, 4),
    "brain tumor": Size((240, 240, 155), LESION, 1, 25, classes_and_window(5, 96), trained=False),
    "CT": Size((512, 512, 400), common.HIPPOCAMPUS, 1, 60, classes_and_window(3, 96), trained=False),
}


class DrawnSegmenter(nn.Module):
    """Answer with nested classes around the distance in the first channel; run a segmenter too, for its time."""

    def __init__(self, segmenter: nn.Module | None, classes: int) -> None:
        super().__init__()
        self.segmenter, self.classes = segmenter, classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, C, ...)."""
        if self.segmenter is not None:
            self.segmenter(image)
        generator = torch.Generator().manual_seed(0)
        background = 0.3 * torch.randn(1, 1, *image.shape[2:], generator=generator).to(image.device)
        steps = [(image[:, :1].float() - LAYER * k).clamp(-SURE, SURE) for k in range(self.classes - 1)]
        return torch.cat([background.expand(len(image), *background.shape[1:]), torch.cat(steps, 1).cumsum(1)], 1)


class DrawnDenoiser(nn.Module):
    """Answer as `DrawnSegmenter`, with a surface that the smoothed state moves; run the denoiser for its time."""

    def __init__(self, denoiser: Any, runs: bool) -> None:
        super().__init__()
        self.denoiser, self.runs = denoiser, runs
        self.num_classes, self.divisor = denoiser.num_classes, denoiser.divisor
        self.image_channels, self.drawn = denoiser.image_channels, DrawnSegmenter(None, denoiser.num_classes)

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the denoiser's features and the image's first channel."""
        return [*(self.denoiser.encode(image, presegmentation) if self.runs else []), image[:, :1]]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return logits, (B, K, ...)."""
        if self.runs:
            self.denoiser.denoise(x_t, t, features[:-1], solver, solver_steps)
        return self.drawn(features[-1] + 8 * F.avg_pool3d(x_t[:, :1].float(), 5, 1, 2))


def drawn_pair(pair: PDDDPM, device: torch.device | str, runs: bool = True, members: bool = True) -> PDDDPM:
    """Return a pair whose pre-segmentation, and on request members, are drawn; its networks run if requested."""
    pair.segmenter = DrawnSegmenter(pair.segmenter if runs else None, pair.num_classes)
    if members:
        pair.denoiser = DrawnDenoiser(pair.denoiser, runs)
    return in_fast_layout(pair.to(device).eval(), device)  # type: ignore[return-value]


def distance_image(size: Size, channels: int = 1, device: torch.device | str = "cpu") -> MetaTensor:
    """Return noise, (1, C, X, Y, Z), with the distance to the surface of the balls, positive inside, in channel 0."""
    generator = torch.Generator().manual_seed(0)
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in size.image]
    image = torch.randn(1, channels, *size.image, device=device)
    image[0, 0] = -REACH
    for _ in range(size.balls):
        place = 0.5 + (0.6 * torch.rand(3, generator=generator) - 0.3) * (size.balls > 1)
        squares = [(axis - p * len(axis)) ** 2 for axis, p in zip(axes, place.tolist(), strict=True)]
        distance = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt_()
        torch.maximum(image[0, 0], distance.neg_().add_(size.radius).clamp_(-REACH, REACH), out=image[0, 0])
    return MetaTensor(image)
