"""Checks of loaded scans and label maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.utils.errors import UserError

T = TypeVar("T", bound=torch.Tensor)

logger = logging.getLogger(__name__)

_SAME_GRID = 0.1  # voxels
_SMALLEST_RANGE, _LARGEST_RANGE = 1e-15, 1e15  # of intensities, so that their variance fits float32
_LEVELS = 100  # of intensities that float32 resolves
_WITHOUT_OPERATIONS = (torch.bool, torch.uint16, torch.uint32, torch.uint64)
ROUNDING = 1.05e-3  # label values this close to an integer are rounded: 1e-3 as float32 holds it up to 1000


def check_voxels(array: np.ndarray | torch.Tensor, path: str | os.PathLike) -> None:
    """Check that a scan has usable intensities.

    Args:
        array: voxels, of any shape.
        path: file of the scan, for the message.

    Raises:
        UserError: when there are no voxels, any is complex or not finite, all have the same value, or their range is so
            small or large that float32 cannot hold its variance.
    """
    if isinstance(array, torch.Tensor):
        array = (array.float() if array.dtype == torch.bfloat16 else array).detach().cpu().numpy()
    voxels = np.asarray(array)
    if np.iscomplexobj(voxels):
        raise UserError(f"{path}: found complex numbers, expected real ones; take their magnitude")
    if voxels.size == 0:
        raise UserError(f"{path}: found no voxels (shape {voxels.shape}), expected a scan; export it again")
    low, high = float(voxels.min()), float(voxels.max())  # NaN propagates to both
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(voxels)))
        if bad == voxels.size:
            raise UserError(f"{path}: none of its voxels is finite, expected intensities; export it again")
        raise UserError(
            f"{path}: {bad} of {voxels.size} voxels are not finite (NaN or infinite), expected finite intensities; "
            "replace them, for example with nibabel and numpy.nan_to_num"
        )
    if low == high:
        raise UserError(
            f"{path}: every voxel is {low:g} in float32, expected a scan with contrast; check how it was exported"
        )
    span = high - low
    if span < _LEVELS * float(np.spacing(np.float32(max(abs(low), abs(high))))):
        raise UserError(
            f"{path}: its voxels lie between {low:.9g} and {high:.9g}, where float32 resolves fewer than {_LEVELS} "
            "values, expected more; subtract an offset, for example with nibabel"
        )
    if not _SMALLEST_RANGE < span < _LARGEST_RANGE:
        raise UserError(
            f"{path}: its voxels span {span:g}, expected a span from {_SMALLEST_RANGE:g} to {_LARGEST_RANGE:g}; check "
            "how it was scaled (scl_slope in a NIfTI header)"
        )


class CheckImaged(MapTransform):
    """Check loaded scans, right after `LoadImageScand`: axes, number of channels and voxel values.

    Args:
        keys: entries to check, each of shape (channels or frames, spatial axes...).
        spec: the scans expected.
        settings: fields of `ScanSpec` in which the scans differ from ``spec``.

    Raises:
        UserError: when a setting is not allowed, or on a call, when a scan is not as expected; the message names its
            file.
    """

    def __init__(self, keys: KeysCollection, spec: ScanSpec | None = None, **settings: Any) -> None:
        super().__init__(keys)
        self.spec = replace(spec or ScanSpec(), **settings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data unchanged, or raise `UserError`."""
        d = dict(data)
        channels = None if self.spec.has_frames else self.spec.channels
        for key in self.key_iterator(d):
            image, path = d[key], _path_of(d[key], key)
            found, *spatial = image.shape
            if len(spatial) != self.spec.spatial_dims or channels not in (None, found):
                expected = "any number of" if channels is None else channels
                what = "frames" if self.spec.has_frames else "channels"
                raise UserError(
                    f"{path}: loaded with {found} {what} and {len(spatial)} spatial axes, expected {expected} and "
                    f"{self.spec.spatial_dims}; give the scan that this bundle was made for"
                )
            check_voxels(image, path)
        return d


class CheckLabeld(MapTransform):
    """Check label maps after they were loaded: they lie on the grid of the scan ``image`` and hold known label values.

    Values within 1e-3 of an integer, as float32 resampling leaves them, are rounded, and a warning is logged.

    Args:
        keys: entries to check, each of shape (annotations, spatial axes...).
        values: label values allowed, integers from 0.
        ignored: a further value, of voxels without a label; None if there are none.

    Raises:
        UserError: on a call, when a label map is not as expected; the message names its file.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int], ignored: int | None = None) -> None:
        super().__init__(keys)
        allowed = [*values, *([] if ignored is None else [ignored])]
        self.known = torch.zeros(max(allowed) + 1, dtype=torch.bool)
        self.known[allowed] = True

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with rounded labels, or raise `UserError`."""
        d = dict(data)
        image = d["image"]
        for key in self.key_iterator(d):
            path = _path_of(d[key], key)
            label: Any = _round_labels(d[key], path)
            d[key] = label
            check_grid(label, image, path)
            if unknown := self._unknown(label.as_tensor() if isinstance(label, MetaTensor) else label):
                known = f"none but {', '.join(map(str, self.known.nonzero().flatten().tolist()))}"
                if self.known.all():
                    known = f"whole numbers from 0 to {len(self.known) - 1}"
                raise UserError(
                    f"{path}: found the label values {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}, "
                    f"expected {known}; fix the label map, or use the bundle that it belongs to"
                )
        return d

    def _unknown(self, voxels: torch.Tensor) -> list[str]:
        """Return the unknown values in ascending order, without sorting all voxels."""
        known = (voxels == voxels.round()) & (voxels >= 0) & (voxels < len(self.known))
        known &= self.known[torch.where(known, voxels, 0).long()]
        if known.all():
            return []
        values = torch.unique(voxels[~known].detach()).numpy()
        return list(dict.fromkeys(np.format_float_positional(value, trim="-") for value in values))  # NaN once


def check_grid(label: Any, image: Any, path: str | os.PathLike) -> None:
    """Check that labels, (C, X, Y, Z), lie on the grid of their scan, up to 0.1 voxels.

    Args:
        label: MetaTensor.
        image: MetaTensor; its voxels are not looked at.
        path: file of the labels, for the message.

    Raises:
        UserError: when shape or position differ.
    """
    shape, expected = tuple(label.shape[1:]), tuple(image.shape[1:])
    if shape != expected:
        found, wanted = (" x ".join(map(str, axes)) for axes in (shape, expected))
        raise UserError(
            f"{path}: found labels of {found} voxels, expected the {wanted} of their scan; put both on one grid"
        )
    shift = largest_shift(np.asarray(image.affine), np.asarray(label.affine), (*shape, 1, 1)[:3])
    if shift > _SAME_GRID:
        raise UserError(
            f"{path}: found labels {shift:.3g} voxels away from their scan, expected one grid; fix the header of "
            "either, or put both on one grid"
        )


def _round_labels(label: T, path: str | os.PathLike) -> T:
    """Round label values that are within 1e-3 of an integer, with a warning; others stay for the check of values."""
    if not label.is_floating_point():
        return label.long() if label.dtype in _WITHOUT_OPERATIONS else label  # type: ignore[return-value]
    rounded: Any = label.round()
    error = float((label - rounded).abs().max()) if label.numel() else 0.0
    if not 0 < error <= ROUNDING:
        return label
    logger.warning("%s: its label values are up to %.1g away from integers; they were rounded", path, error)
    return rounded


def _path_of(image: Any, key: Hashable) -> str:
    meta = image.meta if isinstance(image, MetaTensor) else {}
    return str(meta.get("filename_or_obj", f"the entry {key!r}"))
