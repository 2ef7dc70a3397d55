"""Uncertainty as a label map, because MONAI Label answers carry label maps only."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

_PERCENT = (20, 40, 60, 80)


def level_names() -> dict[str, int]:
    """Return the label value of each level by name; levels begin at 20, 40, 60 and 80 % of the largest entropy."""
    return {f"entropy_from_{percent}_percent": value for value, percent in enumerate(_PERCENT, start=1)}


def entropy_levels(entropy: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Divide entropies into levels.

    Args:
        entropy: values in nats, from 0 to ln ``num_classes``, any shape.
        num_classes: number of classes K; the largest possible entropy is ln K.

    Returns:
        uint8 tensor of the same shape: 0 below 20 % of ln K, and 1, 2, 3, 4 from 20, 40, 60, 80 % on.
    """
    bounds = torch.tensor(_PERCENT, dtype=torch.float64, device=entropy.device) / 100
    return torch.bucketize(entropy.double() / math.log(num_classes), bounds, right=True).to(torch.uint8)


class EntropyLevelsd(MapTransform):
    """Replace the segmentation by the levels of ``entropy``, (1, X, Y, Z) in nats; see `entropy_levels`.

    Args:
        keys: entries to write.
        num_classes: number of classes, background included.
    """

    def __init__(self, keys: Any, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the levels, (1, X, Y, Z), in each entry of ``keys``."""
        d = dict(data)
        for key in self.keys:
            d[key] = entropy_levels(d["entropy"], self.num_classes)
        return d
