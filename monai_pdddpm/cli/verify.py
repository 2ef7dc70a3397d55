"""``verify``: compare the files of an output folder with the checksums that inference wrote."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_pdddpm.cli import Result
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES, RUNS, checksum, made_by, read_runs, record_id, report_path

__all__ = ["Verified", "run", "verify"]


@dataclass
class Verified:
    """The state of an output folder: numbers of cases and compared files, problems, and remarks."""

    cases: int = 0
    files: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(options: argparse.Namespace) -> Result:
    """Run ``verify``."""
    found = verify(options.output_dir.expanduser())
    result = f"{len(found.findings)} problems" if found.findings else "unchanged"
    lines = [f"note: {note}" for note in found.notes] + [f"{found.cases} cases, {found.files} files: {result}"]
    return Result(vars(found), lines, found.findings)


def verify(output_dir: str | Path) -> Verified:
    """Compare files with the checksums in reports, reports with ``run.json``, and its entries with their ids.

    This finds damage and mistakes. It is no protection against someone who rewrites all files.

    Raises:
        UserError: if there is no such folder, or no case in it.
    """
    folder = Path(output_dir)
    found = Verified()
    if not folder.is_dir():
        raise UserError(f"{folder}: found no folder, expected one with results; fix the path")
    runs = _runs(folder, found)
    cases = sorted(p for p in folder.iterdir() if p.is_dir() and p.name != FAILURES and p.name[0] != ".")
    for path in cases:
        _verify_case(path, runs, found)
    found.cases = len(cases)
    if not cases:
        raise UserError(f"{folder}: found no case, expected the output_dir of a run; fix the path")
    return found


def _runs(folder: Path, found: Verified) -> dict[str, Mapping[str, Any]]:
    """Return the unchanged entries of ``run.json`` by their id."""
    runs = read_runs(folder)
    if runs is None:
        found.findings.append(f"{RUNS}: cannot be read; the runs are not verified")
    changed = [run for run in runs or [] if not _is_unchanged(run)]
    found.findings += [f"{RUNS}: the entry of run {run['id']} was changed" for run in changed]
    return {run["id"]: run for run in runs or [] if run not in changed}


def _is_unchanged(run: Mapping[str, Any]) -> bool:
    try:
        return bool(made_by(run)) and run["id"] == record_id(run)
    except (KeyError, TypeError):
        return False


def _verify_case(folder: Path, runs: Mapping[str, Mapping[str, Any]], found: Verified) -> None:
    case, path = folder.name, report_path(folder.parent, folder.name)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        files, inputs = dict(report["files"]), dict(report.get("inputs", {}))
        written, settings = dict(report.get("made_by") or {}), report["settings"]
    except FileNotFoundError:
        found.findings.append(f"{case}: no report; the case is unfinished or of another program")
        return
    except (OSError, ValueError, KeyError, TypeError):
        found.findings.append(f"{case}: {path.name} was changed; it is not a report with checksums")
        return
    for name, expected in files.items():
        found.files += 1
        if (now := checksum(folder / name)) != expected:
            found.findings.append(f"{case}: {name} " + ("is missing" if now is None else "was changed"))
    for name in sorted(p.name for p in folder.iterdir() if p.name not in files and p != path):
        found.notes.append(f"{case}: {name} was not written by the run")
    for name, expected in inputs.items():
        if (now := checksum(name)) is None:
            found.notes.append(f"{case}: its scan {name} does not exist and is not compared")
        elif now != expected:
            found.findings.append(f"{case}: its scan {name} was changed after it was read")
    run = runs.get(written.get("run", ""))
    if run is None:
        found.findings.append(f"{case}: {RUNS} does not list the run that made it")
    elif written != made_by(run) or settings != run["settings"]:
        found.findings.append(f"{case}: {path.name} was changed; it does not agree with {RUNS}")
