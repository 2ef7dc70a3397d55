"""The last two files of a case: the overview picture and the report."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.case import case_name, case_of
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.transforms.case_summary import foreground_labels
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.utils.atomic_write import atomic_write, remove_partial_files
from monai_pdddpm.utils.provenance import checksum, made_by, report_path, versions
from monai_pdddpm.utils.ranks import gathered, is_first_rank
from monai_pdddpm.visualize.overview import save_overview

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class CaseReport:
    """Write ``<case>_overview.png`` and, when all else of a case is there, ``<case>_report.json``.

    Being the last file, the report also marks a case as finished. One from an earlier run, and what a killed run had
    begun to write, are removed before the first file of their case is replaced.

    Args:
        output_dir: one folder a case below it.
        labels: channel index -> name, the background included.
        settings: what the run was asked for; a later run compares it.
        overview: write the picture.
        record: of the run, see :func:`monai_pdddpm.data.provenance_record`; its checksums go into each report.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        labels: Mapping[str, str],
        settings: Mapping[str, Any],
        overview: bool = True,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.labels = foreground_labels(labels)
        self.settings = dict(settings)
        self.made_by = made_by(record) if record else None
        self.overview = overview

    def attach(self, engine: CaseEvaluator) -> None:
        """Run within the case's iteration, after the post-processing, so that a failure ends this case only."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._begin)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)
        engine.add_event_handler(Events.STARTED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._tell)

    def _count(self, engine: CaseEvaluator) -> None:
        self._written: list[str] = []

    def _tell(self, engine: CaseEvaluator) -> None:
        written = [case for part in gathered(self._written) for case in part]
        if written and is_first_rank():
            first = self.output_dir / written[0]
            text = f"{len(written)} cases are in {self.output_dir}; look at {first}/{first.name}_overview.png first"
            print(text, flush=True)  # another process may end the run before this one ends

    def _begin(self, engine: CaseEvaluator) -> None:
        self._inferred_at = time.perf_counter()
        for file in engine.state.output["image"].meta["filename_or_obj"]:
            report = report_path(self.output_dir, case_name(file))
            report.unlink(missing_ok=True)
            remove_partial_files(report.parent)

    def __call__(self, engine: CaseEvaluator) -> None:
        """Write picture and report of each item of the engine's output."""
        for item in engine.state.output:
            meta = item["image"].meta
            scan = case_of(meta)
            case, files = scan.name, scan.files
            folder = self.output_dir / case
            folder.mkdir(parents=True, exist_ok=True)
            inference = dict(item.get("inference", {}))
            seconds = engine.state.seconds | inference.pop("seconds", {})
            seconds["inverse and write"] = time.perf_counter() - self._inferred_at
            if self.overview:
                begin = time.perf_counter()
                self._draw(item, [file for file in files if file], case, folder / f"{case}_overview.png")
                seconds["overview"] = time.perf_counter() - begin
            report = {
                "case": case,
                "image": files[0] if len(files) == 1 else files,
                "inputs": scan.checksums(),
                "notes": list(scan.notes),
                "labels": {str(index): name for index, name in self.labels.items()},
                "result": item.get("result", {}),
                "settings": self.settings,
                "made_by": self.made_by,
                "inference": inference,
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "peak_memory_mib": peak_memory_mib(engine.state.device),
                "device": device_name(engine.state.device),
                "versions": versions(),
                "files": {path.name: checksum(path) for path in sorted(folder.iterdir()) if path.name[0] != "."},
            }
            write_json(report_path(self.output_dir, case), report)
            self._written.append(case)
            if unlike := report["result"].get("unlike_usual"):
                logger.warning(
                    "%s: unlike the cases of the calibration (%s); look at it closely", case, "; ".join(unlike)
                )

    def _draw(self, item: Mapping[str, Any], files: Sequence[str], case: str, path: Path) -> None:
        affine = np.asarray(item["seg"].affine, dtype=float)
        maps = {key: np.asarray(item[key]) for key in ("seg", "entropy", "members") if key in item}
        channel, frames = 0, frames_of(item)
        if frames > 1:  # the frame that has most to look at
            channel = int(np.argmax([maps["entropy"][..., f].sum() for f in range(frames)]))
            maps = {key: volume[..., channel] for key, volume in maps.items()}
        save_overview(
            path,
            # the item's image is the preprocessed one, on the network's grid
            image=np.asarray(LoadScan(channels=None)(files[0]))[channel],
            seg=maps["seg"][0].astype(np.uint8),
            entropy=maps["entropy"][0],
            labels=self.labels,
            affine=affine,
            title=case if frames == 1 else f"{case}, frame {channel} (0 to {frames - 1})",
            members=maps["members"].astype(np.uint8) if "members" in maps else None,
        )


def peak_memory_mib(device: torch.device) -> int | None:
    """Return the most memory used so far in MiB: of the GPU on one, else of the process; None where nobody knows."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    if resource is None:
        return None
    in_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(in_bytes / 2**20)


def device_name(device: torch.device) -> str:
    """Return a device as a person would name it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
