"""Which files make up a scan, channel by channel, and whether they fit what a network takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from monai_pdddpm.data.datalist import present_files
from monai_pdddpm.data.geometry import coverage, largest_shift
from monai_pdddpm.data.headers import ScanHeader, read_header
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.utils.errors import UserError

__all__ = ["Image", "ScanPlan", "plan_scan"]

Image: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike | None]
_SAME_GRID = 0.01  # voxels


@dataclass(frozen=True)
class ScanPlan:
    """What is to be read for one scan.

    Attributes:
        files: one file, or one for each channel; None for a channel of zeros.
        headers: theirs.
        other_grids: channels that have to be resampled to the grid of the first file that is there.
        notes: what a reader of the results should know.
    """

    files: tuple[str | None, ...]
    headers: tuple[ScanHeader | None, ...]
    other_grids: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def plan_scan(image: Image, spec: ScanSpec) -> ScanPlan:
    """Read the headers of a scan, and check them and that they fit together.

    Voxel values are not looked at, see `check_voxels`.

    Args:
        image: a NIfTI, NRRD or MetaImage file or a folder with one DICOM series; or a list with one 3D file or folder
            for each channel, where None, "" and a file that is not there stand for a channel that is missing.
        spec: the scan expected.

    Returns:
        The files to read.

    Raises:
        UserError: when a file is missing (of a list: by ``missing``, always when all are), cannot be read, has other
            axes, or an affine that cannot be right; or when files of a list lie apart from each other.
    """
    spatial_dims, channels, fourth_dimension = spec.spatial_dims, spec.channels, spec.fourth_dimension
    if isinstance(image, (str, os.PathLike)):
        path = str(Path(image).expanduser())
        header = read_header(path)
        _check_axes(path, header, spatial_dims, channels, fourth_dimension)
        return ScanPlan((path,), (header,), notes=header.notes)
    if not isinstance(image, Sequence) or not all(
        entry is None or isinstance(entry, (str, os.PathLike)) for entry in image
    ):
        raise UserError(
            f"image: found {image!r}, expected a path, or a list with one for each channel; fix the data list"
        )
    if fourth_dimension == "time":
        raise UserError(
            f"{image[0] if image else 'image'}: found a list of {len(image)} files, expected one file with the frames "
            "on its fourth axis; stack them, for example with nibabel"
        )
    return _plan_channels(image, spatial_dims, channels, spec.missing, spec.channel_names or {})


def _plan_channels(
    image: Sequence[str | os.PathLike | None],
    spatial_dims: int,
    channels: int | None,
    missing: str,
    names: Mapping[str, str],
) -> ScanPlan:
    labels = [f"channel {i} ({names[str(i)]})" if str(i) in names else f"channel {i}" for i in range(len(image))]
    files = present_files(image)
    case = next((file for file in files if file is not None), None)
    if case is None:
        listed = ", ".join(str(entry) for entry in image if entry) or "none"
        raise UserError(
            f"image: none of the files of a case is there (listed: {listed}), expected one; check dataset_dir"
        )
    if channels not in (None, len(image)):
        expected = ", ".join(names[str(i)] for i in range(channels or 0) if str(i) in names)
        raise UserError(
            f"{case}: found a list of {len(image)} files, expected {channels}, one for each channel"
            f"{f' ({expected})' if expected else ''}; fix the list, with null where a channel is missing"
        )
    headers: list[ScanHeader | None] = []
    others: set[int] = set()
    notes: list[str] = []
    first: ScanHeader | None = None
    first_label = ""
    for i, (file, label) in enumerate(zip(files, labels, strict=True)):
        if file is None:
            if missing == "error":
                gone = f"{image[i]} does not exist" if image[i] else "no file is listed"
                raise UserError(
                    f"{case}: its {label} is missing ({gone}), expected a file for each channel; add it, or take zeros "
                    "in its place with --missing_channels zero"
                )
            headers.append(None)
            notes.append(f"{label} is missing: zeros in its place")
            continue
        header = read_header(file)
        _check_axes(file, header, spatial_dims, 1, "channel")
        headers.append(header)
        notes += [f"{label}: {note}" for note in header.notes]
        if first is None:
            first, first_label = header, label
        elif note := _on_another_grid(file, label, header, first, first_label):
            others.add(i)
            notes.append(note)
    return ScanPlan(tuple(files), tuple(headers), frozenset(others), tuple(notes))


def _on_another_grid(file: str, label: str, header: ScanHeader, first: ScanHeader, first_label: str) -> str:
    """Return a note when a file does not lie on the first one's grid, else nothing."""
    shape, own = ((*one.spatial, 1)[:3] for one in (first, header))
    if header.spatial == first.spatial and largest_shift(first.affine, header.affine, shape) <= _SAME_GRID:
        return ""
    share = coverage(first.affine, shape, header.affine, own)
    if share == 0:
        raise UserError(
            f"{file}: {label} lies nowhere where {first_label} lies, expected scans of one place; register them, or "
            "check that they are of one visit"
        )
    covered = "" if share > 0.995 else f", of which it covers {share:.0%} (zeros elsewhere)"
    return f"{label} lies on another grid: resampled to that of {first_label}{covered}"


def _check_axes(path: str, header: ScanHeader, spatial_dims: int, channels: int | None, fourth_dimension: str) -> None:
    longer = [size for size in header.extra if size != 1]
    count = longer[0] if longer else 1
    time = fourth_dimension == "time"
    fits = len(header.spatial) == spatial_dims and len(longer) <= 1 and 0 not in header.shape
    # NIfTI keeps the fourth axis for time and the fifth for the values of a voxel
    if time and longer:
        fits &= header.extra[0] == count
    elif not time:
        fits &= channels in (None, count)
    if fits:
        return
    expected = f"{spatial_dims} spatial axes"
    if time:
        expected += " and frames on a fourth one"
    elif channels is not None:
        expected += " and 1 volume" if channels == 1 else f" and {channels} volumes"
    else:
        expected += " and one for volumes"
    raise UserError(
        f"{path}: found shape {' x '.join(map(str, header.shape)) or '()'}, expected {expected}; give the scan that "
        "this bundle was made for, or extract or stack volumes or drop spare axes, for example with nibabel"
    )
