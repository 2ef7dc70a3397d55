"""Collect the metrics of every evaluated case, and write a table and a summary."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.metrics.held_out import Voxels, calibrated_rows
from monai_pdddpm.metrics.summary import KEYS, as_table, case_rows, summarize
from monai_pdddpm.utils.atomic_write import write_json, write_text
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.ranks import gathered, is_first_rank


class EvaluationReport:
    """Write the metrics of :class:`monai_pdddpm.transforms.SegmentationMetricsd` for all cases of an evaluation.

    At the end of the run ``output_dir`` has ``evaluation_cases.csv``, one row per case, method and label, and
    ``evaluation_summary.json``; the table of the summary is printed. The first process writes the cases of all. A case
    that occurs twice, as when a sampler pads the last round, counts once.

    Beside the raw calibration there is one with a temperature, fitted in the same way for both methods on the cases of
    all other subjects, per case and over the voxels of all cases (``pooled`` in the summary).

    Args:
        output_dir: folder of the two files.
        scans_per_subject: number of consecutively numbered scans of a subject, see
            :func:`monai_pdddpm.data.folds.subject_of`.

    Raises:
        UserError: at the end of the run, if no case was evaluated.
    """

    def __init__(self, output_dir: str | os.PathLike[str], scans_per_subject: int = 1) -> None:
        self.output_dir = Path(output_dir)
        self.scans_per_subject = scans_per_subject
        self._metrics: dict[tuple[str, str, str], Mapping[str, Any]] = {}  # file, case, subject -> metrics

    def attach(self, engine: Engine) -> None:
        """Register with an engine whose output is a list of items, one per case."""
        engine.add_event_handler(Events.STARTED, lambda engine: self._metrics.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def collect(self, engine: Engine) -> None:
        """Store the metrics of every case in the engine's output."""
        for item in engine.state.output:  # type: ignore[union-attr]
            case = case_of(item["image"].meta)
            self._metrics.setdefault((case.file, case.name, case.subject), item["metrics"])

    def write(self, engine: Engine) -> None:
        """Write both files and print the table."""
        found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        for part in gathered(self._metrics):
            found |= part
        if not found:
            raise UserError(
                "evaluation: found no evaluated case, expected at least one with a label; check dataset_dir and the "
                "list of validation cases in its dataset.json"
            )
        if not is_first_rank():
            return
        names = [name for _, name, _ in found]
        rows: list[dict[str, Any]] = []
        subjects: dict[str, str] = {}
        voxels: dict[str, dict[str, Voxels]] = {}
        for (file, name, subject), metrics in found.items():
            case = name if names.count(name) == 1 else file
            subjects[case] = subject_of(case, self.scans_per_subject, subject)
            rows += case_rows(case, metrics)
            for method, parts in metrics.items():
                if "voxels" in parts:
                    voxels.setdefault(method, {})[case] = parts["voxels"]
        more, pooled = calibrated_rows(voxels, subjects)
        rows += more
        # the rows first: they are there even if the summary fails
        write_text(self.output_dir / "evaluation_cases.csv", as_csv(rows))
        summary = summarize(rows, subjects)
        write_json(self.output_dir / "evaluation_summary.json", summary | {"pooled": without_nan(pooled)})
        if voxels and not pooled:
            print("calibrated: left out, the temperature is fitted on other subjects and all cases are of one")
        for method, kinds in pooled.items():
            for kind, values in kinds.items():
                print(f"{method}, all voxels together, {kind}: ECE {values['ece']:.4f}, NLL {values['nll']:.4f}")
        print(as_table(summary), flush=True)  # another process may end the run before this one ends


def without_nan(values: Any, digits: int | None = None) -> Any:
    """Return nested dicts of numbers with None in place of NaN, for JSON; rounded if ``digits`` are given."""
    if isinstance(values, Mapping):
        return {key: without_nan(value, digits) for key, value in values.items()}
    return None if math.isnan(values) else values if digits is None else round(values, digits)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV: case, method, label, then every metric; empty if a row lacks it, nan if undefined."""
    columns = list(dict.fromkeys([*KEYS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
