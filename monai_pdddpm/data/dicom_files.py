"""The DICOM files of a folder, and the series that they belong to."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monai_pdddpm.utils.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_SUFFIX = ".dcm"
_NO_SCANS = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE")  # modalities, such as our own results
_IGNORED = ("DICOMDIR",)  # the table of contents of a disk is DICOM too
_GROUPS = (  # functional groups with the place of a frame and the meaning of its values
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence"),
    *("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"),
)
_OF_THE_FILE = (  # tags that count files, or describe all frames
    *("NumberOfFrames", "InstanceNumber", "ImagesInAcquisition"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
)
# the first element of a file without preamble: group 2 or 8, then a value representation or a short length
_BARE = re.compile(rb"[\x02\x08]\x00.\x00(?:[A-Z]{2}|..\x00\x00)|\x00[\x02\x08]\x00.[A-Z]{2}", re.DOTALL)


def require_dicom(*packages: str) -> None:
    """Check that the optional packages for DICOM can be imported.

    Args:
        packages: beside pydicom.

    Raises:
        UserError: when one is missing, or too old for another.
    """
    try:
        for name in ("pydicom", *packages):
            __import__(name)
    except ImportError as error:
        raise UserError(
            f"DICOM: found no usable highdicom and pydicom ({error}), expected both; pip install highdicom pydicom"
        ) from error


def find_series(root: str | os.PathLike, own: bool = True) -> list[str]:
    """Find the DICOM series below a folder, at any depth.

    Args:
        root: the folder.
        own: include a series whose slices lie in the folder itself.

    Returns:
        A folder for each series: a subfolder of ``root`` with one series stands for it, however deep its slices lie;
        of several series, each has the first folder with its slices. Folders that continue the series of ``root`` are
        left out. A folder that cannot be read is listed too, so that reading it fails this case alone; beside a single
        series, the subfolder of ``root`` stands for both, since the folder may hold slices of it.

    Raises:
        UserError: when the folder cannot be listed, or its own slices cannot be read or belong to several series.
    """
    root = Path(os.path.abspath(root))  # "." has no name
    found: list[Path] = []
    uid = None
    if own and (slices := list(_scans_in(root))):
        uid = check_one_series(root, [header for _, header in slices])
        found.append(root)
    for folder in (path for path in _entries(root) if path.is_dir() and not path.name.startswith(".")):
        below: dict[str, Path] = {}
        unreadable: list[Path] = []
        for inner, its_uid in _folders_with_slices(folder, unreadable):
            below.setdefault(its_uid, inner)
        if uid is not None:
            below.pop(uid, None)
        several = len(below) > 1 or not (below or unreadable)
        found += [*below.values(), *unreadable] if several else [folder]
    return [str(folder) for folder in found]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _files_in(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file() and path.name not in _IGNORED]


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            head = content.read(132)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    return head[128:] == b"DICM" or _BARE.match(head) is not None


def read_slice_header(file: Path) -> Dataset:
    """Read the header of a DICOM file, without pixels.

    Raises:
        UserError: when it is damaged, or pydicom is missing.
    """
    require_dicom()
    from pydicom import dcmread

    try:
        return dcmread(file, stop_before_pixels=True, force=True)
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise not_a_slice(file) from error


def headers_of_frames(header: Dataset) -> list[Dataset]:
    """Return the header of each frame of an enhanced multi-frame file, as if the frame were a file of its own.

    Tags of the functional groups, shared ones first, replace those of the file.

    Args:
        header: of a file; one without a functional group for each frame is returned alone.
    """
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    if len(groups) != int(header.get("NumberOfFrames") or 1):
        return [header]
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())
    frames = []
    plain = copy.deepcopy(header)
    for tag in _OF_THE_FILE:
        plain.pop(tag, None)
    for group in groups:
        frame = copy.deepcopy(plain)
        for macro in (macro for one in (*shared, group) for macro in one):
            if macro.keyword in _GROUPS and macro.value:
                frame.update(macro.value[0])
            elif macro.keyword == "RealWorldValueMappingSequence":
                frame.add(macro)
        if frame.get("FrameType"):
            frame.ImageType = frame.FrameType
        frames.append(frame)
    return frames


def not_a_slice(file: Path) -> UserError:
    """Return the error for a DICOM file without an image."""
    return UserError(
        f"{file}: a DICOM file that cannot be read as an image, expected an intact slice; copy it again, or, if it "
        "is not an image (a report, for example), move it to another folder"
    )


def _scans_in(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """Yield the DICOM files of a folder that may be slices, with their headers."""
    headers = ((file, read_slice_header(file)) for file in _files_in(folder) if _is_dicom(file))
    return ((file, header) for file, header in headers if header.get("Modality") not in _NO_SCANS)


def _folders_with_slices(root: Path, unreadable: list[Path] | None = None) -> list[tuple[Path, str]]:
    """Return the folders that hold slices, ``root`` first, and the series of the first slice of each.

    Folders that cannot be read are added to ``unreadable``.

    Raises:
        UserError: when a folder cannot be read, and ``unreadable`` is None.
    """
    denied: list[Path] = []
    folders = [Path(parent) for parent, *_ in os.walk(root, onerror=lambda error: denied.append(Path(error.filename)))]
    found = []
    for folder in sorted([*folders, *denied]):
        try:
            first = next(_scans_in(folder), None)
        except UserError:
            if unreadable is None:
                raise
            unreadable.append(folder)
        else:
            found += [(folder, str(first[1].get("SeriesInstanceUID", "")))] if first is not None else []
    return found


def slices_of(folder: Path) -> tuple[list[tuple[Path, Dataset]], list[Path]]:
    """Return the files of a folder's series, those in subfolders included, with their headers, and the other files.

    Raises:
        UserError: when there are no slices, or a file was a slice once and is damaged.
    """
    found = _folders_with_slices(folder)
    own = [uid for inner, uid in found if inner == folder]
    folders = [inner for inner, uid in found if not own or uid == own[0]]
    entries = [file for inner in folders for file in _entries(inner)]
    files = [file for file in entries if file.name not in _IGNORED and not file.is_dir()]
    files = [file for file in files if not file.name.startswith(".") or (file.is_file() and _is_dicom(file))]
    headers = ((file, read_slice_header(file)) for file in files if _is_whole(file))
    slices = [(file, header) for file, header in headers if header.get("Modality") not in _NO_SCANS]
    if not slices:
        raise UserError(
            f"{folder}: a folder without slices of a scan, expected a scan or a DICOM series; check dataset_dir"
        )
    return slices, sorted({*files} - {file for file, _ in slices})


def _is_whole(file: Path) -> bool:
    """Return whether a file is a slice, and refuse the remains of a slice, without which a stack may look complete."""
    found = ""
    if file.is_symlink() and not file.exists():
        found = "a broken link"
    elif file.is_file() and file.stat().st_size == 0:
        found = "an empty file"
    elif file.is_file() and _is_dicom(file):
        if not file.name.startswith("."):
            return True
        found = "a hidden DICOM file, as a copy leaves that did not end"
    elif file.suffix.lower() == _SUFFIX:
        found = "no DICOM content, despite its name"
    if found:
        raise UserError(f"{file}: found {found}, expected a slice; copy the series again, or remove the file")
    return False


def check_one_series(folder: Path, headers: Sequence[Dataset]) -> str:
    """Return the identifier of the series that all slices of a folder belong to.

    Raises:
        UserError: when there are several.
    """
    uids = list(dict.fromkeys(str(header.get("SeriesInstanceUID", "")) for header in headers))
    if len(uids) > 1:
        raise UserError(
            f"{folder}: found {len(uids)} DICOM series ({', '.join(uids[:3])}{', ...' if len(uids) > 3 else ''}), "
            "expected one; put each in a folder of its own"
        )
    return uids[0]
