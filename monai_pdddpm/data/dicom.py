"""A folder with one DICOM series as one scan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_pdddpm.data.dicom_files import (
    check_one_series,
    headers_of_frames,
    not_a_slice,
    require_dicom,
    slices_of,
)
from monai_pdddpm.utils.errors import UserError, printable

if TYPE_CHECKING:
    from pydicom import Dataset

_NEEDED = {  # and how many numbers
    "ImagePositionPatient": ("position", 3),
    "ImageOrientationPatient": ("orientation", 6),
    "PixelSpacing": ("pixel spacing", 2),
}
_NOT_A_SLICE = ("LOCALIZER", "MOSAIC", "SCREEN SAVE")  # in the image type
_PROCESSED = ("DERIVED", "SECONDARY")
_OF_ALL_SLICES = {
    **{"PatientID": "patient", "StudyInstanceUID": "study", "FrameOfReferenceUID": "frame of reference"},
    **{"Modality": "modality", "ImageType": "image type", "EchoNumbers": "echo"},
    **{"RescaleType": "kind of values", "Units": "unit of values"},
}
_IN_ALL_OR_NONE = {  # without which the same stored number is another value
    **{"RescaleSlope": "rescale slope", "ModalityLUTSequence": "table of values"},
    "PixelPaddingValue": "padding value",
}
_NOTES = (
    ("BurnedInAnnotation", "YES", "text is burned into its pixels (tag 0028,0301)"),
    ("LossyImageCompression", "01", "it was compressed with loss (tag 0028,2110)"),
)
_NOT_PERPENDICULAR = 0.01  # of the cosine between rows and columns, and of their lengths from 1
_UNEVEN = 0.1  # of the distance between two slices
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A DICOM series whose slices form an even stack.

    Attributes:
        files: the file of each slice, along the third axis.
        frames: the frame of each slice in its file, from 0.
        headers: that of each slice, without pixels.
        shape: voxels along columns, rows and slices.
        affine: (4, 4), voxel to mm, RAS as in NIfTI. Its third axis runs from slice to slice, so that a tilted gantry
            gives a sheared grid, which is where the voxels are.
        notes: remarks for the reader of the results.
    """

    files: tuple[str, ...]
    frames: tuple[int, ...]
    headers: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    notes: tuple[str, ...] = ()


