"""A label map as DICOM Segmentation, beside the series that it belongs to."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from monai_pdddpm import __version__
from monai_pdddpm.data.datalist import case_name
from monai_pdddpm.data.dicom import has_series, read_series
from monai_pdddpm.transforms.case_summary import foreground_labels
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

Code = tuple[str, str, str]
# so wide that they are right for any label; the category is 3D Slicer's, DICOM's own list now has 91723000 for it
DEFAULT_CODES: Mapping[str, Code] = {
    "category": ("123037004", "SCT", "Anatomical Structure"),
    "type": ("85756007", "SCT", "Tissue"),
}
TOLERANCE_VOXELS = 0.1
_NAME = "monai_pdddpm"
_LONGEST = 64  # of a DICOM Long String
_LONGEST_SHORT = 16  # of a DICOM Short String
# highdicom reads these of the source, which may be empty; series made anonymous often lack them altogether
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def require_highdicom() -> None:
    """Check that highdicom and pydicom can be imported.

    Raises:
        UserError: when one of the two is missing or too old for the other.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"DICOM SEG: found no usable highdicom and pydicom ({error}), expected both; pip install highdicom pydicom"
        ) from error


def segment_codes(
    labels: Mapping[int, str], dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None
) -> dict[int, dict[str, Code]]:
    """Category and type of each label as DICOM codes.

    Args:
        labels: names of the foreground labels by value.
        dicom_codes: {"1": {"category": [value, scheme, meaning], "type": [value, scheme, meaning]}}; what is left out is
            of the category Anatomical Structure and the type Tissue (`DEFAULT_CODES`).

    Returns:
        {label: {"category": (value, scheme, meaning), "type": ...}} for every label.

    Raises:
        UserError: where dicom_codes are given for no label, or one is not three texts that DICOM can hold.
    """
    given = {str(key): value for key, value in (dicom_codes or {}).items()}
    strange = [key for key in given if key not in map(str, labels)]
    if strange:
        raise UserError(
            f"dicom_codes: found {strange[0]!r}, expected numbers of labels ({', '.join(map(str, labels))}); fix the "
            "configuration"
        )
    return {index: _codes_of(index, given.get(str(index))) for index in labels}


def _codes_of(index: int, given: Any) -> dict[str, Code]:
    """Codes of one label, the default where nothing is given."""
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


def series_folder(file: str) -> Path | None:
    """Folder of the DICOM series that a case was read from.

    Args:
        file: what the metadata call ``filename_or_obj``: the folder, also with ``.dcm`` after it, as
            :class:`monai_pdddpm.data.LoadScan` names folders with a dot; or a file of the series.

    Returns:
        The folder; None where the case was read from something else, or it is gone.
    """
    from pydicom.misc import is_dicom

    if not file:
        return None
    if not os.path.exists(file):
        file = file.removesuffix(".dcm")
    path = Path(file)
    if path.is_file() and is_dicom(path):
        return path.parent
    return path if path.is_dir() and has_series(path) else None


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float)


def _distance(slices: Sequence[Dataset]) -> float:
    """Distance between the first two slices in mm, 1 where there is one only."""
    places = [_numbers(header.ImagePositionPatient) for header in slices[:2]]
    return round(float(np.linalg.norm(places[-1] - places[0])), 6) or 1.0


def slice_affine(header: Dataset) -> np.ndarray:
    """Where the pixels of a slice lie.

    Args:
        header: of the slice.

    Returns:
        (4, 3), which maps (column, row, 1) to (x, y, z, 1) in mm, x to the right, y to the front, z up (RAS).

    Source: DICOM PS3.3, C.7.6.2.1.1, equation C.7.6.2.1-1, whose own axes point left, back and up (LPS).
    """
    directions = _numbers(header.ImageOrientationPatient).reshape(2, 3)
    between_rows, between_columns = _numbers(header.PixelSpacing)
    affine = np.zeros((4, 3))
    affine[:3, 0] = directions[0] * between_columns
    affine[:3, 1] = directions[1] * between_rows
    affine[:, 2] = [*_numbers(header.ImagePositionPatient), 1.0]
    return _RAS_FROM_LPS @ affine


def cut_to_slices(
    label_map: np.ndarray, affine: np.ndarray, slices: Sequence[Dataset], source: str | os.PathLike
) -> np.ndarray:
    """Cut a label map into the slices of its series, by place and not by order.

    Args:
        label_map: (X, Y, Z).
        affine: (4, 4), voxel to mm in RAS.
        slices: headers of the slices, along their normal.
        source: what the slices were read from, for messages.

    Returns:
        (slices, rows, columns), a frame for each slice.

    Raises:
        UserError: where slices and pixels are not as many as the map's voxels, or one lies more than 1/10 of a voxel
            beside its own.
    """
    # the map's axes as seen along a row of pixels, along a column, and along the slices' normal
    along = slice_affine(slices[0])[:3, :2]
    row, column = (along / np.linalg.norm(along, axis=0)).T
    first = np.eye(4)
    first[:3, :3] = np.column_stack([row, column, np.cross(row, column)])
    turn = io_orientation(np.linalg.inv(first) @ affine)
    turned, to_grid = apply_orientation(label_map, turn), np.linalg.inv(affine @ inv_ornt_aff(turn, label_map.shape))
    columns, rows, planes = turned.shape
    sizes = {(int(header.Rows), int(header.Columns)) for header in slices}
    if len(slices) != planes or sizes != {(rows, columns)}:
        listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise UserError(
            f"{source}: found {len(slices)} DICOM slices of {listed} pixels, expected {planes} of {rows} x {columns} "
            "as in the segmentation; restore slices that are missing, and move away what does not belong to them"
        )
    corners = np.array([[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1], [1, 1, 1, 1]])
    shifts = [
        ((to_grid @ slice_affine(header))[:3] - [[1, 0, 0], [0, 1, 0], [0, 0, plane]]) @ corners
        for plane, header in enumerate(slices)
    ]
    off = float(np.abs(shifts).max())
    if not off <= TOLERANCE_VOXELS:
        raise UserError(
            f"{source}: its DICOM slices lie up to {off:.2g} voxels beside the segmentation's grid, expected "
            f"{TOLERANCE_VOXELS} at most; check the series for slices that are missing, double or uneven"
        )
    return np.ascontiguousarray(turned.T)


