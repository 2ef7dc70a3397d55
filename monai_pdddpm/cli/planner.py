"""From a data set's fingerprint to the numbers of a pipeline, by stated rules; each choice comes with its reason.

Spacing, anisotropy and intensity follow nnU-Net (Isensee et al., Nature Methods 2021), windows shrink as its do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_pdddpm.cli.memory import GIB, Need, Room
from monai_pdddpm.utils.errors import UserError

__all__ = [
    "Choice",
    "choose_batch",
    "choose_cache",
    "choose_depth",
    "choose_flips",
    "choose_intensity",
    "choose_length",
    "choose_lesions",
    "choose_overlap",
    "choose_spacing",
    "choose_widths",
    "choose_window",
    "modality_of",
    "resampled_shape",
]

ANISOTROPIC = 3.0  # nnU-Net's: one axis this many times coarser than the others
BACKGROUND_OUT = 0.75  # nnU-Net's: zeros count as no tissue where they fill a quarter of the scan
FEWEST = 2  # windows in a batch
MOST = 4
LARGEST_WINDOW = {True: 128**3, False: 64**3}  # voxels, with and without a GPU
ITERATIONS = 5000  # of each stage; the hippocampus bundle had 4250 and 4675
SMALL_SET = 50  # cases below which an epoch is counted in windows
EPOCH_WINDOWS = 100
_CT = ("ct", "computed tomography")
_MR = re.compile(r"\b(mri?|t1\w*|t2\w*|flair|pdw?|dwi|adc|bold|swi)\b", re.IGNORECASE)
_SIDES = re.compile(r"(^|[^a-z])(left|right|l|r|lh|rh)([^a-z]|$)", re.IGNORECASE)
_LESIONS = re.compile(r"lesion|tumou?r|nodule|metasta|micro-?bleed|polyp|cyst|infarct", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """What was chosen, what it is called in words, and why."""

    what: str
    value: Any
    words: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.words} ({self.reason})"


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def choose_spacing(found: dict[str, Any], wanted: Sequence[float] | None = None) -> Choice:
    """Return the voxel size in mm along RAS to work at.

    The median over the cases; where one axis is more than three times coarser than both others and the scans have
    more than three times fewer voxels along it, the 10th percentile along that axis, as nnU-Net does, since
    interpolating thin-sliced cases to thick slices would lose what they show.
    """
    if wanted is not None:
        return Choice("spacing", [float(size) for size in wanted], f"{_by(wanted)} mm", "as asked for")
    target = [_rounded(size) for size in found["spacing_mm"]["median"]]
    shape = found["shape"]["median"]
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    if target[coarse] > ANISOTROPIC * max(target[axis] for axis in others) and ANISOTROPIC * shape[coarse] < min(
        shape[axis] for axis in others
    ):
        fine = max(found["spacing_mm"]["percentile_10"][coarse], max(target[axis] for axis in others))
        target[coarse] = _rounded(fine)
        reason = f"median; along axis {coarse}, over {ANISOTROPIC:g} times coarser than the others, the 10th percentile"
        return Choice("spacing", target, f"{_by(target)} mm", reason)
    return Choice("spacing", target, f"{_by(target)} mm", f"median of {found['cases']} cases")


def _rounded(size: float) -> float:
    return float(f"{size:.4g}")


def resampled_shape(found: dict[str, Any], spacing: Sequence[float] | None) -> list[int]:
    """Return the median size of a scan in voxels once it has that spacing; None leaves scans as they are."""
    shapes = np.array([each["shape"] for each in found["each"]], dtype=float)
    if spacing is not None:
        shapes *= np.array([each["spacing_mm"] for each in found["each"]]) / np.asarray(spacing)
    return [max(1, round(float(size))) for size in np.median(shapes, axis=0)]


def modality_of(name: str) -> str:
    """Return ``CT``, ``MR`` or ``n/a`` for a channel by its name."""
    if name.strip().lower() in _CT or re.match(r"ct\b", name.strip(), re.IGNORECASE):
        return "CT"
    return "MR" if _MR.search(name) else "n/a"


def choose_intensity(found: dict[str, Any]) -> Choice:
    """Return the transforms that bring intensities to a common scale.

    CT, known by its channel's name, has a scale of its own: clipped to the 0.5 and 99.5 percentiles inside the
    foreground of all cases, then less their mean and by their standard deviation. Others get zero mean and unit
    variance scan by scan: inside the non-zero voxels where zeros fill a quarter of the scan or more (a brain cut out),
    else over all voxels, clipped to their 0.5 and 99.5 percentiles before.
    """
    channels = found["channels"]
    if all(modality_of(channel["name"]) == "CT" for channel in channels) and len(channels) == 1:
        (ct,) = channels
        low, high = ct["percentile_00_5"], ct["percentile_99_5"]
        sd = ct["sd"] or 1.0
        transform = {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": round((low - ct["mean"]) / sd, 4),
            "b_max": round((high - ct["mean"]) / sd, 4),
            "clip": True,
        }
        words = f"clipped to {low:g} to {high:g}, less {ct['mean']:g}, by {sd:g}"
        return Choice("intensity", [transform], words, "CT: percentiles 0.5 and 99.5, mean and SD of the foreground")
    many = len(channels) > 1
    z_score = {"_target_": "NormalizeIntensityd", "keys": "image"} | ({"channel_wise": True} if many else {})
    looks = [c["name"] for c in channels if c["min"] <= -500 and modality_of(c["name"]) == "n/a"]
    hint = f"; {looks[0]} looks like CT, call the channel CT if it is" if looks else ""
    filled = min(channel["nonzero_share"] for channel in channels)
    if filled < BACKGROUND_OUT:
        words = "zero mean, unit variance of the non-zero voxels of each scan" + (" and channel" if many else "")
        reason = f"not CT, and {1 - filled:.0%} of the voxels are 0"
        return Choice("intensity", [z_score | {"nonzero": True}], words, reason + hint)
    clip = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 0.5, "upper": 99.5}
    clip |= {"b_min": 0.0, "b_max": 1.0, "clip": True} | ({"channel_wise": True} if many else {})
    words = "clipped to the percentiles 0.5 and 99.5 of each scan, then zero mean and unit variance"
    return Choice("intensity", [clip, z_score], words, f"not CT, and {filled:.0%} of the voxels are not 0{hint}")


def choose_depth(shape: Sequence[int]) -> Choice:
    """Return by how much the networks reduce a window: 8 (four levels), or 4 (three) for thin scans."""
    divisor = 8 if min(shape) >= 16 else 4
    words = f"{4 if divisor == 8 else 3} levels, windows of multiples of {divisor}"
    return Choice("depth", divisor, words, f"the thinnest side of a scan has {min(shape)} voxels; four levels need 16")


def choose_window(shape: Sequence[int], divisor: int, need: Need, room: Room) -> Choice:
    """Return the window that the networks see.

    The median scan, rounded up to what the networks take; while it has more voxels than 128^3 (64^3 without a GPU) or
    two such windows do not fit in the memory, the side that is largest against the scan's is made shorter.

    Raises:
        UserError: when the memory is too small for the smallest window.
    """
    full = [max(2 * divisor, math.ceil(size / divisor) * divisor) for size in shape]
    window = list(full)
    limit = LARGEST_WINDOW[room.gpu]
    too_many = too_large = False
    while True:
        many, large = math.prod(window) > limit, need.of(window, FEWEST) > room.size
        if not (many or large):
            break
        too_many, too_large = too_many or many, too_large or large
        shrinkable = [axis for axis in range(3) if window[axis] > 2 * divisor]
        if not shrinkable:
            raise UserError(
                f"--memory: found {room.size / GIB:.2g} GiB, expected {need.of(window, FEWEST) / GIB:.2g} at least for "
                f"two windows of {_by(window)} voxels; give more"
            )
        axis = max(shrinkable, key=lambda axis: window[axis] / shape[axis])
        window[axis] -= divisor
    if window == full:
        reason = f"the median scan, {_by(shape)}, in multiples of {divisor}"
    elif too_large and need.of(_grown(window, full, divisor), FEWEST) > room.size:
        reason = f"the largest of which two fit in {room.words}"
    else:
        reason = f"at most {limit} voxels {'on' if room.gpu else 'without'} a GPU; the median scan is {_by(shape)}"
    return Choice("window", window, f"{_by(window)} voxels", reason)


def _grown(window: Sequence[int], full: Sequence[int], divisor: int) -> list[int]:
    """Return the next larger window on the way to the full one."""
    axis = min(range(3), key=lambda axis: window[axis] / full[axis])
    return [size + divisor * (i == axis) for i, size in enumerate(window)]


def choose_batch(window: Sequence[int], need: Need, room: Room) -> Choice:
    """Return how many windows a training step sees: 2 to 4, as many as fit."""
    batch = max([n for n in range(FEWEST, MOST + 1) if need.of(window, n) <= room.size], default=FEWEST)
    used = need.of(window, batch) / GIB
    reason = f"{FEWEST} to {MOST}, as many as fit: about {used:.2g} GiB of {room.words}"
    return Choice("batch size", batch, f"{batch} windows", reason)


def choose_overlap(shape: Sequence[int], window: Sequence[int]) -> Choice:
    """Return which share of a window its neighbours have in common."""
    whole = all(size <= side for size, side in zip(shape, window, strict=True))
    reason = "a scan fits in about one window" if whole else "a scan takes several windows, and less overlap is faster"
    return Choice("overlap", 0.5 if whole else 0.25, "half" if whole else "a quarter", reason)


def choose_length(cases: int, batch: int) -> Choice:
    """Return the training's length: (epochs, windows of an epoch or None for one of each case)."""
    windows = EPOCH_WINDOWS if cases < SMALL_SET else cases
    epochs = max(1, math.ceil(ITERATIONS / max(1, windows // batch)))
    drawn = f" of {windows} windows from {cases} case{'s' * (cases > 1)}" if cases < SMALL_SET else ""
    reason = f"about {ITERATIONS} steps of {batch} windows in each stage"
    return Choice("length", (epochs, windows if cases < SMALL_SET else None), f"{epochs} epochs{drawn}", reason)


def choose_cache(found: dict[str, Any], spacing: Sequence[float] | None, memory: float) -> Choice:
    """Return the share of the cases kept in the computer's memory, of which half may be used."""
    voxels = math.prod(resampled_shape(found, spacing)) * found["cases"]
    size = 4.0 * voxels * (len(found["channels"]) + 1)
    share = min(1.0, math.floor(50 * memory / size) / 100)
    words = "all cases" if share == 1 else f"{share:.0%} of the cases"
    reason = f"{size / GIB:.2g} GiB when prepared, and half of this computer's {memory / GIB:.2g} GiB may be used"
    return Choice("kept in memory", share, words, reason)


def choose_flips(labels: Sequence[str]) -> Choice:
    """Return whether windows are mirrored left to right in training."""
    sided = [name for name in labels if _SIDES.search(name)]
    if sided:
        return Choice("mirroring", False, "none", f"the label {sided[0]!r} has a side")
    return Choice("mirroring", True, "left to right, half of the windows", "no label's name has a side")


def choose_lesions(labels: Sequence[str]) -> Choice:
    """Return whether the evaluation counts separate things as well."""
    named = [name for name in labels if _LESIONS.search(name)]
    if named:
        return Choice("evaluation", True, "voxel by voxel and lesion by lesion", f"a label is called {named[0]!r}")
    return Choice("evaluation", False, "voxel by voxel", "no label's name speaks of lesions, tumours or nodules")


def choose_widths(need_for: Callable[[int], Need], divisor: int, room: Room) -> Choice:
    """Return the filters of the segmenter's first level: 16, or 8 where memory takes no two windows of 32^3 with 16."""
    least = [max(32, 2 * divisor)] * 3
    if need_for(16).of(least, FEWEST) <= room.size:
        reason = "the widths that the measured bundles have; two windows of 32 x 32 x 32 fit"
        return Choice("widths", 16, "segmenter 16 filters, denoiser 32, 64, 128", reason)
    reason = f"two windows of 32 x 32 x 32 with twice as many do not fit in {room.words}"
    return Choice("widths", 8, "segmenter 8 filters, denoiser 16, 32, 64", reason)
