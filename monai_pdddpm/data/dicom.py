"""A folder with one DICOM series as one scan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data import ITKReader

from monai_pdddpm.utils.errors import UserError

__all__ = ["Series", "SeriesReader", "has_series", "read_series", "require_one_series"]

_MAGIC, _MAGIC_AT = b"DICM", 128
_SUFFIX = ".dcm"
_NO_SLICES = ("DICOMDIR",)  # the table of contents of a disk is DICOM too
_UID, _POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|000e", "0020|0032", "0020|0037", "0028|0030"
_NEEDED = {_POSITION: "position", _ORIENTATION: "orientation", _PIXEL_SPACING: "pixel spacing"}
_DISTANCES = ("0018|0088", "0018|0050")  # spacing between slices, slice thickness
_UNEVEN = 0.1  # of the distance between two slices
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A DICOM series whose slices form one even stack.

    Attributes:
        files: one for each slice, along the third axis.
        shape: voxels along columns, rows and slices.
        affine: (4, 4), voxel to mm, RAS as NIfTI has it.
    """

    files: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


@dataclass(frozen=True)
class _Slice:
    file: Path
    uid: str
    shape: tuple[int, ...]
    spacing: np.ndarray
    position: np.ndarray
    axes: np.ndarray
    distance: float  # to the next slice, as the header has it


def has_series(folder: str | os.PathLike) -> bool:
    """Tell whether a folder holds at least one DICOM file, known by the letters ``DICM`` and not by its name."""
    return any(_is_dicom(file) for file in _files_in(folder))


def require_one_series(folder: str | os.PathLike) -> None:
    """Check that all DICOM files of a folder are of one series.

    Raises:
        UserError: when they are of several, or one cannot be read.
    """
    _of_one_series(Path(folder), _slices_in(Path(folder)))


def read_series(folder: str | os.PathLike) -> Series:
    """Read the headers of a DICOM series and put its slices in order.

    The third axis of the affine runs from slice to slice, so that a tilted gantry makes a sheared grid, which is where
    the voxels are. ITK's own answer stands them upright and stretches the stack over slices that are missing.

    Args:
        folder: a folder with the files of one series, one slice each, under any names; files that are no DICOM are
            passed over.

    Returns:
        The series.

    Raises:
        UserError: when there are several series, a file cannot be read, is no single grey slice, has no place in
            space, or when slices differ in size or orientation, are missing, or lie at the same place.
    """
    folder = Path(folder)
    slices = _of_one_series(folder, _slices_in(folder))
    first = slices[0]
    for other in slices[1:]:
        for what, one, two in (
            ("size", first.shape, other.shape),
            ("pixel spacing", first.spacing, other.spacing),
            ("orientation", first.axes, other.axes),
        ):
            if np.shape(one) != np.shape(two) or not np.allclose(one, two, rtol=1e-3, atol=1e-3):
                raise UserError(
                    f"{folder}: slices of one series differ in {what} ({first.file.name} and {other.file.name}), "
                    "expected one stack; put each stack in a folder of its own"
                )
    normal = np.cross(first.axes[:, 0], first.axes[:, 1])
    slices = sorted(slices, key=lambda one: (float(one.position @ normal), one.file.name))
    step = _step_between(folder, slices, normal)
    affine = np.eye(4)
    affine[:3] = np.c_[first.axes * first.spacing, step, slices[0].position]
    return Series(
        files=tuple(str(one.file) for one in slices),
        shape=(first.shape[0], first.shape[1], len(slices)),
        affine=_LPS_TO_RAS @ affine,
    )


def _files_in(folder: str | os.PathLike) -> list[Path]:
    try:
        return sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name not in _NO_SLICES)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            return content.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error


def _slices_in(folder: Path) -> list[_Slice]:
    slices = [_read_slice(file) for file in _files_in(folder) if _is_dicom(file)]
    if not slices:
        raise UserError(f"{folder}: a folder without DICOM files, expected a scan or a DICOM series; check dataset_dir")
    _require_whole(folder)
    return slices


