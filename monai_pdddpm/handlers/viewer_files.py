"""Write files for viewers and archives beside each case's NIfTI files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS
from monai_pdddpm.data.dicom_seg import Code, write_dicom_seg
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.visualize.slicer import color_table, scene, snap_labels, write_seg_nrrd

_MAPS = ("entropy", "mutual-information")


def write_viewer_files(
    item: Mapping[str, Any],
    folder: Path,
    outputs: Collection[str],
    names: Mapping[int, str],
    values: Sequence[int],
    codes: Mapping[int, Mapping[str, Code]],
) -> None:
    """Write names, colors and a scene of a case for viewers, after its maps.

    Files: ``<case>_seg.ctbl`` (color table of 3D Slicer), ``<case>_seg_itksnap.txt`` (label descriptions of ITK-SNAP),
    ``<case>_scene.mrml`` (Slicer scene), ``<case>_seg.seg.nrrd`` (Slicer segmentation), ``<case>_seg.dcm`` (DICOM SEG
    of a case that was read from a DICOM series). A time series has one ``<case>_seg_frame-<t>.seg.nrrd`` per frame and
    no scene.

    Args:
        item: the case with ``image`` and ``seg``, (1, X, Y, Z[, T]), which has channel indices.
        folder: of the case's files.
        outputs: ``scene`` writes color table, label descriptions and scene, ``seg-nrrd`` and ``dicom-seg`` the
            segmentation.
        names: by channel index, without the background.
        values: value of each channel index in the label maps on disk.
        codes: by channel index, see :func:`monai_pdddpm.data.dicom_seg.segment_codes`.
    """
    case = case_of(item["image"].meta)
    labels = {values[index]: name for index, name in names.items()}
    if "dicom-seg" in outputs:
        write_dicom_seg(folder / f"{case.name}_seg.dcm", item["seg"], case.file, names, codes)
    frames, written = frames_of(item), []
    if "seg-nrrd" in outputs:
        seg = np.asarray(values)[np.asarray(item["seg"])[0].astype(int)]
        coded = {values[index]: code for index, code in codes.items()}
        for t in range(frames):
            number, volume = (f"_frame-{t:0{len(str(frames - 1))}d}", seg[..., t]) if frames > 1 else ("", seg)
            written.append(f"{case.name}_seg{number}.seg.nrrd")
            write_seg_nrrd(folder / written[-1], volume, np.asarray(item["seg"].affine, dtype=float), labels, coded)
    if "scene" in outputs:
        write_text(folder / f"{case.name}_seg.ctbl", color_table(labels))
        write_text(folder / f"{case.name}_seg_itksnap.txt", snap_labels(labels))
        if frames == 1:
            maps = [name for what in _MAPS if (folder / (name := f"{case.name}_{what}.nii.gz")).is_file()]
            shown = written[0] if written else None
            text = scene(case.name, folder, _scan_for_scene(item), labels, maps, shown)
            write_text(folder / f"{case.name}_scene.mrml", text)


def _scan_for_scene(item: Mapping[str, Any]) -> str | None:
    """Return the path of a case's first 3D file; None for a DICOM series or a 4D file."""
    listed = case_of(item["image"].meta).files
    files = [file for file in listed if file]
    if not files or not files[0].lower().endswith(SCAN_EXTENSIONS) or not os.path.isfile(files[0]):
        return None
    return None if len(listed) == 1 and len(item["image"]) > 1 else files[0]
