"""Write a page for a folder of cases: one static HTML file with a sortable table and links to each case's files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES
from monai_pdddpm.visualize.templates import render

__all__ = ["write_report"]

Report = Mapping[str, Any]

_GENERATOR = "monai_pdddpm report"


def write_report(output_dir: Path, *, overwrite: bool = False) -> Path:
    """Write ``index.html`` for the output folder of an inference.

    The page loads only the cases' own pictures, by relative links. The same folder gives the same page; a page that is
    up to date is not written again, and an older page of this program is replaced.

    Args:
        output_dir: folder with a folder for each case, which contains ``<case>_report.json``.
        overwrite: also replace an ``index.html`` of another program.

    Returns:
        Path of the page.

    Raises:
        UserError: when the folder does not exist or holds no case, ``index.html`` is of another program, or the page
            cannot be written.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the output folder of an inference; check the path")
    failures = dict(failure for path in sorted(folder.glob(f"{FAILURES}/*.json")) for failure in _failure(path))
    reports = {path.parent.name: path for path in folder.glob("*/*_report.json") if _belongs(path)}
    if not failures and not reports:
        raise UserError(
            f"{folder}: found no case, expected folders with <case>_report.json; name the output folder of an inference"
        )
    path = folder / "index.html"
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if before is not None and f'content="{_GENERATOR}"' not in before and not overwrite:
        raise UserError(f"{path}: found a file of another program, expected none; move it away or allow overwriting")
    page = _page(folder, {name: _read(report) for name, report in reports.items()}, failures)
    if page != before:
        with atomic_write(path) as part:
            part.write_text(page, encoding="utf-8")
    return path


def _belongs(path: Path) -> bool:
    return path.name == f"{path.parent.name}_report.json"


def _failure(path: Path) -> Iterable[tuple[str, str]]:
    content = _json(path)
    case = content.get("case")
    if isinstance(case, str) and case == Path(case).name:  # not a path to another folder
        yield case, str(content.get("error", "unknown reason"))


def _json(path: Path) -> Report:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> Report | None:
    """Return a report, or None when it is broken."""
    report = _json(path)
    parts = [report.get(key, {}) for key in ("result", "seconds", "settings", "inference", "versions")]
    if not report or not all(isinstance(part, dict) for part in parts) or not isinstance(report.get("notes", []), list):
        return None
    for frame in _frames(report):
        volumes = frame.get("volume_ml", {}) if isinstance(frame, dict) else None
        if not isinstance(volumes, dict) or not all(isinstance(volume, dict) for volume in volumes.values()):
            return None
    return report


def _frames(report: Report) -> Sequence[Report]:
    """Return the results of each frame of a time series; one result for a single scan."""
    result = report.get("result", {})
    return result.get("frames", [result])


def _page(folder: Path, reports: Mapping[str, Report | None], failures: Mapping[str, str]) -> str:
    good = {name: report for name, report in reports.items() if report is not None}
    frames = [frame for name in sorted(good) for frame in _frames(good[name])]
    labels = list(dict.fromkeys(label for frame in frames for label in frame.get("volume_ml", {})))
    broken = {name: f"{name}_report.json cannot be read; run this case again" for name in reports if name not in good}
    failures = broken | dict(failures)
    rows = [
        _row(folder / name, good.get(name, {}), failures.get(name, ""), labels) for name in sorted({*good, *failures})
    ]
    return render(
        "report.html.j2",
        generator=_GENERATOR,
        title=f"Cases in {folder.resolve().name}",
        finished=f"{len(good)} case{'' if len(good) == 1 else 's'}",
        failed=len(failures),
        unusual=sum(bool(row["unusual"]) for row in rows),
        summary=_summary(list(good.values())),
        numbers=[*(f"{label} (mL)" for label in labels), "Predicted Dice", "Mean entropy (nats)", "Seconds"],
        rows=rows,
    )


def _summary(reports: Sequence[Report]) -> list[str]:
    """Return lines on time, settings and program of all finished cases."""
    if not reports:
        return []
    seconds = [sum(_finite(report.get("seconds", {}).values())) for report in reports]
    lines = [f"Median {statistics.median(seconds):.3g} s per case, {sum(seconds):.3g} s in total."]
    runs = {json.dumps([report.get("settings"), _made_with(report)], sort_keys=True) for report in reports}
    if len(runs) > 1:
        lines.append("The settings differ between cases; see their reports.")
    elif text := _made_with(reports[0]):
        lines.append(f"Each case: {text}.")
    programs = sorted({str(report.get("versions", {}).get("monai_pdddpm", "unknown")) for report in reports})
    return [*lines, f"monai_pdddpm {', '.join(programs)}."]


def _made_with(report: Report) -> str:
    """Return what was run in plain words, such as ``8 members, 15 steps, seed 0``."""
    run = report.get("inference", {})
    parts = {"members": "{} members", "time_steps": "{} steps", "seed": "seed {}"}
    values = {key: len(run[key]) if isinstance(run[key], list) else run[key] for key in parts if key in run}
    return ", ".join(parts[key].format(value) for key, value in values.items())


def _row(folder: Path, report: Report, failure: str, labels: Sequence[str]) -> dict[str, Any]:
    name, frames = folder.name, _frames(report)
    files = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if report else []
    unusual = report.get("result", {}).get("unlike_usual", [])
    dice = [frame["predicted_dice"] for frame in frames if frame.get("predicted_dice")]
    return {
        "name": name,
        "state": "failed" if failure else "unusual" if unusual else "finished",
        "failure": failure,
        "unusual": unusual,
        "notes": report.get("notes", []),
        "overview": f"{name}_overview.png" if f"{name}_overview.png" in files else None,
        "files": files,
        "numbers": [
            *(_volume([frame.get("volume_ml", {}).get(label, {}) for frame in frames]) for label in labels),
            _cell([one.get("value") for one in dice], min, interval=dice[0].get("interval_90") if dice else None),
            _cell([frame.get("mean_entropy_inside_nats") for frame in frames], max),
            _cell([sum(_finite(report["seconds"].values()))] if "seconds" in report else [], max, digits=1),
        ],
    }


def _volume(volumes: Sequence[Report]) -> dict[str, str] | None:
    members = [volumes[0].get("members_min"), volumes[0].get("members_max")]
    interval = volumes[0].get("interval_90") or members
    return _cell([volume.get("segmentation") for volume in volumes], statistics.fmean, interval=interval)


def _cell(
    values: Iterable[Any],
    key: Callable[[Sequence[float]], float],
    interval: Iterable[Any] | None = None,
    digits: int = 3,
) -> dict[str, str] | None:
    """Return a cell of one value with its interval, or of the range of several; ``key`` gives the value to sort by."""
    numbers = _finite(values)
    if not numbers:
        return None
    low, high = f"{min(numbers):.{digits}f}", f"{max(numbers):.{digits}f}"
    bounds = [f"{bound:.{digits}f}" for bound in _finite(interval or [])]
    return {
        "text": low if low == high else f"{low} to {high}",
        "interval": " to ".join(bounds) if len(numbers) == 1 and len(bounds) == 2 else "",
        "key": f"{key(numbers):.6g}",
    }


def _finite(values: Iterable[Any]) -> list[float]:
    """Return the finite numbers among values."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [float(value) for value in numbers if math.isfinite(value)]
