"""A map of uncertainty as a label map, since a MONAI Label answer carries label maps only."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

__all__ = ["EntropyLevelsd", "entropy_levels", "level_names"]

_PERCENT = (20, 40, 60, 80)


def level_names() -> dict[str, int]:
    """Return name -> label value of the levels: from 20, 40, 60 and 80 percent of the largest possible entropy up."""
    return {f"entropy_from_{percent}_percent": value for value, percent in enumerate(_PERCENT, start=1)}


def entropy_levels(entropy: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Sort entropies into levels.

    Args:
        entropy: in nats, from 0 to ln ``num_classes``, any shape.
        num_classes: K; the largest possible entropy is ln K.

    Returns:
        uint8 of the same shape: 0 below 20 % of ln K, then 1, 2, 3 and 4 from 20, 40, 60 and 80 % up.
    """
    bounds = torch.tensor(_PERCENT, dtype=torch.float64, device=entropy.device) / 100
    return torch.bucketize(entropy.double() / math.log(num_classes), bounds, right=True).to(torch.uint8)


class EntropyLevelsd(MapTransform):
    """Put the levels of an entropy map in the place of the segmentation; see :func:`entropy_levels`.

    Args:
        keys: entry to write, ``pred``.
        num_classes: K.
        entropy_key: of the map in nats, (1, X, Y, Z).
    """

    def __init__(self, keys: Any = "pred", num_classes: int = 2, entropy_key: str = "entropy") -> None:
        super().__init__(keys)
        self.num_classes = num_classes
        self.entropy_key = entropy_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the levels, (1, X, Y, Z), under each key."""
        d = dict(data)
        for key in self.keys:
            d[key] = entropy_levels(d[self.entropy_key], self.num_classes)
        return d