def _require_whole(folder: Path) -> None:
    """Check for what was a slice once: without it a stack that lacks its first or last slices looks whole."""
    for file in folder.iterdir():
        if file.name.startswith(".") or file.name in _NO_SLICES or file.is_dir():
            continue
        if file.is_symlink() and not os.path.exists(file):
            found = "a link to nowhere"
        elif not file.is_file():
            continue
        elif file.stat().st_size == 0:
            found = "an empty file"
        elif file.suffix.lower() == _SUFFIX and not _is_dicom(file):
            found = "no DICOM file, whatever its name says"
        else:
            continue
        raise UserError(f"{file}: {found}, expected a slice; copy the series again, or remove the file")


def _read_slice(file: Path) -> _Slice:
    io = itk.GDCMImageIO.New()
    io.SetFileName(str(file))
    try:
        io.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(
            f"{file}: a DICOM file that cannot be read as an image, expected an intact slice; copy it again, or, if it "
            "is none (a report, for example), move it to another folder"
        ) from error
    shape = tuple(int(io.GetDimensions(axis)) for axis in range(3))
    if io.GetNumberOfComponents() != 1 or shape[2] != 1:
        found = f"{shape[2]} frames" if shape[2] != 1 else f"{io.GetNumberOfComponents()} values a voxel"
        raise UserError(
            f"{file}: found {found} in one DICOM file, expected one slice of grey values; convert it to NIfTI, for "
            "example with dcm2niix"
        )
    tags = io.GetMetaDataDictionary()
    missing = [name for tag, name in _NEEDED.items() if not tags.HasKey(tag)]
    if missing:
        raise UserError(
            f"{file}: found no {' and no '.join(missing)} in its DICOM header, expected a slice of a CT or MR scan; "
            "export the original series"
        )
    distances = [_number(tags[tag]) for tag in _DISTANCES if tags.HasKey(tag)]
    return _Slice(
        file=file,
        uid=str(tags[_UID]).strip("\0 ") if tags.HasKey(_UID) else "",
        shape=shape,
        spacing=np.array([io.GetSpacing(axis) for axis in range(2)]),
        position=np.array([io.GetOrigin(axis) for axis in range(3)]),
        axes=np.array([io.GetDirection(axis) for axis in range(2)]).T,
        distance=next((distance for distance in distances if distance > 0), 1.0),
    )


def _number(text: Any) -> float:
    try:
        return float(str(text).strip("\0 "))
    except ValueError:
        return 0.0


def _of_one_series(folder: Path, slices: list[_Slice]) -> list[_Slice]:
    uids = list(dict.fromkeys(one.uid for one in slices))
    if len(uids) > 1:
        raise UserError(
            f"{folder}: found {len(uids)} DICOM series ({', '.join(uids[:3])}{', ...' if len(uids) > 3 else ''}), "
            "expected one; put each in a folder of its own"
        )
    return slices


def _step_between(folder: Path, slices: Sequence[_Slice], normal: np.ndarray) -> np.ndarray:
    """Return the vector in mm from one slice to the next, the same for all of them."""
    if len(slices) == 1:
        return normal * slices[0].distance
    positions = np.array([one.position for one in slices])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    places = 1 + int((gaps > 1e-3).sum())
    if places < len(slices):
        at = int(gaps.argmin())
        raise UserError(
            f"{folder}: found {len(slices)} slices at {places} places ({slices[at].file.name} and "
            f"{slices[at + 1].file.name} lie at the same), expected each slice once; keep one time point or echo in a "
            "folder"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > _UNEVEN * usual:
        at = int(np.abs(gaps - usual).argmax())
        raise UserError(
            f"{folder}: slices are not evenly spaced, found {gaps[at]:.4g} mm between {slices[at].file.name} and "
            f"{slices[at + 1].file.name} and {usual:.4g} mm elsewhere, expected no slice missing or doubled; export or "
            "copy the series again"
        )
    return step


class SeriesReader(ITKReader):
    """MONAI's ``ITKReader`` for one series, with the slices and the affine that `read_series` found.

    ITK takes the type of all voxels from the first file, which cuts off decimals where slices have slopes of their
    own (PET). Here voxels are read as float32.

    Args:
        series: what is to be read, whatever file name `read` is called with.
    """

    def __init__(self, series: Series) -> None:
        super().__init__()
        self.series = series

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Return the stack as an ITK image."""
        return itk.imread(list(self.series.files), pixel_type=itk.F)

    def _get_affine(self, img: Any, lps_to_ras: bool = True) -> np.ndarray:
        return self.series.affine.copy()
