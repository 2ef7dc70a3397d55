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
from monai_pdddpm.utils.chosen_outputs import chosen_outputs, is_case_file
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import made_by, report_path
from monai_pdddpm.utils.ranks import is_first_rank

# settings that reports of earlier versions lack; there they are unknown and pass
_LATER = (
    *("spacing", "labels", "label_values", "channels", "spatial_dims", "fourth_dimension"),
    *("prediction", "label_range", "training_process"),
)
_LONGEST = 100  # letters of a value in a message


def pending_cases(
    cases: Sequence[dict[str, Any]],
    output_dir: str | Path,
    record: Mapping[str, Any],
    overwrite: bool = False,
    outputs: str | Sequence[str] = "seg",
) -> list[dict[str, Any]]:
    """Leave out the cases whose results are complete and were made with the same settings, weights and calibration.

    A scan with another path than in the report is compared by its checksum. A line names what finished cases lack of
    the outputs.

    Args:
        cases: of a list, see `inference_cases`.
        output_dir: folder of the results, with one folder per case.
        record: record of this run, see :func:`monai_pdddpm.utils.provenance.provenance_record`.
        overwrite: True repeats all cases.
        outputs: files to write, see :func:`monai_pdddpm.utils.chosen_outputs.chosen_outputs`.

    Raises:
        UserError: if finished results were made otherwise, or of another scan: they would be overwritten silently, or
            lie beside results that cannot be compared with them. Also if an input lies where a result is to be written.
    """
    _check_inputs(cases, output_dir, record["settings"].get("presegmentation_dir"))
    if overwrite:
        return list(cases)
    wanted = chosen_outputs(outputs) - {"page"}
    todo = []
    lacking: list[frozenset[str]] = []
    for case in cases:
        scan = Case.of(case["image"])
        report = report_path(output_dir, scan.name)
        if not report.is_file():
            todo.append(case)
            continue
        found = _read(report)
        if differing := _differences(found, record):
            raise _differing(report, f"made with {differing[0]}")
        image = scan.files[0] if len(scan.files) == 1 else list(scan.files)
        if found.get("image", image) != image:
            inputs = list(scan.checksums().values())
            if None in inputs:  # it fails on its own
                todo.append(case)
                continue
            if inputs != list(found.get("inputs", {}).values()):
                raise _differing(report, f"of {found['image']}, expected those of {image}")
        if lacks := wanted.difference(found.get("outputs", wanted)):
            lacking.append(lacks)
    if len(todo) < len(cases) and is_first_rank():
        names = ", ".join(sorted(frozenset().union(*lacking)))
        without = f", {len(lacking)} of them without all of the outputs ({names})" if lacking else ""
        print(
            f"{len(cases) - len(todo)} of {len(cases)} cases are finished in {output_dir}{without}; "
            "--overwrite True repeats them"
        )
    return todo


def _read(report: Path) -> dict[str, Any]:
    try:
        found = dict(json.loads(report.read_text(encoding="utf-8")))
        parts = {key: dict(found.get(key) or {}) for key in ("inputs", "made_by")}
        return found | parts | {"settings": dict(found["settings"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{report}: found another file, expected a report of this package; give another --output_dir, or "
            "replace the results with --overwrite True"
        ) from None


def _differences(found: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return in words what a report's settings, weights and calibration have other than those of this run."""
    made_with, before, now = found["settings"], found["made_by"], made_by(record)
    differing = [
        f"{key}={made_with.get(key)}, expected {key}={value}" if len(str(value)) <= _LONGEST else f"other {key}"
        for key, value in record["settings"].items()
        if made_with.get(key) != value and (key in made_with or key not in _LATER)
    ]
    for part, words in (("weights", "other weights"), ("calibration", "another calibration")):
        differing += [words] if before and before.get(part) != now[part] else []
    return differing


def _differing(report: Path, found: str) -> UserError:
    return UserError(
        f"{report.parent}: found results {found}; give another --output_dir, or replace them with --overwrite True"
    )


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
