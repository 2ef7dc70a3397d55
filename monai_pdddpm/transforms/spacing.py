"""Resampling to a voxel size, with a flaw of MONAI's fixed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from math import inf
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Spacingd as MonaiSpacingd

from monai_pdddpm.utils.errors import UserError


class Spacingd(MonaiSpacingd):
    """MONAI's ``Spacingd``, without its crash on entries such as ``image_path``.

    MONAI 1.6 updates every entry whose name begins with ``image_`` as if it were the metadata of ``image``. MONAI
    Label keeps the string ``image_path`` there: ``AttributeError: 'str' object has no attribute 'update'``. Here
    entries that are no mappings are kept out of its sight. Arguments and inverse are MONAI's own, but a size of 0 or
    below, which MONAI takes for the scan's own size, is refused.

    Raises:
        UserError: if a voxel size is no number above 0.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float] | float, *args: Any, **kwargs: Any) -> None:
        sizes = [pixdim] if isinstance(pixdim, (int, float)) else pixdim
        if not isinstance(sizes, Sequence) or not all(isinstance(mm, (int, float)) and 0 < mm < inf for mm in sizes):
            raise UserError(f"spacing: found {pixdim!r}, expected voxel sizes in mm above 0; set spacing to them")
        super().__init__(keys, pixdim, *args, **kwargs)

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        """Resample the entries named by ``keys``.

        Args:
            data: dictionary with tensors of shape (channels, spatial axes...) under ``keys``.
            lazy: as MONAI's.

        Returns:
            The dictionary with these entries resampled; all others unchanged and in place.
        """
        seen = {key: value for key, value in data.items() if key in self.keys or isinstance(value, MutableMapping)}
        return {**data, **super().__call__(seen, lazy)}
