"""Write files for viewers and archives beside each case's NIfTI files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS
from monai_pdddpm.data.dicom_seg import check_dicom_seg, segment_codes, write_dicom_seg
from monai_pdddpm.metrics.segmentation import class_names
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.utils.chosen_outputs import chosen_outputs
from monai_pdddpm.visualize.slicer import color_table, scene, snap_labels, write_seg_nrrd

_MAPS = ("entropy", "mutual-information")


class ViewerFiles:
    """Write names, colors and a scene of each case for viewers.

    Files: ``<case>_seg.ctbl`` (color table of 3D Slicer), ``<case>_seg_itksnap.txt`` (label descriptions of ITK-SNAP),
    ``<case>_scene.mrml`` (Slicer scene), ``<case>_seg.seg.nrrd`` (Slicer segmentation), ``<case>_seg.dcm`` (DICOM SEG
    of a case that was read from a DICOM series). A time series has one ``<case>_seg_frame-<t>.seg.nrrd`` per frame and
    no scene.

    Args:
        labels: names by channel index, including the background.
        dicom_codes: codes by channel index, see :func:`monai_pdddpm.data.dicom_seg.segment_codes`.
        outputs: ``scene`` writes color table, label descriptions and scene, ``seg-nrrd`` and ``dicom-seg`` the
            segmentation; see :func:`monai_pdddpm.utils.chosen_outputs.chosen_outputs`.
        values: value of each channel index in the label maps on disk; None for the indices themselves.

    Raises:
        UserError: when ``outputs``, ``labels`` or ``dicom_codes`` are invalid, or a package for DICOM is missing.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        outputs: str | Sequence[str] = "default",
        values: Sequence[int] | None = None,
    ) -> None:
        self.outputs = chosen_outputs(outputs)
        self.names = names = class_names(labels)
        self.dicom_codes = codes = segment_codes(names, dicom_codes)
        if "dicom-seg" in self.outputs:
            check_dicom_seg(names)
        self.values = np.asarray(range(max(names, default=0) + 1) if values is None else values)
        self.labels = {int(self.values[index]): name for index, name in names.items()}
        self.codes = {int(self.values[index]): code for index, code in codes.items()}

    def write(self, item: Mapping[str, Any], case: str, folder: Path) -> None:
        """Write the files of one case after its maps; ``seg``, (1, X, Y, Z[, T]), has channel indices."""
        if "dicom-seg" in self.outputs:
            source = case_of(item["image"].meta).file
            write_dicom_seg(folder / f"{case}_seg.dcm", item["seg"], source, self.names, self.dicom_codes)
        written = self._segmentations(item, case, folder) if "seg-nrrd" in self.outputs else []
        if "scene" in self.outputs:
            write_text(folder / f"{case}_seg.ctbl", color_table(self.labels))
            write_text(folder / f"{case}_seg_itksnap.txt", snap_labels(self.labels))
            if frames_of(item) == 1:
                maps = [name for what in _MAPS if (folder / (name := f"{case}_{what}.nii.gz")).is_file()]
                shown = written[0] if written else None
                text = scene(case, folder.absolute(), _scan_for_scene(item), self.labels, maps, shown)
                write_text(folder / f"{case}_scene.mrml", text)

    def _segmentations(self, item: Mapping[str, Any], case: str, folder: Path) -> list[str]:
        """Write the label map of each frame as ``.seg.nrrd`` and return the names."""
        frames, affine = frames_of(item), np.asarray(item["seg"].affine, dtype=float)
        volumes = self.values[np.asarray(item["seg"])[0].astype(int)]
        names = [f"{case}_seg.seg.nrrd"]
        if frames > 1:
            digits = len(str(frames - 1))
            names = [f"{case}_seg_frame-{t:0{digits}d}.seg.nrrd" for t in range(frames)]
        for volume, name in zip(np.moveaxis(volumes, -1, 0) if frames > 1 else [volumes], names, strict=True):
            write_seg_nrrd(folder / name, volume, affine, self.labels, self.codes)
        return names


def _scan_for_scene(item: Mapping[str, Any]) -> str | None:
    """Return the absolute path of a case's first 3D file; None for a DICOM series or a 4D file."""
    listed = case_of(item["image"].meta).files
    files = [file for file in listed if file]
    if not files or not files[0].lower().endswith(SCAN_EXTENSIONS) or not os.path.isfile(files[0]):
        return None
    return None if len(listed) == 1 and len(item["image"]) > 1 else os.path.abspath(files[0])
