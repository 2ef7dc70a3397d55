"""Checks at the door: voxels, an output folder, a setting or a file that cannot work is told before any computing."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import uuid
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.utils.errors import UserError

__all__ = [
    "FOURTH_DIMENSIONS",
    "CheckImaged",
    "CheckLabeld",
    "check_choice",
    "check_file",
    "check_fourth_dimension",
    "check_memory",
    "check_output_dir",
    "check_range",
    "check_voxels",
]

FOURTH_DIMENSIONS = ("channel", "time")
_SAME_PLACE = 0.1  # voxels
_NARROWEST, _WIDEST = 1e-15, 1e15  # of grey values: their variance has to be a number in float32


def check_voxels(array: np.ndarray | torch.Tensor, path: str | os.PathLike) -> None:
    """Check that voxel values can be worked with.

    Args:
        array: voxels, of any shape.
        path: file that they came from, for the message.

    Raises:
        UserError: when there are no voxels, any that is not finite, all have the same value, or values lie so far
            apart or close together that float32 has no variance for them.
    """
    voxels = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if voxels.size == 0:
        raise UserError(f"{path}: found no voxels (shape {voxels.shape}), expected a scan; export it again")
    low, high = voxels.min(), voxels.max()  # both are finite only when all are: NaN spreads
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(voxels)))
        if bad == voxels.size:
            raise UserError(f"{path}: none of its voxels is finite, expected grey values; export it again")
        raise UserError(
            f"{path}: {bad} of {voxels.size} voxels are not finite (NaN or infinite), expected finite grey values; "
            "replace them, for example with nibabel and numpy.nan_to_num"
        )
    if low == high:
        raise UserError(f"{path}: every voxel is {low:g}, expected a scan with contrast; check how it was exported")
    span = float(high) - float(low)
    if not _NARROWEST < span < _WIDEST:
        raise UserError(
            f"{path}: its voxels span {span:g}, expected a span from {_NARROWEST:g} to {_WIDEST:g}; check how it was "
            "scaled (scl_slope in a NIfTI header)"
        )


class CheckImaged(MapTransform):
    """Check loaded scans, right after `LoadScand`: axes, number of channels and voxel values.

    Args:
        keys: entries to check, each of shape (channels, spatial axes...).
        channels: channels expected; None takes any number.
        spatial_dims: spatial axes expected.
        allow_missing_keys: pass over keys that are not there.
        fourth_dimension: "channel", or "time" for (frames, spatial axes...), of which there may be any number.

    Raises:
        UserError: when ``channels`` and ``fourth_dimension`` do not fit, or when called on a scan that is not what was
            expected; the message names the scan's file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int | None = 1,
        spatial_dims: int = 3,
        allow_missing_keys: bool = False,
        fourth_dimension: str = "channel",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_fourth_dimension(fourth_dimension, channels)
        self.channels = None if fourth_dimension == "time" else channels
        self.spatial_dims = spatial_dims
        self.fourth_dimension = fourth_dimension

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data unchanged, or raise `UserError`."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            path = meta.get("filename_or_obj", f"the entry {key!r}")
            found, *spatial = image.shape
            if len(spatial) != self.spatial_dims or self.channels not in (None, found):
                expected = "any number of" if self.channels is None else self.channels
                what = "frames" if self.fourth_dimension == "time" else "channels"
                raise UserError(
                    f"{path}: loaded with {found} {what} and {len(spatial)} spatial axes, expected {expected} and "
                    f"{self.spatial_dims}; give the scan that this bundle was made for"
                )
            check_voxels(image, path)
        return d


