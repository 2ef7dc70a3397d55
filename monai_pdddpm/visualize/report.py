"""Write a page for a folder of cases: one static HTML file with a sortable table and links to each case's files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.utils.errors import UserError, some_files
from monai_pdddpm.utils.provenance import FAILURES, read_runs
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
        UserError: when the folder holds no case, ``index.html`` is of another program, or the page cannot be written.
    """
    folder = Path(output_dir)
    failures = dict(map(_failure, sorted(folder.glob(f"{FAILURES}/*.json"))))
    reports = {path.parent.name: _json(path) for path in folder.glob("*/*_report.json") if _belongs(path)}
    if not failures and not reports:
        raise UserError(
            f"{folder}: found no case, expected folders with <case>_report.json; name the output folder of an inference"
        )
    path = folder / "index.html"
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if before is not None and f'content="{_GENERATOR}"' not in before and not overwrite:
        raise UserError(f"{path}: found a file of another program, expected none; move it away or allow overwriting")
    page = _page(folder, reports, failures)
    if page != before:
        write_text(path, page)
    return path


def _belongs(path: Path) -> bool:
    return path.name == f"{path.parent.name}_report.json"


def _failure(path: Path) -> tuple[str, str]:
    return path.stem, str(_json(path).get("error", "unknown reason"))


def _json(path: Path) -> Report:
    """Return a JSON object, or an empty one if the file was cut short."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _frames(report: Report) -> Sequence[Report]:
    """Return the results of each frame of a time series; one result for a single scan."""
    result = report.get("result", {})
    return result.get("frames", [result])


def _page(folder: Path, reports: Mapping[str, Report], failures: Mapping[str, str]) -> str:
    good = {name: report for name, report in reports.items() if report}
    broken = {name: f"{name}_report.json cannot be read; run this case again" for name in reports if name not in good}
    failures = broken | dict(failures)
    frames = [frame for name in sorted(good) for frame in _frames(good[name])]
    labels = list(dict.fromkeys(label for frame in frames for label in frame.get("volume_ml", {})))
    names = sorted({*good, *failures})
    rows = [_row(folder / name, good.get(name, {}), failures.get(name, ""), labels) for name in names]
    return render(
        "report.html.j2",
        generator=_GENERATOR,
        title=f"Cases in {folder.resolve().name}",
        finished=f"{len(good)} case{'' if len(good) == 1 else 's'}",
        failed=len(failures),
        unusual=sum(bool(row["unusual"]) for row in rows),
        summary=[*_summary(list(good.values())), *_unused(folder)],
        numbers=[*(f"{label} (mL)" for label in labels), "Predicted Dice", "Mean entropy (nats)", "Seconds"],
        rows=rows,
    )


def _summary(reports: Sequence[Report]) -> list[str]:
    """Return lines on time, settings and program of all finished cases."""
    if not reports:
        return []
    seconds = [sum(report.get("seconds", {}).values()) for report in reports]
    lines = [f"Median {statistics.median(seconds):.3g} s per case, {sum(seconds):.3g} s in total."]
    runs = {json.dumps([report.get("settings"), _made_with(report)], sort_keys=True) for report in reports}
    if len(runs) > 1:
        lines.append("The settings differ between cases; see their reports.")
    elif text := _made_with(reports[0]):
        lines.append(f"Each case: {text}.")
    programs = sorted({report.get("versions", {}).get("monai_pdddpm", "unknown") for report in reports})
    return [*lines, f"monai_pdddpm {', '.join(programs)}."]


def _unused(folder: Path) -> list[str]:
    """Return a line on what the last run was given and did not use."""
    runs = read_runs(folder) or [{}]
    unused = runs[-1].get("input", {}).get("unused")
    return [f"Not used: {some_files(unused)} (see run.json)."] if unused else []


def _made_with(report: Report) -> str:
    """Return what was run in plain words, such as ``8 members, 15 steps, seed 0``."""
    run = report.get("inference", {})
    return f"{run['members']} members, {len(run['time_steps'])} steps, seed {run['seed']}" if run else ""


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
            _cell([one["value"] for one in dice], min, dice[0]["interval_90"] if dice else ()),
            _cell([frame.get("mean_entropy_inside_nats") for frame in frames], max),
            _cell([sum(report["seconds"].values())], max, digits=1) if "seconds" in report else None,
        ],
    }


def _volume(volumes: Sequence[Report]) -> dict[str, str] | None:
    members = [volumes[0].get("members_min"), volumes[0].get("members_max")]
    interval = volumes[0].get("interval_90") or members
    return _cell([volume.get("segmentation") for volume in volumes], statistics.fmean, interval)


def _cell(
    values: Sequence[float | None],
    key: Callable[[Sequence[float]], float],
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
