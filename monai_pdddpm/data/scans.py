"""The files of a scan, channel by channel, and whether they fit the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from monai_pdddpm.data.case import Case, Image
from monai_pdddpm.data.geometry import coverage, largest_shift
from monai_pdddpm.data.headers import ScanHeader, read_header
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.utils.errors import UserError

_SAME_GRID = 0.01  # voxels


@dataclass(frozen=True)
class ScanPlan:
    """The files to read for one scan.

    Attributes:
        case: its name, the files that are there (None for a channel of zeros), and notes on them.
        headers: one for each file.
        other_grids: channels that have to be resampled to the grid of the first file that is there.
    """

    case: Case
    headers: tuple[ScanHeader | None, ...]
    other_grids: frozenset[int] = frozenset()


def plan_scan(image: Image, spec: ScanSpec) -> ScanPlan:
    """Read and check the headers of a scan, without its voxels.

    Args:
        image: a NIfTI, NRRD or MetaImage file or a folder with one DICOM series; or a list with one 3D file or folder
            for each channel, where None, "" and a file that does not exist stand for a missing channel.
        spec: the scan expected.

    Returns:
        The files to read.

    Raises:
        UserError: when a file is missing (in a list, unless ``spec.missing`` allows it), all files are missing, or one
            cannot be read, has other axes or an impossible affine; or when files of a list lie apart.
    """
    case = Case.of(image)
    if isinstance(image, list | tuple) or len(case.files) > 1:
        return _plan_channels(case, spec)
    header = read_header(case.file)
    _check_axes(case.file, header, spec)
    return ScanPlan(replace(case, notes=header.notes), (header,))


def _plan_channels(case: Case, spec: ScanSpec) -> ScanPlan:
    files = case.present_files
    if spec.has_frames:
        raise UserError(
            f"{case.file}: found a list of {len(files)} files, expected one file with the frames on its fourth axis; "
            "stack them, for example with nibabel"
        )
    if not any(files):
        names = ", ".join(file for file in case.files if file) or "none"
        raise UserError(
            f"image: none of the files of a case is there (listed: {names}), expected one; check dataset_dir"
        )
    if spec.channels not in (None, len(files)):
        names = ", ".join((spec.channel_names or {}).values())
        raise UserError(
            f"{case.file}: found a list of {len(files)} files, expected {spec.channels}, one for each channel"
            f"{f' ({names})' if names else ''}; fix the list, with null where a channel is missing"
        )
    one_channel = replace(spec, channels=1)
    headers: list[ScanHeader | None] = []
    others: set[int] = set()
    notes: list[str] = []
    first: ScanHeader | None = None
    first_label = ""
    for i, (file, listed) in enumerate(zip(files, case.files, strict=True)):
        label = spec.channel_label(i)
        if file is None:
            if spec.missing == "error":
                reason = f"{listed} does not exist" if listed else "no file is listed"
                raise UserError(
                    f"{case.file}: its {label} is missing ({reason}), expected a file for each channel; add it, or use "
                    "zeros instead with --missing_channels zero"
                )
            headers.append(None)
            notes.append(f"{label} is missing: zeros in its place")
            continue
        header = read_header(file)
        _check_axes(file, header, one_channel)
        headers.append(header)
        notes += [f"{label}: {note}" for note in header.notes]
        if first is None:
            first, first_label = header, label
        elif note := _on_another_grid(file, label, header, first, first_label):
            others.add(i)
            notes.append(note)
    return ScanPlan(replace(case, files=files, notes=tuple(notes)), tuple(headers), frozenset(others))


def _on_another_grid(file: str, label: str, header: ScanHeader, first: ScanHeader, first_label: str) -> str:
    """Return a note when a file does not lie on the first one's grid, else an empty text."""
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


def _check_axes(path: str, header: ScanHeader, spec: ScanSpec) -> None:
    longer = [size for size in header.extra if size != 1]
    count = longer[0] if longer else 1
    fits = len(header.spatial) == spec.spatial_dims and len(longer) <= 1 and min(header.shape) > 0
    if spec.has_frames:  # NIfTI keeps the fourth axis for time and the fifth for the values of a voxel
        fits &= not longer or header.extra[0] == count
    else:
        fits &= spec.channels in (None, count)
    if fits:
        return
    shape = " x ".join(map(str, header.shape)) or "()"
    if len(header.spatial) < spec.spatial_dims:
        raise UserError(
            f"{path}: found a {len(header.spatial)}D image ({shape}), expected a 3D or 4D scan; stack its slices, for "
            "example with nibabel"
        )
    volumes = {None: " and one for volumes", 1: " and 1 volume"}.get(spec.channels, f" and {spec.channels} volumes")
    if spec.has_frames:
        volumes = " and frames on a fourth one"
    raise UserError(
        f"{path}: found shape {shape}, expected {spec.spatial_dims} spatial axes"
        f"{volumes}; give the scan that this bundle was made for, or extract or stack volumes or drop extra axes, for "
        "example with nibabel"
    )
