"""Label maps whose values are not 0, 1, 2, ...: values of the files to classes of the network, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_pdddpm.utils.errors import UserError


class LabelValuesd(MapTransform):
    """Replace each label value by its class, after :class:`monai_pdddpm.data.CheckLabeld` with the same values.

    Args:
        keys: entries with label maps, of any shape.
        values: the value in the files of class 0, 1, 2, ...; other values become class 0.
        ignored: the value of voxels without a label, which become class -1; None if there are none.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int], ignored: int | None = None) -> None:
        super().__init__(keys)
        self.classes = dict(enumerate(values)) | ({} if ignored is None else {-1: ignored})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the classes in float32 under each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            label = d[key]
            classes = torch.zeros_like(label, dtype=torch.float32)
            for index, value in self.classes.items():
                classes[label == value] = index
            d[key] = classes
        return d


class LeaveOutUnlabeledd(MapTransform):
    """Make the voxels without a label, whose class in ``label`` is -1, background in the label and in predictions.

    Args:
        keys: predictions, (K, X, Y, Z) with the background first; they become one-hot where there is no label.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the label, (1, X, Y, Z), and the predictions changed."""
        d = dict(data)
        labeled = d["label"] >= 0
        for key in self.key_iterator(d):
            background = torch.zeros_like(d[key])
            background[0] = 1
            d[key] = torch.where(labeled.to(d[key].device), d[key], background)
        d["label"] = d["label"] * labeled
        return d


def to_values(label_map: torch.Tensor, values: Sequence[int] | None) -> torch.Tensor:
    """Return a label map with the value in the files for each class, the inverse of :class:`LabelValuesd`.

    ``values`` None and 0, 1, 2, ... change nothing.
    """
    if values is None or list(values) == list(range(len(values))):
        return label_map
    return torch.as_tensor(values, dtype=torch.int32, device=label_map.device)[label_map.long()]  # keeps metadata


def named_values(labels: Mapping[str, str], values: Sequence[int] | None) -> dict[str, str]:
    """Return the names of the classes by the value that they have in the files.

    Raises:
        UserError: if there are not as many values as names, two are the same, or the background's is not 0.
    """
    if values and (len(values) != len(labels) or len({*values}) != len(values) or values[0] != 0):
        raise UserError(
            f"label_values: found {values!r}, expected a value of its own for each of the {len(labels)} labels, 0 "
            "first; fix it"
        )
    return {str(values[int(index)] if values else index): name for index, name in labels.items()}
