"""A label map as DICOM Segmentation, beside the series that it belongs to."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from monai_pdddpm import __version__
from monai_pdddpm.data.dicom import Series, read_series
from monai_pdddpm.data.dicom_files import read_slice_header, require_dicom
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

logger = logging.getLogger(__name__)

Code = tuple[str, str, str]
# broad enough for any label; the category is 3D Slicer's, DICOM's own list now has 91723000 for it
DEFAULT_CODES: Mapping[str, Code] = {
    "category": ("123037004", "SCT", "Anatomical Structure"),
    "type": ("85756007", "SCT", "Tissue"),
}
_TOLERANCE = 0.1  # voxels
_NAME = "monai_pdddpm"
_LONGEST = 64  # characters of a DICOM Long String
_LONGEST_SHORT = 16  # characters of a DICOM Short String
# highdicom reads these of the source; they may be empty, but anonymized series often lack them
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def segment_codes(
    labels: Mapping[int, str], dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None
) -> dict[int, dict[str, Code]]:
    """Return category and type of each label as DICOM codes.

    Args:
        labels: names of the foreground labels by value.
        dicom_codes: {"1": {"category": [value, scheme, meaning], "type": [value, scheme, meaning]}}; missing entries
            are those of `DEFAULT_CODES`.

    Returns:
        {label: {"category": (value, scheme, meaning), "type": ...}} for every label.

    Raises:
        UserError: when a key is not a label, or a code is not three texts that DICOM can hold.
    """
    given = {str(key): value for key, value in (dicom_codes or {}).items()}
    if unknown := [key for key in given if key not in map(str, labels)]:
        raise UserError(
            f"dicom_codes: found {unknown[0]!r}, expected numbers of labels ({', '.join(map(str, labels))}); fix the "
            "configuration"
        )
    return {index: _codes_of(index, given.get(str(index))) for index in labels}


def _codes_of(index: int, given: Any) -> dict[str, Code]:
    if given is not None and (not isinstance(given, Mapping) or set(given) - set(DEFAULT_CODES)):
        raise UserError(f"dicom_codes: found {given!r} for label {index}, expected 'category' and 'type'; fix it")
    found = dict(DEFAULT_CODES)
    for kind, code in (given or {}).items():
        texts = (
            isinstance(code, list | tuple) and len(code) == 3 and all(isinstance(part, str) and part for part in code)
        )
        if not texts or len(code[1]) > _LONGEST_SHORT or len(code[2]) > _LONGEST:
            raise UserError(
                f"dicom_codes: found {code!r} as {kind} of label {index}, expected [value, scheme, meaning] such as "
                f"{list(DEFAULT_CODES[kind])}; fix it"
            )
        found[kind] = (code[0], code[1], code[2])
    return found


def series_frames(label_map: np.ndarray, affine: np.ndarray, series: Series, source: str | os.PathLike) -> np.ndarray:
    """Cut a label map into the slices of its series, by position.

    Args:
        label_map: (X, Y, Z), with axes in any order and direction.
        affine: (4, 4), voxel to mm in RAS.
        series: the series.
        source: its folder, for messages.

    Returns:
        (slices, rows, columns), a frame for each slice.

    Raises:
        UserError: when the label map has another number of voxels than the series, or lies more than a tenth of a voxel
            from it.
    """
    turn = io_orientation(np.linalg.solve(series.affine, affine))
    turned = apply_orientation(label_map, turn)
    columns, rows, slices = series.shape
    if turned.shape != series.shape:
        raise UserError(
            f"{source}: found {slices} DICOM slices of {rows} x {columns} pixels, expected {turned.shape[2]} of "
            f"{turned.shape[1]} x {turned.shape[0]} as in the segmentation; restore missing slices, and move other "
            "files away"
        )
    corners = np.array([(x, y, z, 1) for x in (0, columns - 1) for y in (0, rows - 1) for z in (0, slices - 1)])
    to_series = np.linalg.solve(series.affine, affine @ inv_ornt_aff(turn, label_map.shape))
    shift = float(np.abs((to_series - np.eye(4)) @ corners.T).max())
    if not shift <= _TOLERANCE:
        raise UserError(
            f"{source}: its DICOM slices lie up to {shift:.2g} voxels beside the segmentation's grid, expected "
            f"{_TOLERANCE} at most; check the series for missing, duplicate or uneven slices"
        )
    return np.ascontiguousarray(turned.T)


def check_dicom_seg(labels: Mapping[int, str]) -> None:
    """Check that a DICOM SEG with these labels can be written.

    Args:
        labels: names of the foreground labels by value.

    Raises:
        UserError: when highdicom or pydicom is missing, or a name does not fit.
    """
    require_dicom("highdicom")
    for index, name in labels.items():
        if not name or len(name) > _LONGEST or "\\" in name:
            raise UserError(
                f"labels: found {name!r} for label {index}, expected 1 to {_LONGEST} characters without a backslash "
                "for a DICOM SEG; shorten it"
            )


def write_dicom_seg(
    path: Path, seg: MetaTensor, source: str, labels: Mapping[int, str], codes: Mapping[int, Mapping[str, Code]]
) -> None:
    """Write a label map as DICOM Segmentation with one binary segment for each label, in the order of their numbers.

    It lies on the slices of the series: the same patient, study and frame of reference, and for each frame a reference
    to its slice. Frames without a voxel of a segment are left out; an empty label map keeps all frames, empty. The file
    appears complete or not at all, and is a new instance of a new series every time, as DICOM demands.

    Args:
        path: the file.
        seg: (1, X, Y, Z) on the grid of the series, with an affine in mm (RAS).
        source: folder of the series; for anything else a warning is logged and no file is written.
        labels: names of the foreground labels by value.
        codes: meaning of each label, see `segment_codes`.

    Raises:
        UserError: when series and label map do not fit each other, or the file cannot be written.
    """
    if not os.path.isdir(source):
        logger.warning("%s: no DICOM SEG written, the case was not read from a DICOM series", source)
        return
    series = read_series(source)
    segments = _segments(seg.as_tensor().cpu().numpy(), list(labels), source)
    frames = series_frames(segments, np.asarray(seg.affine, dtype=float), series, source)
    instance = _instance(frames, series, source, labels, codes)
    with atomic_write(path) as part:
        instance.save_as(part)


def _segments(values: np.ndarray, labels: Sequence[int], source: str) -> np.ndarray:
    """Return the label map, (X, Y, Z), with label values replaced by the numbers of the segments, 1, 2, ..."""
    segments = np.zeros(values.shape[1:], dtype=np.min_scalar_type(len(labels)))
    for number, index in enumerate(labels, start=1):
        segments[values[0] == index] = number
    if ((segments == 0) & (values[0] != 0)).any():
        raise UserError(
            f"{source}: its segmentation holds other values than 0 and those of labels "
            f"({', '.join(map(str, labels))}); name them in labels"
        )
    return segments


def _instance(
    frames: np.ndarray,
    series: Series,
    source: str,
    labels: Mapping[int, str],
    codes_of: Mapping[int, Mapping[str, Code]],
) -> Any:
    """Return the frames as a ``highdicom.seg.Segmentation``."""
    import highdicom as hd
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=_NAME, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=CodedConcept(*codes_of[index]["category"]),
            segmented_property_type=CodedConcept(*codes_of[index]["type"]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (index, name) in enumerate(labels.items(), start=1)
    ]
    sources = list(series.headers)
    if any(series.frames):  # highdicom takes the one file, and its frames in their order there
        sources = [read_slice_header(Path(series.files[0]))]
        frames = frames[np.argsort(series.frames)]
    first = sources[0]
    for name in _MAY_BE_EMPTY:
        if name not in first:
            setattr(first, name, None)
    if not first.get("SliceThickness"):  # required in a SEG
        first.SliceThickness = round(float(np.linalg.norm(series.affine[:3, 2])), 6)
    try:
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=hd.UID(),
            series_number=int(first.get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=_NAME,
            manufacturer_model_name=_NAME,
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description=f"Segmentation by {_NAME}",
            specific_character_set="ISO_IR 192",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of headers that lack something
        raise UserError(
            f"{source}: highdicom cannot make a SEG of this series ({error}); fix its headers, or leave out "
            "dicom-seg of --outputs"
        ) from error