def read_series(folder: str | os.PathLike) -> Series:
    """Read the headers of a DICOM series and sort its slices by position.

    Args:
        folder: a folder with the slices of one series, one in a file or as frames of an enhanced file, under any names;
            slices of the same series in subfolders belong to it. Without slices of its own, its subfolders hold one
            series. Other files are ignored.

    Returns:
        The series.

    Raises:
        UserError: when there are several series; when a file cannot be read, is not a single slice of intensities, or
            has no position; when slices differ in size or orientation, are missing, or lie at the same place.
    """
    require_dicom()
    folder = Path(folder)
    of_files, others = slices_of(folder)
    check_one_series(folder, [header for _, header in of_files])
    found: list[tuple[Path, int, Dataset]] = []
    for file, of_file in of_files:
        try:
            for frame, header in enumerate(headers_of_frames(of_file)):
                _check_slice(file, header)
                _check_place(file, header)
                _complete_rescale(header)
                found.append((file, frame, header))
        except UserError:
            raise
        except Exception as error:  # pydicom decodes a value when it is accessed
            raise not_a_slice(file) from error
    (first_file, _, first), *rest = found
    for file, _, other in rest:
        for what, tag in (
            ("size", "Rows"),
            ("size", "Columns"),
            ("pixel spacing", "PixelSpacing"),
            ("orientation", "ImageOrientationPatient"),
        ):
            if not np.allclose(_numbers(first, tag), _numbers(other, tag), rtol=1e-3, atol=1e-3):
                raise UserError(
                    f"{folder}: slices of one series differ in {what} ({first_file.name} and {file.name}), expected "
                    "one stack; put each stack in a folder of its own"
                )
        for tag, what in _OF_ALL_SLICES.items():
            values = [str(header.get(tag) or "none") for header in (first, other)]
            if values[0] != values[1]:
                raise UserError(
                    f"{folder}: found slices of one series with another {what} ({printable(', '.join(values))} in "
                    f"{first_file.name} and {file.name}), expected one; put each in a folder of its own"
                )
    for tag, what in _IN_ALL_OR_NONE.items():
        lacking = [file.name for file, _, header in found if header.get(tag) is None]
        if lacking and len(lacking) < len(found):
            raise UserError(
                f"{folder}: found no {what} in {len(lacking)} of {len(found)} slices ({printable(lacking[0])}), "
                "expected it in all or none; export the series again"
            )
    axes = _numbers(first, "ImageOrientationPatient").reshape(2, 3).T
    normal = np.cross(axes[:, 0], axes[:, 1])
    found.sort(key=lambda one: (float(_numbers(one[2], "ImagePositionPatient") @ normal), one[0].name, one[1]))
    files, frames, headers = zip(*found, strict=True)
    affine = np.eye(4)
    affine[:3, :2] = axes * _numbers(first, "PixelSpacing")[::-1]  # the distance between rows comes first in the tag
    names = [f"frame {frame + 1}" if any(frames) else file.name for file, frame in zip(files, frames, strict=True)]
    affine[:3, 2] = _step(folder, names, headers, normal)
    affine[:3, 3] = _numbers(headers[0], "ImagePositionPatient")
    notes = list(_check_numbers(folder, headers))
    notes += [note for tag, value, note in _NOTES if any(str(header.get(tag)) == value for header in headers)]
    if any("RealWorldValueMappingSequence" in header for header in headers):
        notes.append("its real-world values were not used, its rescale slope or table was")
    if kinds := set(_image_type(first)) & set(_PROCESSED):
        notes.append(f"its image type is {' and '.join(sorted(kinds))}: its values were computed, not acquired")
    if others:
        listed = ", ".join(printable(file.name) for file in others[:3])
        more = f", ... ({len(others)} in all)" if len(others) > 3 else ""
        notes.append(f"files beside its slices hold none and were not used: {listed}{more}")
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Series(tuple(map(str, files)), frames, headers, shape, _LPS_TO_RAS @ affine, tuple(notes))


def _check_slice(file: Path, header: Dataset) -> None:
    """Check that a file holds one slice whose stored values are intensities."""
    if "Rows" not in header or "Columns" not in header:
        raise not_a_slice(file)
    frames, values = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel", 1))
    kinds = [kind for kind in _image_type(header) if kind in _NOT_A_SLICE]
    bits = int(header.get("BitsStored") or 0)
    meaning = header.get("PhotometricInterpretation", "MONOCHROME2")
    found = ""
    if frames != 1 or values != 1:
        found = f"{frames} frames" if frames != 1 else f"{values} values a voxel"
    elif kinds:
        found = f"an image of the type {kinds[0]}"
    elif getattr(header.get((0x0019, 0x0010)), "value", "") == "SIEMENS MR HEADER" and (0x0019, 0x100A) in header:
        found = "a mosaic of slices"
    elif bits and int(header.get("HighBit", bits - 1)) != bits - 1:
        found = f"{bits} bits a voxel with the highest at {header.HighBit}"
    elif meaning != "MONOCHROME2":
        found = f"pixels of the kind {meaning}"
    elif float(1 if header.get("RescaleSlope") is None else header.RescaleSlope) == 0:
        found = "a rescale slope of 0"
    elif "RealWorldValueMappingSequence" in header and not (
        header.get("RescaleSlope") or header.get("ModalityLUTSequence")
    ):
        found = "real-world values without a rescale slope"
    if found:
        raise UserError(
            f"{file}: found {found} in one DICOM file, expected one slice of intensities; convert it to NIfTI, for "
            "example with dcm2niix, or move it to another folder"
        )
    if missing := [name for tag, (name, _) in _NEEDED.items() if not header.get(tag)]:
        raise UserError(
            f"{file}: found no {' and no '.join(missing)} in its DICOM header, expected a slice of a CT or MR scan; "
            "export the original series"
        )


def _image_type(header: Dataset) -> list[str]:
    kinds = header.get("ImageType") or ()
    return [kind.strip().upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)]


