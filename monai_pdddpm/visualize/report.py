"""Write a page for a folder of cases: a static HTML file with a table and plots, and the table for a spreadsheet."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.utils.errors import UserError, some_files
from monai_pdddpm.utils.provenance import read_runs
from monai_pdddpm.visualize.cases import FIRST_COLUMNS, CaseRow, Report, as_csv, label_names, read_cases
from monai_pdddpm.visualize.templates import render

_GENERATOR = "monai_pdddpm report"
PAGE, TABLE = "index.html", "cases.csv"
_WIDTH, _HEIGHT, _LEFT, _EDGE = 430, 190, 48, 12  # of a plot, in pixels


def write_report(output_dir: Path, *, overwrite: bool = False) -> Path:
    """Write ``index.html`` and ``cases.csv`` for the output folder of an inference.

    The page loads only the cases' own pictures, by relative links. The same folder gives the same files; a file that is
    up to date is not written again, and an older one of this program is replaced.

    Args:
        output_dir: folder with a folder for each case, which contains ``<case>_report.json``.
        overwrite: also replace files of another program.

    Returns:
        Path of the page.

    Raises:
        UserError: when the folder holds no case, a file is of another program, or a file cannot be written.
    """
    folder = Path(output_dir)
    cases = read_cases(folder)
    if not cases:
        raise UserError(
            f"{folder}: found no case, expected folders with <case>_report.json; name the output folder of an inference"
        )
    # what each file of this program contains
    files = {
        TABLE: (as_csv(cases), ",".join(FIRST_COLUMNS)),
        PAGE: (_page(folder, cases), f'content="{_GENERATOR}"'),
    }
    before = {}
    for name, (_, mark) in files.items():
        path = folder / name
        if path.is_file():
            before[name] = path.read_text(encoding="utf-8", errors="replace")
            if mark not in before[name] and not overwrite:
                raise UserError(
                    f"{path}: found a file of another program, expected none; move it away or allow overwriting"
                )
    for name, (text, _) in files.items():
        if text != before.get(name):
            write_text(folder / name, text)
    return folder / PAGE


def _page(folder: Path, cases: Sequence[CaseRow]) -> str:
    labels = label_names(cases)
    good = [case for case in cases if case.report]
    rows = [_row(folder / case.name, case, labels) for case in cases]
    used = [any(column) for column in zip(*(row["numbers"] for row in rows), strict=True)]
    for row in rows:
        row["numbers"] = list(compress(row["numbers"], used))
    heads = [*(f"{label} (mL)" for label in labels), "Predicted Dice", "Uncertainty (nats)", "Seconds"]
    return render(
        "report.html.j2",
        generator=_GENERATOR,
        table=TABLE,
        title=f"Cases in {folder.resolve().name}",
        finished=f"{len(good)} case{'' if len(good) == 1 else 's'}",
        counts={
            "all": len(cases),
            "check": sum(bool(case.unusual) for case in cases),
            "failed": sum(bool(case.failure) for case in cases),
            "notes": sum(bool(case.notes) for case in cases),
        },
        summary=[*_summary([case.report for case in good]), *_unused(folder)],
        plots=[*(_volume_plot(good, label) for label in labels), _entropy_plot(good)] if len(good) > 1 else [],
        numbers=list(compress(heads, used)),
        rows=rows,
    )


def _summary(reports: Sequence[Report]) -> list[str]:
    """Return sentences on time, settings and program of all finished cases."""
    if not reports:
        return []
    seconds = [sum(report.get("seconds", {}).values()) for report in reports]
    lines = [f"Each case took about {statistics.median(seconds):.3g} s, all together {sum(seconds):.3g} s."]
    made = {_made_with(report) for report in reports}
    different = len({json.dumps(report.get("settings"), sort_keys=True) for report in reports}) > 1 or len(made) > 1
    lines += ["The settings differ between cases; see their reports."] if different else sorted(made)
    programs = sorted({report.get("versions", {}).get("monai_pdddpm", "unknown") for report in reports})
    return [*filter(None, lines), f"Made with monai_pdddpm {', '.join(programs)}."]


def _unused(folder: Path) -> list[str]:
    """Return a line on what the last run was given and did not use."""
    runs = read_runs(folder) or [{}]
    unused = runs[-1].get("input", {}).get("unused")
    return [f"Not used: {some_files(unused)} (see run.json)."] if unused else []


def _made_with(report: Report) -> str:
    """Return what was run in plain words."""
    run = report.get("inference", {})
    if not run:
        return ""
    return (
        f"For each case, {run['members']} plausible segmentations were drawn in {len(run['time_steps'])} steps each "
        f"(random seed {run['seed']})."
    )


def _row(folder: Path, case: CaseRow, labels: Sequence[str]) -> dict[str, Any]:
    name, frames = case.name, case.frames
    files = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if case.report else []
    dice = [frame["predicted_dice"] for frame in frames if frame.get("predicted_dice")]
    return {
        "case": case,
        "overview": f"{name}_overview.png" if f"{name}_overview.png" in files else None,
        "viewer": f"{name}_viewer.html" if f"{name}_viewer.html" in files else None,
        "files": files,
        "numbers": [
            *(_cell(*_volumes(frames, label)) for label in labels),
            _cell([one["value"] for one in dice], min, dice[0]["interval_90"] if dice else ()),
            _cell([frame.get("mean_entropy_inside_nats") for frame in frames], max),
            _cell([case.seconds], max, digits=1),
        ],
    }


def _volumes(
    frames: Sequence[Report], label: str
) -> tuple[list[float | None], Callable[..., float], list[float | None]]:
    """Return the volumes of a structure, the function that sums them up, and the interval of the first."""
    volumes = [frame.get("volume_ml", {}).get(label, {}) for frame in frames]
    interval = volumes[0].get("interval_90") or [volumes[0].get("members_min"), volumes[0].get("members_max")]
    return [volume.get("segmentation") for volume in volumes], statistics.fmean, interval


def _cell(
    values: Sequence[float | None],
    key: Callable[..., float],
    interval: Sequence[float | None] = (),
    digits: int = 3,
) -> dict[str, str] | None:
    """Return a cell of one value with its interval, or of the range of several; ``key`` gives the value to sort by."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    low, high = f"{min(numbers):.{digits}f}", f"{max(numbers):.{digits}f}"
    bounds = [f"{bound:.{digits}f}" for bound in interval if bound is not None]
    return {
        "text": low if low == high else f"{low} to {high}",
        "interval": " to ".join(bounds) if len(numbers) == 1 else "",
        "key": f"{key(numbers):.6g}",
    }


