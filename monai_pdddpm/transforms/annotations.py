"""Training on several annotations of a scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform, Randomizable


class RandAnnotationd(Randomizable, MapTransform):
    """Keep one of several annotations of a scan, a new draw each time.

    A network that sees the same reading of a scan again and again learns it by heart and grows too sure of itself;
    one that sees the readers disagree learns by how much. A label map with one channel passes unchanged.

    Args:
        keys: the key of the label maps, (annotations, X, Y[, Z]).
    """

    def __init__(self, keys: Any = "label") -> None:
        MapTransform.__init__(self, keys)
        self._draw = 0.0

    def randomize(self, data: Any = None) -> None:
        """Draw the reading."""
        self._draw = float(self.R.random_sample())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with one reading, (1, X, Y[, Z]), under each key."""
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            annotations: torch.Tensor = d[key]
            index = int(self._draw * annotations.shape[0])
            d[key] = annotations[index : index + 1]
        return d
