"""The study's table and figure from its measurements."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from monai_pdddpm.metrics.summary import paired_difference, statistic
from monai_pdddpm.utils.provenance import checksum

mpl.use("agg")
from matplotlib import pyplot as plt

BASELINE = "segmenter"
METRICS = ("dice", "ece", "nll", "brier", "error_auroc", "one_dice", "one_nll", "spread")
TITLES = {
    "dice": "Dice",
    "ece": "ECE",
    "nll": "NLL",
    "brier": "Brier",
    "error_auroc": "AUROC of errors",
    "one_dice": "Dice, one member",
    "one_nll": "NLL, one member",
    "spread": "spread",
}
FORM = {"dice": ".4f", "one_dice": ".4f", "error_auroc": ".3f", "spread": ".2f"}


def read_rows(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the measurements that are there, in the order of the names."""
    found = {}
    for name in names:
        path = folder / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def values(row: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return a metric of each case; NaN was written as such."""
    return {case: float(measured[metric]) for case, measured in row["cases"].items()}


def summary(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row the mean with its 95 % interval, and the paired difference from the segmenter."""
    base = rows[BASELINE]
    lines = []
    for name, row in rows.items():
        line: dict[str, Any] = {
            "name": name,
            "cases": len(row["cases"]),
            "seconds_per_case": round(row["seconds_per_case"], 3),
        }
        for metric in METRICS:
            ours = values(row, metric)
            theirs = {case: value for case, value in values(base, metric).items() if case in ours}
            line[metric] = statistic(list(ours.values()))
            line[f"{metric}_difference"] = statistic(list(paired_difference(theirs, ours).values()))
        lines.append(line)
    return lines


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: means, and in brackets the 95 % interval of the paired difference from the segmenter.

    Rows that stand behind an earlier training of the segmenter have a star; their differences were taken from that one.
    """
    now = next(line.get("segmenter") for line in lines if line["name"] == BASELINE)
    head = ["contender", "cases", *(TITLES[m] for m in METRICS), "s a case"]
    text = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for line in lines:
        cells = [f"{line['name']}{'' if line.get('segmenter') == now else ' *'}", str(line["cases"])]
        for metric in METRICS:
            mean, difference = line[metric]["mean"], line[f"{metric}_difference"]
            cell = "-" if mean is None else format(mean, FORM.get(metric, ".3f"))
            if metric in ("dice", "ece", "nll") and line["name"] != BASELINE and difference["mean"] is not None:
                form = "+" + FORM.get(metric, ".3f")
                cell += f" [{difference['low']:{form}}, {difference['high']:{form}}]"
            cells.append(cell)
        cells.append(format(line["seconds_per_case"], ".2f"))
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what each contender gains on the segmenter in Dice, ECE and NLL, with 95 % intervals."""
    others = [line for line in lines if line["name"] != BASELINE][::-1]
    figure, axes = plt.subplots(1, 3, figsize=(12, 1.2 + 0.26 * len(others)), sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("dice", "ece", "nll"), strict=True):
        found = [line[f"{metric}_difference"] for line in others]
        mean = np.array([f["mean"] if f["mean"] is not None else math.nan for f in found])
        low = np.array([f["low"] if f["low"] is not None else math.nan for f in found])
        high = np.array([f["high"] if f["high"] is not None else math.nan for f in found])
        better = mean > 0 if metric == "dice" else mean < 0
        for good, colour in ((True, "tab:blue"), (False, "tab:red")):
            at = np.flatnonzero(better == good)
            errors = [(mean - low)[at], (high - mean)[at]]
            axis.errorbar(mean[at], at, xerr=errors, fmt="o", color=colour, markersize=4, linewidth=1)
        # a ruined contender would hide all others: it is named at the edge
        limit = max(1e-3, 1.2 * float(np.nanquantile(np.abs([low, high]), 0.88)))
        for row in np.flatnonzero(np.abs(mean) > limit):
            side = float(np.sign(mean[row]))
            place = {"ha": "right" if side > 0 else "left", "va": "center", "fontsize": 7, "color": "tab:red"}
            axis.annotate(f"{mean[row]:+.2f}", (side * limit * 0.97, row), **place)
        axis.set_xlim(-limit, limit)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(f"{TITLES[metric]}: difference from the segmenter")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(others)), [line["name"] for line in others], fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def commit() -> str | None:
    """Return the repository's commit, None where git does not say."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def read_results(path: Path) -> dict[str, Any]:
    """Return the results that are kept beside the study, empty when there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": [], "minutes_of_training": {}}


def write(work: Path, on: str, names: Sequence[str], here: Path) -> None:
    """Print the table; keep results and figure beside the study.

    A row whose measurements are no longer in ``work`` stays as it was measured, with the commit of then; where nothing
    was measured here, the table that is kept is printed.
    """
    rows, before = read_rows(work / "rows" / on, names), read_results(here / f"results_{on}.json")
    if not rows and before["rows"]:
        print(as_markdown(before["rows"]))
        return
    if BASELINE not in rows:
        raise SystemExit(f"{work / 'rows' / on}: the segmenter was not measured yet")
    known = {line["name"]: line for line in before["rows"]}
    behind = (checksum(work / "segmenter_0" / "model.pt") or "")[:12]
    for line in summary(rows):
        row, was = {"commit": commit(), "segmenter": behind, **line}, known.get(line["name"], {})
        unchanged = was | {key: row[key] for key in ("commit", "segmenter")} == row
        known[line["name"]] = row | ({"commit": was.get("commit")} if unchanged else {})
    lines = [known[name] for name in names if name in known]
    table = as_markdown(lines)
    trained = {
        p.parent.name: round(json.loads(p.read_text())["minutes"], 1) for p in sorted(work.glob("*/training.json"))
    }
    content = {
        "cases": on,
        "seed": 0,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "minutes_of_training": before["minutes_of_training"] | trained,
        "rows": lines,
    }
    (here / f"results_{on}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (here / f"results_{on}.md").write_text(table + "\n", encoding="utf-8")
    draw(lines, here / f"results_{on}.png")
    print(table)
