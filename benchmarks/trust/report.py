"""Table and figure of the study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from benchmarks import common
from benchmarks.trust.measures import SCANS_PER_SUBJECT
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.metrics.summary import paired_difference, statistic
from monai_pdddpm.utils.errors import UserError

BASELINE, METHOD = "segmenter", "PD-DDPM, the bundle's chain (3 calls)"
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
GAINS = ("dice", "calibrated_nll", "calibrated_ece", "ged", "crps_ml")  # of the method, over each other row
FIGURE = ("dice", "calibrated_nll", "calibrated_ece")


def values_of(row: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return a metric by case, NaN if it was not measured."""
    return {case: float(found.get(metric, math.nan)) for case, found in row["cases"].items()}


def described(values: Mapping[str, float]) -> dict[str, Any]:
    """Return mean and interval over subjects."""
    return statistic(list(values.values()), [subject_of(case, SCANS_PER_SUBJECT) for case in values])


def difference(line: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return mean and interval of line - other over the cases of both; without the values of each case, no interval."""
    ours, theirs = line["values"].get(metric), other["values"].get(metric)
    if ours and theirs:
        both = [case for case in ours if case in theirs]
        return described(paired_difference({case: theirs[case] for case in both}, {case: ours[case] for case in both}))
    first, second = line[metric]["mean"], other[metric]["mean"]
    comparable = line["cases"] == other["cases"] and None not in (first, second)
    return {"mean": first - second if comparable else None, "low": None, "high": None}


def line_of(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means of a row's measurements, its finite values of each case, and its cost."""
    values = {metric: values_of(row, metric) for metric in COLUMNS}
    cost = {key: row.get(key) for key in ("batches_of_training", "seconds_per_case", "machine", "at", "commit")}
    finite = {metric: {k: v for k, v in found.items() if math.isfinite(v)} for metric, found in values.items()}
    line = {"name": name, "cases": len(row["cases"]), "pooled": row["pooled"], **cost}
    return line | {metric: described(found) for metric, found in values.items()} | {"values": finite}


def earlier(table: Path, key: str, scale: float) -> list[dict[str, Any]]:
    """Return a list of a written table, so that what is measured later joins it; empty without the file.

    Raises:
        UserError: if it was measured at another scale.
    """
    if not table.is_file():
        return []
    content = json.loads(table.read_text(encoding="utf-8"))
    if content["scale"] != scale:
        raise UserError(
            f"{table}: found results of scale {content['scale']}, expected {scale}; give another --output_dir"
        )
    found: list[dict[str, Any]] = content[key]
    return found


def summary(rows: Mapping[str, Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return a line for each row: means, cost, and the differences from the segmenter and of the method.

    `earlier` are lines of a table; those of rows that were not measured again stay, with their differences.
    """
    lines = {line["name"]: {**line, "values": line.get("values", {})} for line in earlier}
    lines |= {name: line_of(name, row) for name, row in rows.items()}
    for name, line in lines.items():
        if {name, BASELINE} & set(rows):
            line |= {f"{metric}_difference": difference(line, lines[BASELINE], metric) for metric in COLUMNS}
        if METHOD in lines and name != METHOD and {name, METHOD} & set(rows):
            line["method_difference"] = {metric: difference(lines[METHOD], line, metric) for metric in GAINS}
    return list(lines.values())


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the table: means, and in brackets the 95 % interval of the paired difference from the segmenter."""
    head = ["contender", "cases", *(title for title, _ in COLUMNS.values())]
    head += ["ECE pooled", "ECE pooled, calibrated", "batches of training", "s a case"]
    rows = []
    for line in lines:
        cells = [line["name"], line["cases"]]
        for metric, (_, form) in COLUMNS.items():
            mean, gap = line[metric]["mean"], line[f"{metric}_difference"]
            cell = "-" if mean is None else format(mean, form)
            if metric in COMPARED and line["name"] != BASELINE:
                cell += _interval(gap, form)
            cells.append(cell)
        pooled = [line["pooled"].get(kind, {}).get("ece") for kind in ("raw", "calibrated")]
        cells += ["-" if value is None else f"{value:.4f}" for value in pooled]
        seconds = line["seconds_per_case"]
        rows.append([*cells, line["batches_of_training"] or "-", "-" if seconds is None else f"{seconds:.2f}"])
    return common.table(head, rows) + (
        "\n\nCalibrated: with the temperature fitted on the cases of all other subjects, for every contender. In "
        "brackets the 95 % bootstrap interval over subjects of the paired difference from the segmenter." + gains(lines)
    )


def gains(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the table of the method minus each other row, if the method was measured."""
    rows = []
    for line in lines:
        cells = [line["name"]]
        for metric, found in line.get("method_difference", {}).items():
            form = COLUMNS[metric][1]
            cells.append("-" if found["mean"] is None else f"{found['mean']:+{form}}{_interval(found, form)}")
        rows += [cells] if len(cells) > 1 else []
    table = common.table(["contender", *(COLUMNS[metric][0] for metric in GAINS)], rows)
    title = f"{METHOD} minus each other row, mean and interval (none if the two were not measured in pairs)"
    return f"\n\n{title}:\n\n{table}" if rows else ""


def _interval(found: Mapping[str, Any], form: str) -> str:
    """Return " [low, high]" of a difference, nothing if the two rows were not measured in pairs."""
    return "" if found["low"] is None else f" [{found['low']:+{form}}, {found['high']:+{form}}]"


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
            axis.set_xscale("symlog", linthresh=0.02)  # a failed contender must not hide the others
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.set_title(COLUMNS[metric][0], fontsize=9)
            axis.set_xlabel("difference from the segmenter", fontsize=8)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(others)), [line["name"] for line in others], fontsize=8)


def write(files: Mapping[str, Path], name: str, folder: Path, scale: float) -> None:
    """Write table, numbers and figure of the rows whose measurements exist; other rows of the table stay."""
    rows = {row: json.loads(path.read_text(encoding="utf-8")) for row, path in files.items() if path.is_file()}
    kept = earlier(folder / f"{name}.json", "rows", scale)
    if BASELINE not in {*rows, *(line["name"] for line in kept)}:
        raise UserError(f"{files[BASELINE]}: found no measurement of the segmenter; run the stages train and measure")
    found = {line["name"]: line for line in summary(rows, kept)}
    lines = [found[row] for row in files if row in found]
    common.write_results(folder, name, {"scale": scale, "rows": lines}, as_markdown(lines))
    if len(lines) > 1:
        draw(lines, folder / f"{name}.png")
