"""Label maps whose values are not 0, 1, 2, ...: values of the files to classes of the network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.utils.errors import UserError


class LabelValuesd(MapTransform):
    """Put the class in the place of each label value, and refuse values that stand for none.

    MONAI's ``MapLabelValued`` lets unknown values pass: with 0, 2 and 5 mapped to 0, 1 and 2, a stray 1 would silently
    become the first class.

    Args:
        keys: entries with label maps, of any shape.
        values: the value in the files of class 0, 1, 2, ...
        allow_missing_keys: pass over keys that are not there.

    Raises:
        UserError: on a call, naming the file, when a label map holds another value or a fraction.
    """

    def __init__(self, keys: Any = "label", values: Sequence[int] = (0, 1), allow_missing_keys: bool = False) -> None:
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
                    f"{file}: found the label values {', '.join(f'{value:g}' for value in strange[:5])}, expected none "
                    f"but {', '.join(map(str, self.values))}; fix the label map, or name them in the labels of the "
                    "data set and create the bundle anew"
                )
            d[key] = classes
        return d
