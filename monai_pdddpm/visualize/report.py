"""A page for a folder of cases: one static HTML file, with a sortable table and links to each case's files."""

from __future__ import annotations

import html
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES

__all__ = ["write_report"]

_NAME = "index.html"
_GENERATOR = '<meta name="generator" content="monai_pdddpm report">'
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em; }
h1 { font-size: 1.4em; margin: 0 0 .3em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 1em; }
th, td { border-bottom: 1px solid #8885; padding: .35em .7em; text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: Canvas; white-space: nowrap; }
th button { font: inherit; font-weight: bold; border: 0; padding: 0; background: none; color: inherit; cursor: pointer }
th button::after { content: " \\2195"; opacity: .4; }
th[aria-sort] button::after { opacity: 1; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
small { opacity: .75; display: block; }
img { width: 200px; height: auto; display: block; }
.bad { color: #c33; }
.look { color: #b60; }
@media (prefers-color-scheme: dark) { .bad { color: #f88; } .look { color: #fb6; } }
ul { margin: 0; padding-left: 1.1em; }
"""
# rows without a value stay last, whichever way
_SCRIPT = """
for (const [column, head] of document.querySelectorAll("thead th").entries()) {
  if (!head.dataset.kind) continue;
  const button = document.createElement("button");
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = document.querySelector("tbody");
    const key = row => row.cells[column].dataset.value;
    const compare = head.dataset.kind === "number"
      ? (a, b) => a - b
      : (a, b) => a.localeCompare(b, undefined, {numeric: true});
    const [full, empty] = [[], []];
    for (const row of body.rows) (key(row) ? full : empty).push(row);
    full.sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
    body.append(...full, ...empty);
  });
}
"""


@dataclass(frozen=True)
class _Case:
    """What is known of a case: its folder, its report, or why there is none."""

    name: str
    report: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    files: Sequence[str] = ()

    @property
    def frames(self) -> Sequence[Mapping[str, Any]]:
        """Results of each frame; of one that is no time series, a single one."""
        result = self.report.get("result", {})
        return result.get("frames", [result]) if self.report else []

    @property
    def unlike(self) -> Sequence[str]:
        """In what the case is unlike those of the calibration."""
        return self.report.get("result", {}).get("unlike_usual", [])

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages together; None without a report."""
        return sum(_numbers(self.report.get("seconds", {}).values())) if self.report else None


def write_report(output_dir: Path, *, overwrite: bool = False) -> Path:
    """Write ``index.html`` for a folder of cases that inference has left behind.

    The page needs nothing but itself and the cases' own files, to which its links are relative: no network, no other
    script. Pictures are the cases' overviews. The same folder gives the same page, and a page that is up to date is
    left alone; one that this program wrote is replaced without asking, since it is an index and holds nothing new.

    Args:
        output_dir: with a folder for each case and in it ``<case>_report.json``.
        overwrite: replace an ``index.html`` that is not of this program.

    Returns:
        path of the page.

    Raises:
        UserError: when there is no such folder or no case in it, another ``index.html`` is in the way, or the disk does
            not take the file.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the output folder of an inference; check the path")
    cases = _cases(folder)
    if not cases:
        raise UserError(
            f"{folder}: found no case, expected folders with <case>_report.json as inference leaves them behind; name "
            "its output folder"
        )
    path = folder / _NAME
    there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if there is not None and _GENERATOR not in there and not overwrite:
        raise UserError(f"{path}: is there and was not written by this program; move it away, or allow to overwrite it")
    page = _page(folder, cases)
    if page != there:
        with atomic_write(path) as part:
            part.write_text(page, encoding="utf-8")
    return path


def _cases(folder: Path) -> list[_Case]:
    """Find what is finished, what failed, and what cannot be read."""
    failures = {case: error for path in folder.glob(f"{FAILURES}/*.json") for case, error in _failure(path)}
    names = {
        path.parent.name for path in folder.glob("*/*_report.json") if path.name == f"{path.parent.name}_report.json"
    }
    return [_case(folder / name, failures.get(name, "")) for name in sorted(names | set(failures))]


def _failure(path: Path) -> Iterable[tuple[str, str]]:
    content = _read(path)
    case = (content or {}).get("case")
    if content is not None and isinstance(case, str) and case == Path(case).name:  # a name, and no path elsewhere
        yield case, str(content.get("error", "for an unknown reason"))


def _case(folder: Path, failure: str) -> _Case:
    path = folder / f"{folder.name}_report.json"
    if not path.is_file():
        return _Case(folder.name, failure=failure)
    report = _read(path)
    if report is None or not _is_report(report):
        return _Case(folder.name, failure=failure or f"{path.name} cannot be read; make the case anew")
    files = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    return _Case(folder.name, report, failure, files)


def _is_report(report: Mapping[str, Any]) -> bool:
    """Tell whether the parts that the page shows are of the kind that it expects."""
    parts = [report.get(key, {}) for key in ("result", "seconds", "settings", "versions")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(report.get("notes", []), list):
        return False
    frames = parts[0].get("frames", [parts[0]])
    volumes = [frame.get("volume_ml", {}) for frame in frames if isinstance(frame, dict)]
    each = [volume for of_frame in volumes if isinstance(of_frame, dict) for volume in of_frame.values()]
    return len(volumes) == len(frames) and all(isinstance(part, dict) for part in (*volumes, *each))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _page(folder: Path, cases: Sequence[_Case]) -> str:
    """Put the page together."""
    labels = list(
        dict.fromkeys(label for case in cases for frame in case.frames for label in frame.get("volume_ml", {}))
    )
    title = html.escape(f"Cases in {folder.resolve().name}")
    heads = ["", "Case", "State", *(f"{label} (mL)" for label in labels), "Predicted Dice", "Mean entropy (nats)"]
    kinds = ["", "text", "text", *("number" for _ in labels), "number", "number", "number", ""]
    head = "".join(
        f'<th scope="col" data-kind="{kind}">{html.escape(text)}</th>' if kind else f"<th>{text}</th>"
        for text, kind in zip([*heads, "Seconds", "Files"], kinds, strict=True)
    )
    rows = "\n".join(_row(case, labels) for case in cases)
    policy = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
{_GENERATOR}
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{_summary(cases)}
<div class="wide">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p><small>Volume: of the segmentation; below it the 90 % interval where a calibration gives one, else the range over
the members. Predicted Dice: what the calibration expects, with its 90 % interval. Mean entropy: inside the
segmentation; 0 is certain. Of a time series: from the lowest to the highest frame, sorted by the mean; Dice by the
lowest, entropy by the highest. Click on a column's name to sort. Research software: not for diagnosis or
treatment.</small></p>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _summary(cases: Sequence[_Case]) -> str:
    """Say how many cases there are of each kind, and what they were made with."""
    finished = [case for case in cases if case.report]
    failed = sum(bool(case.failure) for case in cases)
    unlike = sum(bool(case.unlike) for case in finished)
    lines = [
        f"{_count(len(finished), 'case')} finished, "
        + (f'<span class="bad">{failed} failed</span>, ' if failed else "none failed, ")
        + (f'<span class="look">{unlike} to look at closely</span>.' if unlike else "none unlike the usual.")
    ]
    if seconds := [case.seconds for case in finished if case.seconds is not None]:
        lines.append(f"{statistics.median(seconds):.3g} s a case (median), {sum(seconds):.3g} s together.")
    settings = {json.dumps(case.report.get("settings", {}), sort_keys=True) for case in finished}
    if len(settings) == 1:
        made = ", ".join(f"{key} {value}" for key, value in finished[0].report.get("settings", {}).items())
        lines.append(f"Made with: {html.escape(made)}.")
    elif settings:
        lines.append('<span class="look">Made with settings that differ between cases; see their reports.</span>')
    programs = sorted({str(case.report.get("versions", {}).get("monai_pdddpm", "unknown")) for case in finished})
    if programs:
        lines.append(f"monai_pdddpm {html.escape(', '.join(programs))}.")
    return "<p>" + "<br>\n".join(lines) + "</p>"


def _row(case: _Case, labels: Sequence[str]) -> str:
    cells = [_picture(case), _text(case.name, case.name), _state(case)]
    cells += [_volume(case, label) for label in labels]
    cells += [_dice(case), _entropy(case), _number(case.seconds, [case.seconds], digits=1)]
    return f'<tr id="{_link("case", case.name)}">{"".join(cells)}<td>{_files(case)}</td></tr>'


def _picture(case: _Case) -> str:
    name = f"{case.name}_overview.png"
    if name not in case.files:
        return "<td></td>"
    link = _link(case.name, name)
    text = html.escape(f"Overview of {case.name}")
    return f'<td><a href="{link}"><img src="{link}" alt="{text}" loading="lazy"></a></td>'


def _state(case: _Case) -> str:
    """Tell whether a case is finished, and what to know before trusting it."""
    parts = []
    if case.failure:
        again = " when tried again; what is shown is of an earlier run" if case.report else ""
        parts.append(f'<span class="bad">failed{again}</span>: {html.escape(case.failure)}')
    if case.unlike:
        listed = "".join(f"<li>{html.escape(str(text))}</li>" for text in case.unlike)
        parts.append(f'<span class="look">unlike the usual cases</span>: look closely<ul>{listed}</ul>')
    parts += [html.escape(str(note)) for note in case.report.get("notes", [])]
    rank = "failed" if case.failure else "unlike" if case.unlike else "finished"
    return f'<td data-value="{rank}">{"<br>".join(parts) or "finished"}</td>'


def _volume(case: _Case, label: str) -> str:
    found = [frame["volume_ml"][label] for frame in case.frames if label in frame.get("volume_ml", {})]
    values = [volume.get("segmentation") for volume in found]
    interval = None
    if len(found) == 1:
        volume = found[0]
        interval = volume.get("interval_90") or [volume.get("members_min"), volume.get("members_max")]
    return _number(_mean(values), values, interval, digits=3)


def _dice(case: _Case) -> str:
    found = [frame["predicted_dice"] for frame in case.frames if frame.get("predicted_dice")]
    values = [dice.get("value") for dice in found]
    return _number(_least(values), values, found[0].get("interval_90") if len(found) == 1 else None, digits=3)


def _entropy(case: _Case) -> str:
    values = [frame.get("mean_entropy_inside_nats") for frame in case.frames]
    numbers = _numbers(values)
    return _number(max(numbers, default=None), values, digits=3)


def _number(key: float | None, values: Sequence[Any], interval: Sequence[Any] | None = None, digits: int = 3) -> str:
    """Make a cell of one value or the span of many, with an interval below; sorted by `key`."""
    numbers = _numbers(values)
    if key is None or not numbers:
        return '<td class="number"></td>'
    low, high = min(numbers), max(numbers)
    text = f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} to {high:.{digits}f}"
    bounds = _numbers(interval or [])
    below = f"<small>{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}</small>" if len(bounds) == 2 else ""
    return f'<td class="number" data-value="{key:.6g}">{text}{below}</td>'


def _text(value: str, text: str) -> str:
    return f'<td data-value="{html.escape(value)}">{html.escape(text)}</td>'


def _files(case: _Case) -> str:
    links = [f'<a href="{_link(case.name, name)}">{html.escape(_short(case.name, name))}</a>' for name in case.files]
    if not links:
        return ""
    return f"<details><summary>{_count(len(links), 'file')}</summary>{'<br>'.join(links)}</details>"


def _short(case: str, name: str) -> str:
    return name.removeprefix(f"{case}_")


def _link(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _numbers(values: Iterable[Any]) -> list[float]:
    """Leave out what is no finite number."""
    return [
        float(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _mean(values: Sequence[Any]) -> float | None:
    numbers = _numbers(values)
    return statistics.fmean(numbers) if numbers else None


def _least(values: Sequence[Any]) -> float | None:
    return min(_numbers(values), default=None)
