"""Checksums of the code, weights, settings and inputs that made a result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import monai_pdddpm
from monai_pdddpm.utils.chosen_outputs import is_case_file
from monai_pdddpm.utils.paths import with_home

FAILURES = "failures"  # folder in the output folder, with one JSON file per failed case
RUNS = "run.json"  # file in the output folder that lists its runs
PAGE, TABLE = "index.html", "cases.csv"  # of all cases, in the output folder
_PACKAGES = ("monai_pdddpm", "monai", "torch", "numpy", "nibabel")


def report_path(output_dir: str | Path, case: str) -> Path:
    """Return the path of a case's report, which is written after the case's other files."""
    return Path(output_dir) / case / f"{case}_report.json"


def checksum(path: str | os.PathLike) -> str | None:
    """Return the SHA-256 of a file, or of a folder's file names and contents; None if it cannot be read.

    Results of inference in a folder do not count, so that a DICOM series may have them beside its slices.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder_checksum(path, "*")
        found = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
        return found.hexdigest()
    except OSError:
        return None


def fitted_to(calibration_file: str | os.PathLike, weights: str | None) -> bool:
    """Return whether there is a calibration, fitted to weights with this checksum, or to unknown ones."""
    try:
        fitted = json.loads(Path(calibration_file).read_text(encoding="utf-8"))["fitted"]["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return Path(calibration_file).is_file()
    return fitted in (None, weights)


@cache
def code_checksum() -> str:
    """Return the SHA-256 of this package's Python files, equal for installations with the same code."""
    return _folder_checksum(Path(monai_pdddpm.__file__).parent, "*.py")


def _folder_checksum(folder: Path, pattern: str) -> str:
    files = sorted(file for file in folder.rglob(pattern) if file.is_file() and not _is_result(file))
    parts = [f"{file.relative_to(folder).as_posix()} {checksum(file)}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_result(file: Path) -> bool:
    return is_case_file(file) or file.name in (RUNS, PAGE, TABLE) or file.parent.name == FAILURES


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


class Settings(Protocol):
    """Settings of a run that can be stored as JSON."""

    def as_report(self) -> dict[str, Any]:
        """Return the settings that change the result, as JSON values."""


def provenance_record(
    bundle_root: str | Path,
    model_file: str | Path,
    calibration_file: str | Path,
    calibrated: bool,
    config: Settings,
    missing_channels: str,
    largest_component: bool = False,
    presegmentation_dir: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Return what the results of a run depend on, besides the scans.

    Args:
        bundle_root: folder of the bundle.
        model_file: file of the weights.
        calibration_file: file of the calibration.
        calibrated: whether the calibration is applied.
        config: settings of the inferer.
        missing_channels: how missing channels are treated.
        largest_component: whether each structure keeps its largest part only.
        presegmentation_dir: folder of the pre-segmentations, empty if the segmenter makes them.
        settings: more settings that change the result, such as ``spacing``: JSON values, or arrays.

    Returns:
        JSON values: ``code`` (checksum, versions), ``bundle`` (name, version, checksum of its configuration),
        ``weights`` and ``calibration`` (file, checksum), ``settings``; and ``id``, a checksum of all that except the
        paths.
    """
    configs = Path(bundle_root) / "configs"
    metadata: Any = {}
    if (configs / "metadata.json").is_file():
        metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    given = str(Path(with_home(presegmentation_dir)).resolve()) if presegmentation_dir else None
    settings |= {"missing_channels": missing_channels, "largest_component": largest_component}
    settings = config.as_report() | settings | {"presegmentation_dir": given}
    record: dict[str, Any] = {
        "code": {"sha256": code_checksum(), "versions": versions()},
        "bundle": {"name": metadata.get("name"), "version": metadata.get("version"), "sha256": checksum(configs)},
        "weights": {"file": str(model_file), "sha256": checksum(model_file)},
        "calibration": None,
        # as a report has them when it is read again
        "settings": json.loads(json.dumps(settings, default=lambda value: value.tolist())),
    }
    if calibrated and fitted_to(calibration_file, record["weights"]["sha256"]):
        record["calibration"] = {"file": str(calibration_file), "sha256": checksum(calibration_file)}
    return {"id": record_id(record)} | record


def record_id(record: Mapping[str, Any]) -> str:
    """Return the 16 characters that identify a run by its record, without the paths of its files."""
    content = {key: value for key, value in record.items() if key not in ("id", "begun", "input")}
    for key in ("weights", "calibration"):
        content[key] = content.get(key) and content[key]["sha256"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def made_by(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the short form of a run's record that each report stores: its id and the checksums."""
    parts = ("code", "bundle", "weights", "calibration")
    return {"run": record["id"]} | {part: record[part] and record[part]["sha256"] for part in parts}


def read_runs(output_dir: str | Path) -> list[dict[str, Any]] | None:
    """Return the records in an output folder's ``run.json``, none without one; None if it is another file."""
    path = Path(output_dir) / RUNS
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return [dict(run) for run in runs if isinstance(run["id"], str)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
