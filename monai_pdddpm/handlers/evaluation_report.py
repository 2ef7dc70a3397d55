"""Collect the metrics of every evaluated case, and write them down as a table and a summary."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_pdddpm.metrics.summary import KEYS, as_table, case_rows, summarize
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.ranks import gathered, is_first_rank, rank

logger = logging.getLogger(__name__)


def case_file(item: Mapping[str, Any]) -> str | None:
    """Path of the file that a case was read from: of its image, else of its prediction, else None."""
    for key in ("image", "pred"):
        name = getattr(item.get(key), "meta", {}).get("filename_or_obj")
        if name:
            return str(name)
    return None


def case_names(files: Sequence[str]) -> list[str]:
    """Short names of files: without folder and suffix where that tells them apart, else from the shared folder on.

    Args:
        files: paths, no two alike.

    Returns:
        A name for each, e.g. "scan1" for "/data/scan1.nii.gz", or "ana/flair.nii.gz" beside "ben/flair.nii.gz".
    """
    paths = [Path(file).absolute() for file in files]
    stems = [Path(path.name.removesuffix(".gz")).stem for path in paths]
    often = Counter(stems)
    alike = [path.parent for path, stem in zip(paths, stems, strict=True) if often[stem] > 1]
    shared = os.path.commonpath(alike) if alike else ""
    return [
        path.relative_to(shared).as_posix() if often[stem] > 1 else stem
        for path, stem in zip(paths, stems, strict=True)
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV: case, method, label, then every metric; empty where a row does not have it, nan where undefined."""
    columns = list(dict.fromkeys([*KEYS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is seen complete or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


class EvaluationReport:
    """An ignite handler that writes what `SegmentationMetricsd` found in every case of an evaluation.

    At the end of the run `output_dir` holds `evaluation_cases.csv` (one row for each case, method and label) and
    `evaluation_summary.json` (`summarize`), and the table of the summary is printed. In a run on several processes the
    first one writes the cases of all. A file that comes twice counts once, as where a sampler pads the last round.

    Args:
        output_dir: folder for the two files, made where it is missing.
        baseline: name of the method compared with.
        candidate: name of the method that is compared.
        scans_per_subject: number of consecutively numbered scans of a subject, see `subject_of`.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        RuntimeError: at the end of the run, where no case was evaluated.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        baseline: str = "segmenter",
        candidate: str = "ensemble",
        scans_per_subject: int = 1,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.baseline = baseline
        self.candidate = candidate
        self.scans_per_subject = scans_per_subject
        self.resamples = resamples
        self.seed = seed
        self._found: list[tuple[str, Mapping[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an engine whose output is a list of dicts, one for each case."""
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def clear(self, engine: Engine | None = None) -> None:
        """Forget the cases of an earlier run."""
        self._found = []

    def collect(self, engine: Engine) -> None:
        """Take the metrics of every case in the engine's output that has some."""
        output = engine.state.output
        items = output if isinstance(output, list | tuple) else [output]
        for item in items:
            if isinstance(item, Mapping) and "metrics" in item:
                self._found.append((case_file(item) or self._number(), item["metrics"]))

    def write(self, engine: Engine | None = None) -> None:
        """Write both files and print the table."""
        cases = self._cases()
        if not cases:
            raise RuntimeError(
                "no case was evaluated: no item of the engine's output has 'metrics'; the data list needs labels, and "
                "the post-processing needs SegmentationMetricsd"
            )
        if not is_first_rank():
            return
        names = case_names(list(cases))
        rows = [row for name, metrics in zip(names, cases.values(), strict=True) for row in case_rows(name, metrics)]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        # The cases first: they are there even if the summary finds fault with them.
        write_whole(self.output_dir / "evaluation_cases.csv", as_csv(rows))
        summary = summarize(rows, self.baseline, self.candidate, self.scans_per_subject, self.resamples, self.seed)
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(self.output_dir / "evaluation_summary.json", text + "\n")
        print(as_table(summary), flush=True)  # another process may end the run before this one ends

    def _number(self) -> str:
        """Name a case that has no file."""
        return f"process{rank()}_case{len(self._found) + 1}" if rank() else f"case{len(self._found) + 1}"

    def _cases(self) -> dict[str, Mapping[str, Any]]:
        """Metrics by file, from all processes, in the order in which the cases came."""
        cases: dict[str, Mapping[str, Any]] = {}
        for file, metrics in (found for part in gathered(self._found) for found in part):
            if file in cases:
                logger.warning("%s was evaluated more than once; the first time counts", file)
            cases.setdefault(file, metrics)
        return cases