class CheckLabeld(MapTransform):
    """Check label maps beside their scan, right after both were loaded: the grid, and that values stand for classes.

    A label map that lies elsewhere, or a value that is no class, would be learnt from or counted as it is.

    Args:
        keys: entries to check, each of shape (any, spatial axes...).
        values: what may be in the files, whole numbers from 0.
        image_key: the scan.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        UserError: when called on a label map that is not so; the message names its file.
    """

    def __init__(
        self, keys: KeysCollection, values: Sequence[int], image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.known = torch.zeros(max(values) + 1, dtype=torch.bool)
        self.known[list(values)] = True

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data unchanged, or raise `UserError`."""
        d = dict(data)
        image = d[self.image_key]
        for key in self.key_iterator(d):
            label = d[key]
            path = label.meta.get("filename_or_obj", f"the entry {key!r}")
            shape, expected = tuple(label.shape[1:]), tuple(image.shape[1:])
            if shape != expected:
                found, wanted = (" x ".join(map(str, axes)) for axes in (shape, expected))
                raise UserError(
                    f"{path}: found labels of {found} voxels, expected the {wanted} of their scan; put both on one grid"
                )
            shift = largest_shift(np.asarray(image.affine), np.asarray(label.affine), (*shape, 1, 1)[:3])
            if shift > _SAME_PLACE:
                raise UserError(
                    f"{path}: found labels {shift:.3g} voxels away from their scan, expected one grid; fix the header "
                    "of either, or put both on one grid"
                )
            if strange := self._strange(label.as_tensor() if isinstance(label, MetaTensor) else label):
                known = f"none but {', '.join(map(str, self.known.nonzero().flatten().tolist()))}"
                if self.known.all():
                    known = f"whole numbers from 0 to {len(self.known) - 1}"
                raise UserError(
                    f"{path}: found the label values {', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}, "
                    f"expected {known}; fix the label map, or give the bundle that it belongs to"
                )
        return d

    def _strange(self, voxels: torch.Tensor) -> list[str]:
        """Return the values that are not known, in rising order; sorting all voxels would take long."""
        known = (voxels == voxels.round()) & (voxels >= 0) & (voxels < len(self.known))
        known &= self.known[torch.where(known, voxels, 0).long()]
        return [] if known.all() else [f"{value:g}" for value in torch.unique(voxels[~known]).tolist()]


def check_memory(path: str | os.PathLike, shape: Sequence[int]) -> None:
    """Check that a scan's voxels, as float32, are fewer bytes than this computer has memory.

    Args:
        path: file that the shape came from, for the message.
        shape: lengths of all axes.

    Raises:
        UserError: when they are not.
    """
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # nobody knows, as on Windows
        return
    needed = 4 * math.prod(shape)
    if needed > there:
        raise UserError(
            f"{path}: found shape {' x '.join(map(str, shape))}, which takes {needed / 2**30:.0f} GiB of memory, "
            f"expected at most the {there / 2**30:.0f} GiB of this computer; check the header, or crop the scan"
        )


def check_output_dir(path: str | os.PathLike) -> None:
    """Check that files can be written to an output folder; one that is not there yet is tried and removed again.

    Args:
        path: folder; it and its parents need not exist.

    Raises:
        UserError: when it cannot be made or written to.
    """
    folder = Path(path).expanduser()
    new = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    trial = folder / f".{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(b"0")
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}), expected a folder for the results; set output_dir to "
            "one that you may write to"
        ) from error
    finally:
        for made in new:
            with contextlib.suppress(OSError):  # never made, or another run writes there already
                made.rmdir()


def check_file(path: str | os.PathLike, what: str, remedy: str) -> None:
    """Check that a file exists and may be read.

    Args:
        path: the file.
        what: what it is, for the message, such as ``checkpoint``.
        remedy: what to do, for the message.

    Raises:
        UserError: when it does not.
    """
    path = Path(path)
    if os.path.isfile(path):  # pathlib's own raises where a folder may not be entered
        if os.access(path, os.R_OK):
            return
        found = "cannot be read (permission denied)"
    else:
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        if os.path.exists(path) and not os.path.isdir(path):
            found = "is a pipe, a socket or a device"
    raise UserError(f"{path}: {found}, expected a {what} file; {remedy}")


def check_range(name: str, value: object, low: int, high: int | None = None) -> None:
    """Check that a number of the configuration is a whole number in a range.

    Args:
        name: key of the configuration.
        value: what it was set to.
        low: smallest value allowed.
        high: largest value allowed; None for no limit.

    Raises:
        UserError: when it is not.
    """
    try:
        # True is a whole number to Python, not to a reader
        fits = not isinstance(value, (bool, np.bool_)) and low <= operator.index(value) <= (  # type: ignore[arg-type]
            math.inf if high is None else high
        )
    except TypeError:
        fits = False
    if not fits:
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name}: found {value!r}, expected a whole number {expected}; set {name} to one")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a setting is one of a few words.

    Args:
        name: key of the configuration.
        value: what it was set to.
        choices: what it may be.

    Raises:
        UserError: when it is not.
    """
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise UserError(f"{name}: found {value!r}, expected {expected}; set {name} to one")


def check_fourth_dimension(value: object, channels: int | None) -> None:
    """Check what the fourth axis of a scan stands for, and that the number of channels goes with it.

    Args:
        value: "channel" or "time".
        channels: of the network; each frame of a time series has one.

    Raises:
        UserError: when it is something else, or frames are to have several channels.
    """
    check_choice("fourth_dimension", value, FOURTH_DIMENSIONS)
    if value == "time" and channels not in (None, 1):
        raise UserError(
            f"fourth_dimension: found 'time' with {channels} channels, expected frames of one channel; set "
            "fourth_dimension to 'channel', or give a bundle made for one channel"
        )
