"""Write a page for a folder of cases: a static HTML file with a table and plots, and the table for a spreadsheet."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.utils.errors import UserError, some_files
from monai_pdddpm.utils.provenance import PAGE, TABLE, read_runs
from monai_pdddpm.visualize.cases import FIRST_COLUMNS, CaseRow, Report, as_csv, label_names, read_cases
from monai_pdddpm.visualize.templates import render

_GENERATOR = "monai_pdddpm report"
_ENTROPY = "Uncertainty (nats)"
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
    numbers = [_numbers(case, labels) for case in cases]
    used = [head for head in numbers[0] if any(each[head].values for each in numbers)]
    plotted = [(case, each) for case, each in zip(cases, numbers, strict=True) if case.report]
    titles = {f"{label} (mL)": f"{label}: volume in mL" for label in labels}
    titles[_ENTROPY] = "Uncertainty: mean entropy inside, in nats"
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
        plots=[
            _plot(title, [(case, each[head]) for case, each in plotted])
            for head, title in titles.items()
            if len(plotted) > 1
        ],
        numbers=used,
        rows=[
            _row(folder / case.name, case) | {"numbers": [each[head].cell() for head in used]}
            for case, each in zip(cases, numbers, strict=True)
        ],
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


def _row(folder: Path, case: CaseRow) -> dict[str, Any]:
    files = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if case.report else []
    shown = {what: f"{case.name}_{what}" for what in ("overview.png", "viewer.html")}
    pages = {what.partition(".")[0]: name if name in files else None for what, name in shown.items()}
    return {"case": case, "files": files, **pages}


@dataclass(frozen=True)
class _Number:
    """A number of a case in the table and in a plot."""

    values: Sequence[float]  # of the frames that have it
    interval: Sequence[float]  # of a single value
    key: Callable[..., float]  # gives the value to sort by
    digits: int

    def cell(self) -> dict[str, str] | None:
        """Return one value with its interval, or the range of several."""
        if not self.values:
            return None
        low, high, *bounds = (f"{x:.{self.digits}f}" for x in (min(self.values), max(self.values), *self.interval))
        text = low if low == high else f"{low} to {high}"
        return {"text": text, "interval": " to ".join(bounds), "key": f"{self.key(self.values):.6g}"}


def _numbers(case: CaseRow, labels: Sequence[str]) -> dict[str, _Number]:
    """Return the numbers of a case by the heads of their columns."""

    def number(values: Any, key: Callable[..., float] = max, interval: Any = (), digits: int = 3) -> _Number:
        found, bounds = ([x for x in some if x is not None] for some in (values, interval))
        return _Number(found, bounds if len(found) == 1 else (), key, digits)

    found = {}
    for label in labels:
        volumes = [frame.get("volume_ml", {}).get(label, {}) for frame in case.frames]
        bounds = volumes[0].get("interval_90") or [volumes[0].get(f"members_{end}") for end in ("min", "max")]
        found[f"{label} (mL)"] = number([each.get("segmentation") for each in volumes], statistics.fmean, bounds)
    dice = [frame.get("predicted_dice", {}) for frame in case.frames]
    found["Predicted Dice"] = number([each.get("value") for each in dice], min, dice[0].get("interval_90", ()))
    found[_ENTROPY] = number([frame.get("mean_entropy_inside_nats") for frame in case.frames])
    return found | {"Seconds": number([case.seconds], digits=1)}


def _plot(title: str, numbers: Sequence[tuple[CaseRow, _Number]]) -> dict[str, Any]:
    """Return the coordinates of a plot of cases, sorted by the mean of their values."""
    found = []
    for case, number in numbers:
        if number.values:
            ends = [*number.values, *number.interval]
            found.append((statistics.fmean(number.values), min(ends), max(ends), case))
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
