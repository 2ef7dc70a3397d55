"""Are the files of an output folder still those that inference wrote, and is it known what made them?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES, RUNS, checksum, made_by, read_runs, record_id, report_path


@dataclass
class Verified:
    """What was found in an output folder.

    Attributes:
        cases: number of cases.
        files: number of files that were compared.
        findings: lines on what is not as it was written.
        notes: lines on what cannot be told.
    """

    cases: int = 0
    files: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(output_dir: str | Path) -> Verified:
    """Compare the files of an output folder with the checksums that its reports and ``run.json`` hold.

    A report cannot hold its own checksum: what it says of weights, code and settings is compared with ``run.json``, and
    the entries of that with the checksums that are their names. This finds damage and mistakes; who wants to deceive
    can write all of them anew.

    Args:
        output_dir: folder with one folder a case.

    Raises:
        UserError: when the folder is not there or holds no case.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder, expected one with results; fix the path")
    found = Verified()
    runs = _runs(folder, found)
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != FAILURES and p.name[0] != "."):
        found.cases += 1
        _case(path, runs, found)
    if not found.cases:
        raise UserError(f"{folder}: found no case, expected the output_dir of a run; fix the path")
    return found


def _runs(folder: Path, found: Verified) -> dict[str, Mapping[str, Any]]:
    runs = read_runs(folder)
    if runs is None:
        found.findings.append(f"{RUNS}: cannot be read, so nothing can be said of the runs")
    sound: dict[str, Mapping[str, Any]] = {}
    for run in runs or []:
        try:
            made_by(run)
            unchanged = run["id"] == record_id(run)
        except (KeyError, TypeError):
            unchanged = False
        if unchanged:
            sound[run["id"]] = run
        else:
            found.findings.append(f"{RUNS}: the entry of run {run['id']} was changed")
    return sound


def _case(folder: Path, runs: Mapping[str, Mapping[str, Any]], found: Verified) -> None:
    case, path = folder.name, report_path(folder.parent, folder.name)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        files, inputs = report["files"], report.get("inputs", {})
        written, settings = dict(report.get("made_by") or {}), report["settings"]
    except FileNotFoundError:
        found.findings.append(f"{case}: no report, so it was not finished, or is not of this program")
        return
    except (OSError, ValueError, KeyError, TypeError):
        found.findings.append(f"{case}: {path.name} was changed, it cannot be read as a report")
        return
    if not isinstance(files, dict):
        found.findings.append(f"{case}: {path.name} holds no checksums, being of an earlier version")
        return
    for name, expected in files.items():
        found.files += 1
        if (now := checksum(folder / name)) != expected:
            found.findings.append(f"{case}: {name} " + ("is missing" if now is None else "was changed"))
    for name in sorted(p.name for p in folder.iterdir()):
        if name not in files and name != path.name:
            found.notes.append(f"{case}: {name} is not of the run")
    for name, expected in inputs.items():
        if (now := checksum(name)) is None:
            found.notes.append(f"{case}: its scan {name} is not there to be compared")
        elif now != expected:
            found.findings.append(f"{case}: its scan {name} was changed since it was read")
    run = runs.get(written.get("run", ""))
    if run is None:
        found.findings.append(f"{case}: {RUNS} does not know the run that made it")
    elif written != made_by(run) or settings != run["settings"]:
        found.findings.append(f"{case}: {path.name} was changed, it does not agree with {RUNS}")
