"""Rules for spacing and intensities of a new bundle, those of nnU-Net.

Reference:
    Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    Nature Methods 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ANISOTROPY = 3.0  # one axis is this many times coarser than the others
FULL_SCAN = 0.75  # fraction of voxels; where more have the background's value, it does not count
_CT = re.compile(r"ct\b|computed tomography$", re.IGNORECASE)
_MR = re.compile(r"\b(mri?|t1\w*|t2\w*|flair|pdw?|dwi|adc|bold|swi)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """One choice of the plan: its name, its value, the value in words, and the reason."""

    name: str
    value: Any
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text} ({self.reason})"


def by(numbers: Sequence[float]) -> str:
    """Return numbers in words, with x between."""
    return " x ".join(f"{number:g}" for number in numbers)


def choose_spacing(fingerprint: Mapping[str, Any], spacing: Sequence[float] | None) -> Choice:
    """Take the median; on an axis with few, thick slices the 10th percentile, so that thin slices are not lost."""
    if spacing is not None:
        return Choice("spacing", [float(size) for size in spacing], f"{by(spacing)} mm", "set by --spacing")
    target = [float(f"{size:.4g}") for size in fingerprint["spacing_mm"]["median"]]
    shape, reason = fingerprint["shape"]["median"], f"median of {fingerprint['cases']} cases"
    coarse = int(np.argmax(target))
    fine, sides = ([values[axis] for axis in range(3) if axis != coarse] for values in (target, shape))
    if target[coarse] > ANISOTROPY * max(fine) and ANISOTROPY * shape[coarse] < min(sides):
        low = fingerprint["spacing_mm"]["percentile_10"][coarse]
        target[coarse] = float(f"{max(low, *fine):.4g}")
        reason = f"median; 10th percentile on axis {coarse}, which is over {ANISOTROPY:g} times coarser than the others"
    return Choice("spacing", target, f"{by(target)} mm", reason)


def resampled_shape(fingerprint: Mapping[str, Any], spacing: Sequence[float] | None) -> list[int]:
    """Return the median number of voxels along each axis after resampling; None does not resample."""
    shapes = np.array([case["shape"] for case in fingerprint["each"]], dtype=float)
    if spacing is not None:
        shapes *= np.array([case["spacing_mm"] for case in fingerprint["each"]]) / np.asarray(spacing)
    return [max(1, round(float(size))) for size in np.median(shapes, axis=0)]


def modality_of(channel: str) -> str:
    """Return ``CT``, ``MR`` or ``n/a`` for the name of a channel."""
    return "CT" if _CT.match(channel.strip()) else "MR" if _MR.search(channel) else "n/a"


def choose_intensity(channels: Sequence[Mapping[str, Any]]) -> Choice:
    """Use one fixed scale for CT, recognized by the channel's name; normalize other scans one by one."""
    if len(channels) == 1 and modality_of(channels[0]["name"]) == "CT":
        low, high, mean, sd = (channels[0][key] for key in ("percentile_00_5", "percentile_99_5", "mean", "sd"))
        scaled = {name: round((end - mean) / (sd or 1.0), 4) for name, end in (("b_min", low), ("b_max", high))}
        transform = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, **scaled}
        transform["clip"] = True
        text = f"clipped to {low:g} to {high:g}, then minus {mean:g}, divided by {sd or 1:g}"
        return Choice("intensity", [transform], text, "CT: percentiles 0.5 and 99.5, mean and SD of the foreground")
    per_channel = {"channel_wise": True} if len(channels) > 1 else {}
    normalize: dict[str, Any] = {"_target_": "NormalizeIntensityd", "keys": "image", **per_channel}
    filled = min(channel["foreground_fraction"] for channel in channels)
    backgrounds = {channel["background"] for channel in channels}
    background = backgrounds.pop() if len(backgrounds) == 1 else None
    unnamed = [c["name"] for c in channels if c["min"] <= -500 and modality_of(c["name"]) == "n/a"]
    hint = f"; the values of {unnamed[0]} look like CT: name the channel CT if they are" if unnamed else ""
    if filled < FULL_SCAN and background is not None:
        shift = [{"_target_": "ShiftIntensityd", "keys": "image", "offset": -background}] if background else []
        text = f"zero mean and unit variance of the voxels of each scan that are not {background:g}"
        reason = f"not CT, and {1 - filled:.0%} of the voxels are {background:g}{hint}"
        return Choice("intensity", [*shift, normalize | {"nonzero": True}], text, reason)
    if filled < FULL_SCAN:
        hint += "; the value of the background differs from scan to scan or channel to channel"
    clip: dict[str, Any] = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 0.5, "upper": 99.5}
    clip |= {"b_min": 0.0, "b_max": 1.0, "clip": True, **per_channel}
    text = "clipped to the percentiles 0.5 and 99.5 of each scan, then zero mean and unit variance"
    reason = f"not CT, and {filled:.0%} of the voxels are not background{hint}"
    return Choice("intensity", [clip, normalize], text, reason)