class SaveDicomSegd(MapTransform):
    """Write a case's label map as DICOM Segmentation, ``<output_dir>/<case>/<case>_seg.dcm``.

    One binary segment for each foreground label, in the order of their numbers, on the slices of the series that the
    case was read from: the same patient, study and frame of reference, and for each frame the slice that it lies on.
    Frames without a voxel of a segment are left out; where no voxel has any label, all are written, empty. Cases that
    were not read from a DICOM series get a warning and no file. The file appears complete or not at all. It is a new
    instance of a new series every time, as DICOM asks.

    It needs highdicom and pydicom: ``pip install highdicom pydicom``. In JSON::

        {"_target_": "monai_pdddpm.transforms.SaveDicomSegd", "write": "@write_dicom_seg", "keys": "seg",
         "output_dir": "@output_dir", "labels": "@labels", "dicom_codes": "@dicom_codes"}

    Args:
        keys: the key of the label map, a MetaTensor (1, X, Y, Z) on the grid of its source, with an affine in mm (RAS)
            and `filename_or_obj`, see `series_folder`.
        output_dir: one folder a case below it.
        labels: label value -> name, the background (0) included or not.
        dicom_codes: what the labels are, see `segment_codes`.
        write: false turns the transform off, and asks for no package.
        allow_missing_keys: pass data without the key.

    Raises:
        UserError: at construction, where a package is missing, or labels or dicom_codes do not fit; at a call, where series
            and label map do not fit each other, or the disk does not take the file.
    """

    def __init__(
        self,
        keys: KeysCollection = "seg",
        *,
        output_dir: str | os.PathLike,
        labels: Mapping[str, str],
        dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        write: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.write = write
        if not write:
            return
        require_highdicom()
        self.labels = dict(sorted(foreground_labels(labels).items()))
        for index, name in self.labels.items():
            if not name or len(name) > _LONGEST or "\\" in name:
                raise UserError(
                    f"labels: found {name!r} for label {index}, expected 1 to {_LONGEST} characters without a "
                    "backslash for a DICOM SEG; shorten it"
                )
        self.dicom_codes = segment_codes(self.labels, dicom_codes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file of one case; the data come back as they are."""
        d = dict(data)
        if self.write:
            for key in self.key_iterator(d):
                self._save(d[key], key)
        return d

    def _save(self, seg: Any, key: Hashable) -> None:
        file = str(seg.meta.get("filename_or_obj") or "") if isinstance(seg, MetaTensor) else ""
        source = series_folder(file)
        if source is None:
            logger.warning("%s: no DICOM SEG written, the case was not read from a DICOM series", file or key)
            return
        from pydicom import dcmread

        slices = [dcmread(path, stop_before_pixels=True) for path in read_series(source).files]
        frames = cut_to_slices(self._segments(seg, key, source), np.asarray(seg.affine, dtype=float), slices, source)
        instance = self._instance(frames, slices, source)
        case = case_name(file)
        folder = self.output_dir / case
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / f"{case}_seg.dcm") as part:
            instance.save_as(part)

    def _segments(self, seg: MetaTensor, key: Hashable, source: Path) -> np.ndarray:
        """Take the label map as (X, Y, Z) with the numbers of segments, 1, 2, ..., in the place of the labels' own."""
        values = seg.as_tensor().cpu().numpy()
        if values.ndim != 4 or len(values) != 1:
            raise UserError(
                f"{source}: {key!r} has shape {values.shape}, expected (1, X, Y, Z) for a DICOM SEG; leave out "
                "--write_dicom_seg"
            )
        segments = np.zeros(values.shape[1:], dtype=np.min_scalar_type(len(self.labels)))
        for number, index in enumerate(self.labels, start=1):
            segments[values[0] == index] = number
        if ((segments == 0) & (values[0] != 0)).any():
            raise UserError(
                f"{source}: {key!r} holds other values than 0 and those of labels "
                f"({', '.join(map(str, self.labels))}); name them in labels"
            )
        return segments

    def _instance(self, frames: np.ndarray, slices: Sequence[Dataset], source: Path) -> Dataset:
        """Describe the frames as a DICOM Segmentation."""
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
                segmented_property_category=CodedConcept(*self.dicom_codes[index]["category"]),
                segmented_property_type=CodedConcept(*self.dicom_codes[index]["type"]),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
            for number, (index, name) in enumerate(self.labels.items(), start=1)
        ]
        for name in _MAY_BE_EMPTY:
            if name not in slices[0]:
                setattr(slices[0], name, None)
        if not slices[0].get("SliceThickness"):  # which a SEG must tell
            slices[0].SliceThickness = _distance(slices)
        try:
            return hd.seg.Segmentation(
                source_images=slices,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                series_instance_uid=hd.UID(),
                series_number=int(slices[0].get("SeriesNumber") or 0) + 1000,
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
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # highdicom's, of headers that lack something
            raise UserError(
                f"{source}: highdicom cannot make a SEG of this series ({error}); fix its headers, or leave out "
                "--write_dicom_seg"
            ) from error
