"""The calibration of a bundle as a small JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_pdddpm.metrics.recalibration import Calibration
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError


def load_calibration(
    path: str | os.PathLike, use: bool = True, settings: Mapping[str, Any] | None = None
) -> Calibration:
    """Read a calibration; the one that changes nothing when there is no file, or none is wanted.

    Args:
        path: JSON file that ``calibrate.json`` wrote.
        use: False leaves the answer as it is.
        settings: of this run. Where they differ from those that the calibration was fitted with, a printed line says
            so, since its numbers are then only near the truth.

    Raises:
        UserError: when the file is not such a calibration.
    """
    if not use or not Path(path).is_file():
        return Calibration()
    remedy = "fit it anew with configs/calibrate.json, or go without by --calibrated False"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Calibration)}
        if not isinstance(content, dict) or set(content) - known:
            raise ValueError(f"expected an object with {', '.join(sorted(known))}")
        line = content.get("dice_line")
        if line is not None:
            slope, intercept, half_width = line
            line = (float(slope), float(intercept), float(half_width))
        calibration = Calibration(
            temperature=float(content.get("temperature", 1.0)),
            interval_factor={str(k): float(v) for k, v in content.get("interval_factor", {}).items()},
            dice_line=line,
            ranges={str(k): (float(low), float(high)) for k, (low, high) in content.get("ranges", {}).items()},
            fitted=dict(content.get("fitted", {})),
        )
        if not 0.01 <= calibration.temperature <= 100:
            raise ValueError(f"temperature is {calibration.temperature}, 0.01 to 100 is expected")
        if not isinstance(calibration.fitted.get("settings", {}), dict):
            raise ValueError("an object of settings is expected in fitted")
        numbers = [*calibration.interval_factor.values(), *(calibration.dice_line or ())]
        if not all(map(math.isfinite, (*numbers, *(bound for pair in calibration.ranges.values() for bound in pair)))):
            raise ValueError("finite numbers are expected")
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a calibration ({error}); {remedy}") from error
    fitted_with = calibration.fitted.get("settings", {})
    differing = [key for key, value in (settings or {}).items() if key in fitted_with and fitted_with[key] != value]
    if differing:
        found = ", ".join(f"{key} {fitted_with[key]}, now {settings[key]}" for key in differing)  # type: ignore[index]
        print(f"{path}: fitted with {found}; intervals and predicted Dice are then approximate")
    return calibration


def save_calibration(calibration: Calibration, path: str | os.PathLike) -> None:
    """Write a calibration so that the file is complete or not there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(calibration), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
