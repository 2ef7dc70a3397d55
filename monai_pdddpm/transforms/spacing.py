"""Resampling to a voxel size, with a flaw of MONAI's fixed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping

import torch
from monai.transforms import Spacingd as MonaiSpacingd


class Spacingd(MonaiSpacingd):
    """MONAI's ``Spacingd``, without its crash on entries such as ``image_path``.

    MONAI 1.6 updates every entry whose name begins with ``image_`` as if it were the metadata of ``image``. MONAI
    Label keeps the string ``image_path`` there: ``AttributeError: 'str' object has no attribute 'update'``. Here
    entries that are no mappings are kept out of its sight. Arguments and inverse are MONAI's own.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        """Return the data with the entries under ``keys`` resampled; all others stay as they are, in place."""
        seen = {key: value for key, value in data.items() if key in self.keys or isinstance(value, MutableMapping)}
        return {**data, **super().__call__(seen, lazy)}
