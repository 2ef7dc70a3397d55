"""The cases of a run that are not finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_pdddpm.data.case import Case, case_name
from monai_pdddpm.data.presegmentations import find_presegmentation
from monai_pdddpm.utils.chosen_outputs import is_case_file
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import made_by, report_path
from monai_pdddpm.utils.ranks import is_first_rank


def pending_cases(
    cases: Sequence[dict[str, Any]], output_dir: str | Path, record: Mapping[str, Any], overwrite: bool = False
) -> list[dict[str, Any]]:
    """Leave out the cases whose results are complete and were made with the same settings, weights and calibration.

    Args:
        cases: of a list, see `inference_cases`.
        output_dir: folder of the results, with one folder per case.
        record: record of this run, see :func:`monai_pdddpm.utils.provenance.provenance_record`.
        overwrite: True repeats all cases.

    Raises:
        UserError: if finished results were made otherwise: they would be overwritten silently, or lie beside results
            that cannot be compared with them. Also if an input lies where a result is to be written.
    """
    _check_inputs(cases, output_dir, record["settings"].get("presegmentation_dir"))
    if overwrite:
        return list(cases)
    settings, now = record["settings"], made_by(record)
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
                f"{report}: found another file, expected a report of this package; give another --output_dir, or "
                "replace the results with --overwrite True"
            ) from None
        differing = [
            f"{key}={made_with.get(key)}, expected {key}={value}"
            for key, value in settings.items()
            if made_with.get(key) != value
        ]
        for part, words in (("weights", "other weights"), ("calibration", "another calibration")):
            differing += [words] if before and before.get(part) != now[part] else []
        if differing:
            raise UserError(
                f"{report.parent}: found results made with {differing[0]}; give another --output_dir, or replace them "
                "with --overwrite True"
            )
    if len(todo) < len(cases) and is_first_rank():
        print(
            f"{len(cases) - len(todo)} of {len(cases)} cases are finished in {output_dir}; "
            "--overwrite True repeats them"
        )
    return todo


def _check_inputs(cases: Sequence[dict[str, Any]], output_dir: str | Path, presegmentation_dir: str | None) -> None:
    """Refuse to replace a scan, a label map or a pre-segmentation by a result."""
    names = [case_name(case["image"]) for case in cases]
    results = {os.path.realpath(Path(output_dir, name)): name for name in names}
    for case, name in zip(cases, names, strict=True):
        inputs = [*Case.of(case["image"]).all_files, *filter(None, [case.get("label")])]
        if presegmentation_dir:
            with suppress(UserError):  # a case without one fails on its own
                inputs.append(str(find_presegmentation(presegmentation_dir, name)))
        for file in inputs:
            result = results.get(os.path.realpath(os.path.dirname(file) or "."))
            if result is not None and is_case_file(Path(result, os.path.basename(file))):
                raise UserError(
                    f"{file}: found an input where a result of case {result} is to be written, expected another "
                    "folder; give another --output_dir"
                )
