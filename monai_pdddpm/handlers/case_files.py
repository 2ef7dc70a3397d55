"""Everything that is written beside the maps of a case: viewer files, overview picture and report."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.case import case_of, cases_of_batch
from monai_pdddpm.data.dicom_seg import check_dicom_seg, segment_codes
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.handlers.viewer_files import write_viewer_files
from monai_pdddpm.metrics.segmentation import class_names
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.transforms.slice_values import slice_values
from monai_pdddpm.utils.atomic_write import make_folder, remove_partial_files, write_json, write_text
from monai_pdddpm.utils.chosen_outputs import chosen_outputs, is_case_file
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.memory import peak_memory
from monai_pdddpm.utils.provenance import checksum, made_by, report_path, versions
from monai_pdddpm.utils.ranks import gathered, is_first_rank
from monai_pdddpm.visualize.case_view import case_view
from monai_pdddpm.visualize.overview import overview_figure, save_overview
from monai_pdddpm.visualize.viewer import niivue, write_viewer

logger = logging.getLogger(__name__)


class CaseFiles:
    """Write viewer files, ``<case>_overview.png``, ``<case>_viewer.html`` and ``<case>_report.json`` of each case.

    The report is the last file and marks the case as finished. Files of an earlier run, known by their names, and
    partial files of a killed run are removed before the first file of their case is written, and those of a case that
    fails afterwards. Other files stay.

    Args:
        output_dir: folder of the results, with one folder per case.
        labels: channel index -> name, the background included.
        record: record of the run, see :func:`monai_pdddpm.utils.provenance.provenance_record`.
        label_values: the value in label maps of class 0, 1, 2, ...; None keeps the class numbers.
        dicom_codes: DICOM codes of the labels, see :func:`monai_pdddpm.data.dicom_seg.segment_codes`.
        outputs: files to write, see :func:`monai_pdddpm.utils.chosen_outputs.chosen_outputs`; ``overview`` and
            ``viewer`` need the loaded scan in the batch under ``scan``.

    Raises:
        UserError: if labels, codes or outputs do not fit, or a package for DICOM is missing.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        labels: Mapping[str, str],
        record: Mapping[str, Any],
        *,
        label_values: Sequence[int] | None = None,
        dicom_codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        outputs: str | Sequence[str] = "default",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.labels = class_names(labels)
        self.values = list(label_values) if label_values is not None else list(range(max(self.labels) + 1))
        self.codes = segment_codes(self.labels, dicom_codes)
        self.record = record
        self.outputs = self.asked = chosen_outputs(outputs)  # reports list what was asked for
        if "dicom-seg" in self.outputs:
            check_dicom_seg(self.labels)
        if "viewer" in self.outputs:
            try:
                niivue()
            except UserError as error:
                logger.info("no viewer pages are written: %s", error)
                self.outputs -= {"viewer"}
        self._written: list[str] = []
        self._unfinished: list[Path] = []
        self._inferred_at = 0.0

    def attach(self, engine: CaseEvaluator) -> None:
        """Run within the iteration of the case, after the postprocessing, so that a failure ends this case only."""
        engine.add_event_handler(Events.STARTED, lambda engine: self._written.clear())
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._begin)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remove_unfinished)
        engine.add_event_handler(Events.COMPLETED, self._announce)

    def _begin(self, engine: CaseEvaluator) -> None:
        self._inferred_at = time.perf_counter()
        names = [case.name for case in cases_of_batch(engine.state.output["image"].meta)]
        self._unfinished = [self.output_dir / name for name in names]
        for folder in self._unfinished:
            _remove_files(folder)

    def __call__(self, engine: CaseEvaluator) -> None:
        """Write the files of each item of the engine's output."""
        for batch, item in zip(engine.state.batch, engine.state.output, strict=True):
            scan = case_of(item["image"].meta)
            case = scan.name
            folder = self.output_dir / case
            make_folder(folder)
            info = item["ensemble_run"]
            run, meanings = ({}, {}) if info is None else (info.as_report(), info.meanings())
            notes = list(scan.notes)
            if (frames := frames_of(item)) > 1:
                notes.append(f"{frames} frames on its fourth axis, segmented one by one")
                logger.warning("%s: %s", case, notes[-1])
            seconds = engine.state.seconds | run.pop("seconds", {})
            seconds["inverse and write"] = time.perf_counter() - self._inferred_at
            write_viewer_files(item, folder, self.outputs, self.labels, self.values, self.codes)
            if self.outputs & {"overview", "viewer"}:
                view = case_view(item, batch["scan"], self.labels)
            if "overview" in self.outputs:
                begin = time.perf_counter()
                save_overview(folder / f"{case}_overview.png", overview_figure(view))
                seconds["overview"] = time.perf_counter() - begin
            if "viewer" in self.outputs:
                begin = time.perf_counter()
                write_viewer(folder / f"{case}_viewer.html", view, item.get("result", {}))
                seconds["viewer"] = time.perf_counter() - begin
            if "slices" in self.outputs:
                write_text(folder / f"{case}_slices.csv", slice_values(item, self.labels))
            peak = peak_memory(engine.state.device)
            report = {
                "case": case,
                "image": scan.files[0] if len(scan.files) == 1 else list(scan.files),
                "inputs": scan.checksums(),
                "notes": notes,
                "presegmentation": _file_record(item["image"].meta.get("presegmentation_file")),
                "labels": {str(self.values[index]): name for index, name in self.labels.items()},
                "result": item.get("result", {}),
                **meanings,
                "settings": self.record["settings"],
                "outputs": sorted(self.asked - {"page"}),
                "made_by": made_by(self.record),
                "inference": run,
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "peak_memory_mib": peak and round(peak / 2**20),
                "device": device_name(engine.state.device),
                "versions": versions(),
                "files": {path.name: checksum(path) for path in _files_of_case(folder)},
            }
            write_json(report_path(self.output_dir, case), report)
            self._written.append(case)
            self._unfinished.remove(folder)
            if unlike := report["result"].get("unlike_usual"):
                logger.warning("%s: unlike the calibration cases (%s); check it closely", case, "; ".join(unlike))

    def _remove_unfinished(self, engine: CaseEvaluator) -> None:
        """Remove the files of a case that failed after its first file."""
        for folder in self._unfinished:
            with contextlib.suppress(OSError):  # the disk may be the reason; the next run removes them
                _remove_files(folder)
                folder.rmdir()  # if it is empty
        self._unfinished = []

    def _announce(self, engine: CaseEvaluator) -> None:
        written = [case for part in gathered(self._written) for case in part]
        if written and is_first_rank():
            first = self.output_dir / written[0]
            pictures = [first / f"{first.name}_{name}" for name in ("viewer.html", "overview.png")]
            look = next((f"; look at {picture} first" for picture in pictures if picture.is_file()), "")
            # flushed, because another process may end the run before this one ends
            print(f"{len(written)} cases are in {self.output_dir}{look}", flush=True)


def _files_of_case(folder: Path) -> list[Path]:
    """Return the files in a case's folder that inference writes; the folder may be missing."""
    return sorted(path for path in folder.glob("*") if is_case_file(path) and not path.is_dir())


def _remove_files(folder: Path) -> None:
    """Remove the files of a case that inference wrote, first the report, which marks the case as finished."""
    report_path(folder.parent, folder.name).unlink(missing_ok=True)
    for path in _files_of_case(folder):
        path.unlink()
    remove_partial_files(folder)


def _file_record(file: str | None) -> dict[str, str | None] | None:
    return None if file is None else {"file": file, "sha256": checksum(file)}


def device_name(device: torch.device) -> str:
    """Return a device with its hardware name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