def _volume_plot(cases: Sequence[CaseRow], label: str) -> dict[str, Any]:
    points = []
    for case in cases:
        values, _, interval = _volumes(case.frames, label)
        points.append((case, values, interval if len(values) == 1 else ()))
    return _plot(f"{label}: volume in mL", points)


def _entropy_plot(cases: Sequence[CaseRow]) -> dict[str, Any]:
    points = [(case, [frame.get("mean_entropy_inside_nats") for frame in case.frames], ()) for case in cases]
    return _plot("Uncertainty: mean entropy inside, in nats", points)


def _plot(
    title: str, points: Sequence[tuple[CaseRow, Sequence[float | None], Sequence[float | None]]]
) -> dict[str, Any]:
    """Return the coordinates of a plot of cases, each with the values of its frames and an interval, by their mean."""
    found = []
    for case, values, interval in points:
        numbers = [value for value in values if value is not None]
        if numbers:
            ends = [*numbers, *(bound for bound in interval if bound is not None)]
            found.append((statistics.fmean(numbers), min(ends), max(ends), case))
    found.sort(key=lambda point: point[:3])
    ticks = MaxNLocator(4).tick_values(0, max((high for _, _, high, _ in found), default=0) or 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _EDGE - value / ticks[-1] * (_HEIGHT - 2 * _EDGE), 1)

    step = (_WIDTH - _LEFT - _EDGE) / max(len(found), 1)
    return {
        "title": title,
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "ticks": [{"y": y(tick), "text": f"{tick:g}"} for tick in ticks],
        "radius": round(min(4, max(1.5, step / 2)), 1),
        "points": [
            {
                "case": case,
                "x": round(_LEFT + (rank + 0.5) * step, 1),
                "y": y(value),
                "low": y(low),
                "high": y(high),
                "text": f"{case.name}: {value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else ""),
            }
            for rank, (value, low, high, case) in enumerate(found)
        ],
    }
