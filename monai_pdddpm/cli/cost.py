"""What a bundle's networks and runs cost, computed from its JSON; nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["denoiser_parameters", "segmenter_parameters", "window_count"]


def window_count(size: Sequence[int], window: Sequence[int], overlap: float) -> int:
    """Return how many windows cover a volume, as :class:`monai_pdddpm.inferers.windows.WindowPlan` lays them.

    Args:
        size: voxels along each axis.
        window: likewise.
        overlap: least share that neighbours have in common, 0 to below 1.
    """
    steps = [max(1, math.floor(side * (1 - overlap) + 1e-6)) for side in window]
    return math.prod(math.ceil(max(0, n - w) / s) + 1 for n, w, s in zip(size, window, steps, strict=True))


def segmenter_parameters(definition: Mapping[str, Any]) -> int | None:
    """Return the number of weights of a ``SegResNet`` of 3D convolutions; None of another network."""
    if str(definition.get("_target_", "")).rpartition(".")[2] != "SegResNet" or definition.get("spatial_dims", 3) != 3:
        return None
    filters = definition.get("init_filters", 8)
    down, up = definition.get("blocks_down", (1, 2, 2, 4)), definition.get("blocks_up", (1, 1, 1))
    if {"norm", "upsample_mode", "use_conv_final"} & set(definition):
        return None

    def blocks(count: int, width: int) -> int:
        return count * (2 * 27 * width**2 + 4 * width)  # two convolutions and two norms

    total = 27 * definition["in_channels"] * filters
    for level, count in enumerate(down):
        width = filters * 2**level
        total += blocks(count, width) + (27 * width**2 // 2 if level else 0)
    for level, count in enumerate(up):
        width = filters * 2 ** (len(up) - level - 1)
        total += blocks(count, width) + 2 * width * width
    return total + 2 * filters + (filters + 1) * definition["out_channels"]


def denoiser_parameters(definition: Mapping[str, Any]) -> int | None:
    """Return the number of weights of an ``ODEUNet`` of 3D convolutions; None of another network."""
    if str(definition.get("_target_", "")).rpartition(".")[2] != "ODEUNet" or definition.get("attention"):
        return None
    if definition.get("spatial_dims") != 3:
        return None
    classes, widths = definition["num_classes"], definition.get("channels", (32, 64, 128))
    stem, embedding = definition.get("stem_channels", 16), definition.get("embedding_channels", 128)

    def conv(a: int, b: int, size: int = 3, bias: bool = True) -> int:
        return a * b * size**3 + b * bias

    def residual(width: int) -> int:
        return 2 * conv(width, width, bias=False) + 4 * width

    def ode(width: int) -> int:
        acceleration = 2 * conv(width, width) + conv(width, width, 1, bias=False) + 4 * width
        velocity = conv(width, width, 1) + 2 * width
        return acceleration + velocity + (embedding + 1) * 2 * width

    total = conv(definition["image_channels"] + definition.get("presegmentation_channels", 0), stem) + residual(stem)
    for a, b in pairwise((stem, *widths)):
        total += conv(a, b) + residual(b) + conv(b, b, 1)
    total += 2 * (embedding + 1) * embedding + conv(classes, widths[0])
    total += 2 * sum(map(ode, widths[:-1])) + ode(widths[-1])
    total += sum(conv(a, b) + conv(b, a, 1) for a, b in pairwise(widths))
    return total + conv(widths[0], stem, 1) + 2 * stem + conv(stem, stem) + conv(stem, classes, 1)