def _check_place(file: Path, header: Dataset) -> None:
    """Check that the numbers of a slice's place are as many as they should be, and its axes perpendicular."""
    for tag, (name, count) in _NEEDED.items():
        numbers = _numbers(header, tag)
        if numbers.size != count or not np.isfinite(numbers).all():
            raise UserError(
                f"{file}: found {printable(str(header[tag].value))} as its {name}, expected {count} numbers; export "
                "the series again"
            )
    axes = _numbers(header, "ImageOrientationPatient").reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > _NOT_PERPENDICULAR:
        raise UserError(
            f"{file}: found {printable(str(header.ImageOrientationPatient))} as its orientation, expected two "
            "perpendicular axes of length 1; export the series again"
        )


def _complete_rescale(header: Dataset) -> None:
    """Add the slope or the intercept where a slice has one of them alone, which pydicom ignores."""
    if "RescaleSlope" in header or "RescaleIntercept" in header:
        for tag, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
            if header.get(tag) is None:
                setattr(header, tag, usual)


def _numbers(header: Dataset, tag: str) -> np.ndarray:
    return np.asarray(header[tag].value, dtype=float)


def _step(folder: Path, names: Sequence[str], headers: Sequence[Dataset], normal: np.ndarray) -> np.ndarray:
    """Return the vector in mm (LPS) from one slice to the next, the same for all of them."""
    if len(names) == 1:
        distances = [headers[0].get("SpacingBetweenSlices"), headers[0].get("SliceThickness")]
        return normal * next((float(distance) for distance in distances if distance and distance > 0), 1.0)
    positions = np.array([_numbers(header, "ImagePositionPatient") for header in headers])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    places = 1 + int((gaps > 1e-3).sum())
    if places < len(names):
        at = int(gaps.argmin())
        raise UserError(
            f"{folder}: found {len(names)} slices at {places} places ({names[at]} and {names[at + 1]} lie at "
            "the same), expected each slice once; keep one time point or echo in a folder"
        )
    step = (positions[-1] - positions[0]) / (len(names) - 1)
    even = positions[0] + np.arange(len(names))[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > _UNEVEN * usual:
        at = int(np.abs(gaps - usual).argmax())
        raise UserError(
            f"{folder}: slices are not evenly spaced, found {gaps[at]:.4g} mm between {names[at]} and "
            f"{names[at + 1]} and {usual:.4g} mm elsewhere, expected no slice missing or doubled; export or "
            "copy the series again"
        )
    return step


def _check_numbers(folder: Path, headers: Sequence[Dataset]) -> tuple[str, ...]:
    """Compare the number of slices with the tags that count them; slices missing at an end leave no gap in space."""
    numbers = sorted({int(header.InstanceNumber) for header in headers if header.get("InstanceNumber") is not None})
    steps = np.diff(numbers)
    if len(numbers) == len(headers) > 2 and steps.min() != steps.max():
        at = int(steps.argmax())
        raise UserError(
            f"{folder}: found no slices between the instance numbers {numbers[at]} and {numbers[at + 1]}, expected a "
            "complete series; export or copy it again, or convert the part to NIfTI, for example with dcm2niix"
        )
    remedy = "export or copy the series again, or convert the part to NIfTI, for example with dcm2niix"
    parts = len({header.get("InConcatenationNumber") for header in headers})
    if parts < (whole := max(int(header.get("InConcatenationTotalNumber") or 0) for header in headers)):
        raise UserError(f"{folder}: found {parts} parts of a concatenation, expected {whole} files; {remedy}")
    counted = int(headers[0].get("NumberOfSlices") or 0)
    acquired = int(headers[0].get("ImagesInAcquisition") or 0)
    if len(numbers) == len(headers) and numbers[-1] <= acquired:  # the acquisition is this series alone
        counted = max(counted, acquired)
    if counted > len(headers):
        raise UserError(f"{folder}: found {len(headers)} slices, expected {counted} as their headers count; {remedy}")
    before = numbers[0] - 1 if numbers and len(headers) > 1 else 0
    if before > 0 and before % len(headers):  # a multiple is a part, such as a time point, that was put aside
        raise UserError(
            f"{folder}: found instance numbers from {numbers[0]}, expected the {before} slices before; {remedy}"
        )
    if acquired > len(headers):
        return (f"its headers count {acquired} images and {len(headers)} were found: the series may be incomplete",)
    if before > 0:
        return (f"its instance numbers begin at {numbers[0]}: the series may be incomplete",)
    return ()
