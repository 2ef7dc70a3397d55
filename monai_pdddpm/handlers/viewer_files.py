"""Files for 3D Slicer and ITK-SNAP beside each case's NIfTI files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.datalist import SCAN_EXTENSIONS, case_name
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.transforms.case_summary import foreground_labels
from monai_pdddpm.transforms.dicom_seg import segment_codes
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.visualize.slicer import (
    colour_table,
    label_colours,
    scene,
    segment_fields,
    snap_labels,
    write_seg_nrrd,
)

_MAPS = ("entropy", "mutual-information")


class ViewerFiles:
    """Write what viewers need to show a case with names and colours.

    ``<case>_seg.ctbl`` is a colour table for 3D Slicer, ``<case>_seg_itksnap.txt`` the same for ITK-SNAP,
    ``<case>_scene.mrml`` a Slicer scene of the case, and ``<case>_seg.seg.nrrd`` the label map as a Slicer
    segmentation. Of a time series there is a ``<case>_seg_frame-<t>.seg.nrrd`` for each frame, and no scene. To be
    attached after what writes the NIfTI files, before :class:`monai_pdddpm.handlers.CaseReport`, which lists all files.

    Args:
        output_dir: one folder a case below it.
        labels: channel index -> name, the background included.
        dicom_codes: what the labels are, see :func:`monai_pdddpm.transforms.dicom_seg.segment_codes`.
        tables: write colour tables and scene.
        seg_nrrd: write ``.seg.nrrd``.

    Raises:
        UserError: when labels or codes do not fit.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        labels: Mapping[str, str],
        dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        tables: bool = True,
        seg_nrrd: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.labels = foreground_labels(labels)
        self.dicom_codes = segment_codes(self.labels, dicom_codes)
        self.colours = label_colours(self.labels)
        self.tables = tables
        self.seg_nrrd = seg_nrrd

    def attach(self, engine: CaseEvaluator) -> None:
        """Run within the case's iteration, after the post-processing, so that a failure ends this case only."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: CaseEvaluator) -> None:
        """Write the files of each item of the engine's output."""
        for item in engine.state.output:
            case = case_name(str(item["image"].meta["filename_or_obj"]))
            folder = self.output_dir / case
            folder.mkdir(parents=True, exist_ok=True)
            written = self._segmentations(item, case, folder) if self.seg_nrrd else []
            if self.tables:
                _write(folder / f"{case}_seg.ctbl", colour_table(self.labels, self.colours))
                _write(folder / f"{case}_seg_itksnap.txt", snap_labels(self.labels, self.colours))
                if frames_of(item) == 1:
                    maps = [name for what in _MAPS if (folder / (name := f"{case}_{what}.nii.gz")).is_file()]
                    shown = written[0] if written else None
                    text = scene(case, folder.absolute(), scan_for_scene(item), self.labels, maps, shown)
                    _write(folder / f"{case}_scene.mrml", text)

    def _segmentations(self, item: Mapping[str, Any], case: str, folder: Path) -> list[str]:
        """Write the label map, or that of each frame, as .seg.nrrd; return the names."""
        seg, frames = item["seg"], frames_of(item)
        volumes = np.asarray(seg)[0]
        affine = np.asarray(seg.affine, dtype=float)
        fields = segment_fields(self.labels, self.colours, self.dicom_codes, volumes.shape[:3])
        names = [f"{case}_seg.seg.nrrd"]
        if frames > 1:
            digits = len(str(frames - 1))
            names = [f"{case}_seg_frame-{t:0{digits}d}.seg.nrrd" for t in range(frames)]
        for t, name in enumerate(names):
            write_seg_nrrd(folder / name, volumes[..., t] if frames > 1 else volumes, affine, fields)
        return names


def scan_for_scene(item: Mapping[str, Any]) -> str | None:
    """Tell which file of a case is a 3D scan that Slicer reads by its path.

    Args:
        item: a case, with ``image`` of shape (C, X, Y, Z) and its metadata.

    Returns:
        The absolute path, of several channels' files the first that is there; None of a DICOM series, and of a 4D file.
    """
    meta = item["image"].meta
    listed = json.loads(meta.get("files") or "[]") or [str(meta["filename_or_obj"])]
    files = [file for file in listed if file]
    if not files or not files[0].lower().endswith(SCAN_EXTENSIONS) or not os.path.isfile(files[0]):
        return None
    if len(listed) == 1 and len(item["image"]) > 1:
        return None
    return os.path.abspath(files[0])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
