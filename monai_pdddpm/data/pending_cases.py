"""Which cases of a run are finished already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.data.case import case_name
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import made_by, report_path
from monai_pdddpm.utils.ranks import is_first_rank


def pending_cases(
    cases: Sequence[dict[str, Any]],
    output_dir: str | Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Leave out the cases whose outputs are complete and were made with the same settings, weights and calibration.

    Args:
        cases: each with the path of a scan, or a list of paths, under ``image``.
        output_dir: where the outputs go, one folder a case.
        settings: what the run was asked for (seed, members, ...), as the reports keep it.
        overwrite: make all cases anew.
        record: of this run, see :func:`monai_pdddpm.data.provenance_record`; without it weights are not compared.

    Returns:
        the cases that are still to do.

    Raises:
        UserError: when finished outputs were made with other settings or weights, since they would be overwritten
            silently, or stand beside others that they cannot be compared with.
    """
    if overwrite:
        return list(cases)
    settings = json.loads(json.dumps(dict(settings)))  # as it comes back from a report
    todo = []
    for case in cases:
        report = report_path(output_dir, case_name(case["image"]))
        if not report.is_file():
            todo.append(case)
            continue
        try:
            found = json.loads(report.read_text(encoding="utf-8"))
            made_with, before = dict(found["settings"]), dict(found.get("made_by") or {})
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{report}: found no report of this program, expected one beside its outputs; give another "
                "--output_dir, or replace them with --overwrite True"
            ) from None
        differing = [key for key in settings if made_with.get(key) != settings[key]]
        if differing:
            key = differing[0]
            raise UserError(
                f"{report.parent}: outputs made with {key}={made_with.get(key)} are there, {key}={settings[key]} is "
                f"asked for; give another --output_dir, or replace them with --overwrite True"
            )
        now = made_by(record) if record and before else {}
        for part, words in (("weights", "other weights"), ("calibration", "another calibration")):
            if before.get(part) != now.get(part, before.get(part)):
                raise UserError(
                    f"{report.parent}: outputs made with {words} are there; give another --output_dir, or replace "
                    "them with --overwrite True"
                )
    if len(todo) < len(cases) and is_first_rank():
        print(
            f"{len(cases) - len(todo)} of {len(cases)} cases are finished in {output_dir}; --overwrite True redoes them"
        )
    return todo
