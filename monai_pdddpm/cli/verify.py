"""``verify``: compare the files of an output folder with the checksums that inference wrote."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_pdddpm.cli import Result
from monai_pdddpm.utils.errors import UserError, some_files
from monai_pdddpm.utils.provenance import FAILURES, RUNS, checksum, made_by, read_runs, record_id, report_path


def run(options: argparse.Namespace) -> Result:
    """Run ``verify``."""
    return verify(options.output_dir)


def verify(folder: Path) -> Result:
    """Compare files with the checksums in reports, reports with ``run.json``, and its entries with their ids.

    This finds damage and mistakes. It is no protection against someone who rewrites all files.

    Raises:
        UserError: if it is a file, or there is no case in the folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: found a file, expected the output_dir of a run; fix the path")
    cases = sorted(p for p in folder.iterdir() if p.is_dir() and p.name != FAILURES and p.name[0] != ".")
    if not cases:
        raise UserError(f"{folder}: found no case, expected the output_dir of a run; fix the path")
    findings, notes, files = [], [], 0
    runs = read_runs(folder)
    if runs is None:
        findings.append(f"{RUNS}: cannot be read; the runs are not verified")
    unchanged = {run["id"]: run for run in runs or [] if _is_unchanged(run)}
    findings += [f"{RUNS}: the entry of run {run['id']} was changed" for run in runs or [] if not _is_unchanged(run)]
    for case in cases:
        compared, found, remarks = _verify_case(case, unchanged)
        files += compared
        findings += [f"{case.name}: {text}" for text in found]
        notes += [f"{case.name}: {text}" for text in remarks]
    content = {"cases": len(cases), "files": files, "findings": findings, "notes": notes}
    result = f"{len(findings)} problems" if findings else "unchanged"
    lines = [f"note: {note}" for note in notes] + [f"{len(cases)} cases, {files} files: {result}"]
    return Result(content, lines, findings)


def _is_unchanged(run: Mapping[str, Any]) -> bool:
    try:
        return bool(made_by(run)) and run["id"] == record_id(run)
    except (KeyError, TypeError):
        return False


def _verify_case(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> tuple[int, list[str], list[str]]:
    """Return the number of compared files, the problems and the remarks of a case."""
    path = report_path(folder.parent, folder.name)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        files, inputs = dict(report["files"]), dict(report.get("inputs", {}))
        written, settings = dict(report.get("made_by") or {}), report["settings"]
    except FileNotFoundError:
        return 0, ["no report; the case is unfinished or of another program"], []
    except (OSError, ValueError, KeyError, TypeError):
        return 0, [f"{path.name} was changed; it is not a report with checksums"], []
    found = []
    for name, expected in files.items():
        if (now := checksum(folder / name)) != expected:
            found.append(f"{name} is missing" if now is None else f"{name} was changed")
    others = sorted(p.name for p in folder.iterdir() if p.name not in files and p != path)
    notes = [f"not written by the run: {some_files(others)}"] if others else []
    for name, expected in inputs.items():
        if (now := checksum(name)) is None:
            notes.append(f"its scan {name} does not exist and is not compared")
        elif now != expected:
            found.append(f"its scan {name} was changed after it was read")
    run = runs.get(written.get("run", ""))
    if run is None:
        found.append(f"{RUNS} does not list the run that made it")
    elif written != made_by(run) or settings != run["settings"]:
        found.append(f"{path.name} was changed; it does not agree with {RUNS}")
    return len(files), found, notes
