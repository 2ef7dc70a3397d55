"""Label maps whose values are not 0, 1, 2, ...: values of the files to classes of the network, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.utils.errors import UserError

__all__ = ["LabelValuesd", "named_values", "to_values"]


class LabelValuesd(MapTransform):
    """Replace each label value by its class, and refuse values that belong to no class.

    MONAI's ``MapLabelValued`` lets unknown values pass: with 0, 2 and 5 mapped to 0, 1 and 2, a stray 1 would silently
    become the first class.

    Args:
        keys: entries with label maps, of any shape.
        values: the value in the files of class 0, 1, 2, ...
        allow_missing_keys: skip keys that are missing.

    Raises:
        UserError: on a call, if a label map holds another value or a fraction.
    """

    def __init__(
        self, keys: KeysCollection = "label", values: Sequence[int] = (0, 1), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = [int(value) for value in values]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the classes in float32 under each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            label = d[key]
            classes = torch.full_like(label, -1, dtype=torch.float32)
            for index, value in enumerate(self.values):
                classes[label == value] = index
            if (classes < 0).any():
                strange = torch.unique(torch.as_tensor(label)[torch.as_tensor(classes) < 0]).tolist()
                file = label.meta.get("filename_or_obj", key) if isinstance(label, MetaTensor) else key
                raise UserError(
                    f"{file}: found the label values {', '.join(f'{value:g}' for value in strange[:5])}, expected only "
                    f"{', '.join(map(str, self.values))}; fix the label map, or name them in the labels of the data "
                    "set and create the bundle again"
                )
            d[key] = classes
        return d


def to_values(label_map: torch.Tensor, values: Sequence[int] | None) -> torch.Tensor:
    """Return a label map with the value in the files for each class, the inverse of :class:`LabelValuesd`.

    Args:
        label_map: classes, whole numbers, of any shape.
        values: the value of class 0, 1, 2, ...; None and 0, 1, 2, ... change nothing.
    """
    if values is None or list(values) == list(range(len(values))):
        return label_map
    valued = torch.as_tensor(values, dtype=torch.int32, device=label_map.device)[torch.as_tensor(label_map).long()]
    return MetaTensor(valued, meta=label_map.meta) if isinstance(label_map, MetaTensor) else valued


def named_values(labels: Mapping[str, str], values: Sequence[int] | None) -> dict[str, str]:
    """Return the names of the classes by the value that they have in the files."""
    return {str(values[int(index)] if values else index): name for index, name in labels.items()}
