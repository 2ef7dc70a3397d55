"""Table and figure of the study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.trust.measures import SCANS_PER_SUBJECT
from monai_pdddpm.metrics.summary import paired_difference, statistic, subject_of
from monai_pdddpm.utils.errors import UserError

BASELINE = "segmenter"
COLUMNS = {  # metric -> title, form
    "dice": ("Dice", ".4f"),
    "nll": ("NLL", ".4f"),
    "calibrated_nll": ("NLL, calibrated", ".4f"),
    "ece": ("ECE per case", ".4f"),
    "calibrated_ece": ("ECE per case, calibrated", ".4f"),
    "calibrated_brier": ("Brier, calibrated", ".4f"),
    "error_auroc": ("AUROC of errors", ".4f"),
    "one_dice": ("Dice, one member", ".4f"),
    "ged": ("GED", ".3f"),
    "disagreement": ("disagreement ratio", ".2f"),
    "volume_z": ("volume error / SD", ".1f"),
    "crps_ml": ("CRPS of the volume, mL", ".4f"),
}
COMPARED = ("dice", "nll", "calibrated_nll", "calibrated_ece")
FIGURE = ("dice", "calibrated_nll", "calibrated_ece")


def values_of(row: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return a metric by case, NaN if it was not measured."""
    return {case: float(found.get(metric, math.nan)) for case, found in row["cases"].items()}


def described(values: Mapping[str, float]) -> dict[str, Any]:
    """Return mean and interval over subjects."""
    return statistic(list(values.values()), [subject_of(case, SCANS_PER_SUBJECT) for case in values])


def summary(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row the means with intervals, the paired difference from the segmenter, and the cost."""
    base, lines = rows[BASELINE], []
    for name, row in rows.items():
        line: dict[str, Any] = {"name": name, "cases": len(row["cases"]), "pooled": row["pooled"]}
        line |= {key: row.get(key) for key in ("batches_of_training", "seconds_per_case")}
        line |= {key: row[key] for key in ("at", "commit")}
        for metric in COLUMNS:
            ours, theirs = values_of(row, metric), values_of(base, metric)
            line[metric] = described(ours)
            line[f"{metric}_difference"] = described(paired_difference({c: theirs[c] for c in ours}, ours))
        lines.append(line)
    return lines


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the table: means, and in brackets the 95 % interval of the paired difference from the segmenter."""
    head = ["contender", "cases", *(title for title, _ in COLUMNS.values())]
    head += ["ECE pooled", "ECE pooled, calibrated", "batches of training", "s a case"]
    rows = []
    for line in lines:
        cells = [line["name"], line["cases"]]
        for metric, (_, form) in COLUMNS.items():
            mean, difference = line[metric]["mean"], line[f"{metric}_difference"]
            cell = "-" if mean is None else format(mean, form)
            if metric in COMPARED and line["name"] != BASELINE and difference["mean"] is not None:
                cell += f" [{difference['low']:+{form}}, {difference['high']:+{form}}]"
            cells.append(cell)
        pooled = [line["pooled"].get(kind, {}).get("ece") for kind in ("raw", "calibrated")]
        cells += ["-" if value is None else f"{value:.4f}" for value in pooled]
        seconds = line["seconds_per_case"]
        rows.append([*cells, line["batches_of_training"] or "-", "-" if seconds is None else f"{seconds:.2f}"])
    return common.table(head, rows) + (
        "\n\nCalibrated: with the temperature fitted on the cases of all other subjects, for every contender. In "
        "brackets the 95 % bootstrap interval over subjects of the paired difference from the segmenter."
    )


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the differences from the segmenter with their intervals."""
    others = [line for line in lines if line["name"] != BASELINE][::-1]
    size = (4 * len(FIGURE), 1.2 + 0.26 * len(others))
    with common.figure(path, 1, len(FIGURE), figsize=size, sharey=True) as (_, axes):
        for axis, metric in zip(axes, FIGURE, strict=True):
            found = [line[f"{metric}_difference"] for line in others]
            mean, low, high = (np.array([f[key] for f in found], dtype=float) for key in ("mean", "low", "high"))
            axis.errorbar(mean, range(len(others)), xerr=[mean - low, high - mean], fmt="o", markersize=4, linewidth=1)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_xscale("symlog", linthresh=0.01)  # a failed contender must not hide the others
            axis.set_title(f"{COLUMNS[metric][0]}: difference from the segmenter", fontsize=9)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(others)), [line["name"] for line in others], fontsize=8)


def write(files: Mapping[str, Path], name: str, folder: Path) -> None:
    """Write table, numbers and figure of the rows whose measurements exist."""
    rows = {row: json.loads(path.read_text(encoding="utf-8")) for row, path in files.items() if path.is_file()}
    if BASELINE not in rows:
        raise UserError(f"{files[BASELINE]}: found no measurement of the segmenter; run the stages train and measure")
    lines = summary(rows)
    common.write_results(folder, name, {"machine": common.machine(), "rows": lines}, as_markdown(lines))
    if len(lines) > 1:
        draw(lines, folder / f"{name}.png")
