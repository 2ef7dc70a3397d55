"""The calibration of a bundle as a small JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from monai_pdddpm.inferers import EnsembleConfig
from monai_pdddpm.metrics.recalibration import Calibration
from monai_pdddpm.utils.atomic_write import write_json
from monai_pdddpm.utils.checks import check_switch
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import checksum, fitted_to

FITTED_WITH = ("time_steps", "presegmentation_weight")  # settings that a calibration depends on


def load_calibration(
    path: str | os.PathLike,
    use: bool = True,
    config: EnsembleConfig | None = None,
    model_file: str | os.PathLike | None = None,
) -> Calibration:
    """Read a calibration; return the identity if none is wanted.

    Also, with a printed line, if there is no file, or if it was fitted to other weights than those of ``model_file``.

    If ``config``, the settings of this run, differ from those of the fit, volume intervals and predicted Dice are left
    out, with a printed line.

    Raises:
        UserError: if the file is not a calibration or one of version 0.1, or ``use`` is not a switch.
    """
    check_switch("calibrated", use)
    if not use:
        return Calibration()
    if not Path(path).is_file():  # a path that was given is checked before the run
        print(f"{path}: does not exist; results are not calibrated")
        return Calibration()
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if line := content.get("dice_line"):
            slope, intercept, half_width = line
            content["dice_line"] = (float(slope), float(intercept), float(half_width))
        for key, kind in (("interval_factor", float), ("ranges", _pair)):
            content[key] = {label: kind(value) for label, value in content.get(key, {}).items()}
        calibration = Calibration(**content)
        if not 0.01 <= calibration.temperature <= 100:
            raise ValueError(f"temperature is {calibration.temperature}, 0.01 to 100 is expected")
        fitted_with = dict(calibration.fitted.get("settings", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a calibration ({error}); fit it again with calibrate.json, or skip it with --calibrated False"
        ) from error
    if "segmenter_share" in fitted_with:  # its factors and its line belong to other quantities
        raise UserError(
            f"{path}: found a calibration of version 0.1, expected one of this version; fit it again with "
            "calibrate.json, or skip it with --calibrated False"
        )
    if model_file is not None and not fitted_to(path, checksum(model_file)):
        print(f"{path}: fitted to other weights than {model_file}; results are not calibrated, run calibrate.json")
        return Calibration()
    now = config.as_report() if config is not None else {}
    differing = [key for key in FITTED_WITH if key in now and key in fitted_with and fitted_with[key] != now[key]]
    if differing:
        found = ", ".join(f"{key} {fitted_with[key]}, now {now[key]}" for key in differing)
        print(f"{path}: fitted with {found}; volume intervals and predicted Dice are left out")
        return dataclasses.replace(calibration, interval_factor={}, dice_line=None)
    return calibration


def _pair(value: Sequence[float]) -> tuple[float, float]:
    low, high = value
    return float(low), float(high)


def save_calibration(calibration: Calibration, path: str | os.PathLike) -> None:
    """Write a calibration, complete or not at all."""
    write_json(path, dataclasses.asdict(calibration))
