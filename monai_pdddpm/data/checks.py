"""Checks at the door: a scan, an output folder, a number or a file that cannot work is told before any computing."""

from __future__ import annotations

import contextlib
import gzip
import math
import operator
import os
import struct
import uuid
import zlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.errors import UserError

__all__ = ["CheckImaged", "check_file", "check_output_dir", "check_range", "check_scan", "check_voxels"]

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_CIFTI_INTENTS = range(3000, 3100)


def check_scan(path: str | os.PathLike, spatial_dims: int = 3, channels: int | None = 1) -> None:
    """Check that a file is a scan which can be read, by its header and its length.

    Only NIfTI files are looked into; of others it is checked that they exist. Voxel values are not looked at, see
    `check_voxels`.

    Args:
        path: scan file.
        spatial_dims: number of spatial axes expected.
        channels: number of volumes expected on a fourth axis; 1 also stands for no fourth axis; None takes any
            number.

    Raises:
        UserError: when the file is missing, no image, cut short, has other axes, or no usable affine.
    """
    path = Path(path)
    check_file(path, "scan", "check dataset_dir")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: empty file, expected a scan; export or copy it again")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    image = _load_nifti(path)
    _check_shape(path, image.shape, spatial_dims, channels)
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise UserError(f"{path}: voxels of type {kind}, expected whole or real numbers; convert to a grey-scale scan")
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(
            f"{path}: its affine cannot be inverted, expected an sform or qform with three independent axes; "
            "mend the header, for example with nibabel or fslorient"
        )
    _check_length(path, image)


def _load_nifti(path: Path) -> nib.Nifti1Image:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    if packed != path.name.lower().endswith(".gz"):
        found, right = ("compressed", ".nii.gz") if packed else ("not compressed", ".nii")
        raise UserError(f"{path}: the file is {found}, expected what its name says; if it is a scan, name it {right}")
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for what is no image
        raise UserError(f"{path}: not a readable NIfTI image ({_brief(error)}); export or convert it again") from error
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 images are of this class too, CIFTI files are not
        raise UserError(f"{path}: found a {type(image).__name__}, expected a NIfTI image; take the volume it came from")
    if int(image.header["intent_code"]) in _CIFTI_INTENTS:  # nibabel knows them by the end of their name only
        raise UserError(f"{path}: found a CIFTI file, expected a NIfTI image; take the volume it came from")
    return image


def _check_shape(path: Path, shape: tuple[int, ...], spatial_dims: int, channels: int | None) -> None:
    # MONAI takes the first three axes for space, and reads none but a fourth one as channels
    count = shape[3] if len(shape) > 3 else 1
    if min(len(shape), 3) == spatial_dims and len(shape) <= 4 and channels in (None, count) and 0 not in shape:
        return
    expected = f"{spatial_dims} spatial axes" + ("" if channels is None else f" and {_volumes(channels)}")
    raise UserError(
        f"{path}: found shape {' x '.join(map(str, shape)) or '()'}, expected {expected}; give the scan that this "
        "bundle was made for, or extract or stack volumes or drop spare axes, for example with nibabel"
    )


def _volumes(count: int) -> str:
    return "1 volume" if count == 1 else f"{count} volumes"


def _check_length(path: Path, image: nib.Nifti1Image) -> None:
    offset = int(image.dataobj.offset)  # type: ignore[attr-defined]
    expected = offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if not path.name.lower().endswith(".gz"):
        found = path.stat().st_size
    else:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # gzip ends with the length modulo 2**32: only when that is off is there a need to unpack everything
            if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
                return
        found = _unpacked_length(path, expected)
    if found < expected:
        raise UserError(
            f"{path}: cut short, found {found} bytes of data and expected {expected}; copy or download it again"
        )


def _unpacked_length(path: Path, enough: int) -> int:
    length = 0
    # what could be read before one of these counts
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
        while length < enough and (chunk := file.read(_CHUNK)):
            length += len(chunk)
    return length


def check_voxels(array: np.ndarray | torch.Tensor, path: str | os.PathLike) -> None:
    """Check that voxel values can be worked with.

    Args:
        array: voxels, of any shape.
        path: file that they came from, for the message.

    Raises:
        UserError: when there are no voxels, any that is not finite, or all have the same value.
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


class CheckImaged(MapTransform):
    """Check loaded scans, right after ``EnsureChannelFirstd``: axes, number of channels and voxel values.

    Args:
        keys: entries to check, each of shape (channels, spatial axes...).
        channels: channels expected; None takes any number.
        spatial_dims: spatial axes expected.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        UserError: when called on a scan that is not what was expected; the message names the scan's file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int | None = 1,
        spatial_dims: int = 3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels
        self.spatial_dims = spatial_dims

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
                raise UserError(
                    f"{path}: loaded with {found} channels and {len(spatial)} spatial axes, expected {expected} and "
                    f"{self.spatial_dims}; give the scan that this bundle was made for"
                )
            check_voxels(image, path)
        return d


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


def _brief(error: BaseException, limit: int = 200) -> str:
    """Put an exception's message on one line of at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
