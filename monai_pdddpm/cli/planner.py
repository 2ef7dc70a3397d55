"""From the fingerprint of a data set to all numbers of a pipeline, by stated rules; each choice has a reason.

Spacing, anisotropy, intensity and the shrinking of windows follow nnU-Net.

Reference:
    Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    Nature Methods 2021.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from monai_pdddpm.cli.memory import GIB, MemoryBudget, training_memory
from monai_pdddpm.cli.preprocessing_rules import Choice, by, choose_intensity, choose_spacing, resampled_shape
from monai_pdddpm.cli.segmenter_bundle import SegmenterBundle
from monai_pdddpm.utils.errors import UserError

# number by which windows are divisible -> blocks of the segmenter down and up, channels of the denoiser per filter
LEVELS = {8: ((1, 2, 2, 4), (1, 1, 1), (2, 4, 8)), 4: ((1, 2, 4), (1, 1), (2, 4))}

BATCH_SIZES = (4, 3, 2)
LARGEST_WINDOW = {True: 128**3, False: 64**3}  # voxels, with and without a GPU
ITERATIONS = 5000  # training steps of each stage
SMALL_DATASET = 50  # below this number of cases, an epoch has a fixed number of windows
EPOCH_WINDOWS = 100
_SIDES = re.compile(r"(^|[^a-z])(left|right|l|r|lh|rh)([^a-z]|$)", re.IGNORECASE)
_LESIONS = re.compile(r"lesion|tumou?r|nodule|metasta|micro-?bleed|polyp|cyst|infarct", re.IGNORECASE)


def plan(
    fingerprint: Mapping[str, Any],
    cases: int,
    budget: MemoryBudget,
    computer_memory: float,
    segmenter: SegmenterBundle | None = None,
    spacing: Sequence[float] | None = None,
) -> tuple[dict[str, Any], list[Choice]]:
    """Return the values of the keys of ``configs/_new_task.json``, and the choices; they depend on the arguments only.

    Args:
        fingerprint: of the data set, see :func:`monai_pdddpm.cli.fingerprint.fingerprint`.
        cases: number of training cases, 1 or more.
        budget: memory for training.
        computer_memory: bytes of main memory, for the cache of cases.
        segmenter: a trained segmenter to use, or None.
        spacing: voxel size in mm along R, A, S; None applies the rule, or takes that of the segmenter.

    Raises:
        UserError: if the memory is too small for the smallest window.
    """
    labels = ["background", *[label["name"] for label in fingerprint["labels"].values()][1:]]
    channels = fingerprint["channels"]
    if segmenter:
        reason = f"preprocessing of {segmenter.name}"
        text = f"{by(segmenter.spacing)} mm" if segmenter.spacing else "unchanged"
        space = Choice("spacing", segmenter.spacing, text, reason)
        text = ", ".join(transform["_target_"] for transform in segmenter.intensity) or "unchanged"
        intensity = Choice("intensity", segmenter.intensity, text, reason)
    else:
        space, intensity = choose_spacing(fingerprint, spacing), choose_intensity(channels)
    shape = resampled_shape(fingerprint, space.value)
    divisor = 8 if segmenter or min(shape) >= 16 else 4

    def need(window: Sequence[int], batch: int, filters: int) -> float:
        frozen = segmenter.parameters if segmenter else 0
        return training_memory(window, batch, filters, len(channels), len(labels), frozen)

    widths = _widths(need, budget)
    step = partial(need, filters=widths.value)
    window = _window(shape, divisor, step, budget, segmenter)
    batch = _batch(window.value, step, budget)
    length = _length(cases, batch.value)
    choices = [
        *(space, intensity, _levels(shape, divisor, segmenter), widths, window, batch),
        *(_overlap(shape, window.value), length, _cache(fingerprint, shape, computer_memory)),
        *(_mirroring(labels), _lesions(labels), _missing_channels(channels)),
    ]
    values = {choice.name: choice.value for choice in choices}
    blocks_down, blocks_up, factors = LEVELS[divisor]
    epochs, epoch_windows = length.value
    return {
        "num_classes": len(labels),
        "highest_label": len(labels) - 1,
        "highest_value": max(map(int, fingerprint["labels"])),
        "highest_entropy": round(math.log(len(labels)), 4),
        "labels": {str(index): name for index, name in enumerate(labels)},
        "label_values": [int(value) for value in fingerprint["labels"]],
        "channels": len(channels),
        "channel_def": {str(index): channel["name"] for index, channel in enumerate(channels)},
        "spacing": values["spacing"],
        "roi_size": values["window"],
        "overlap": values["overlap"],
        "intensity": values["intensity"],
        "flip_prob": values["mirroring"],
        "lesions": values["evaluation"],
        "filters": values["widths"],
        "blocks_down": list(blocks_down),
        "blocks_up": list(blocks_up),
        "denoiser_channels": [factor * values["widths"] for factor in factors],
        "batch_size": values["batch size"],
        "epochs": epochs,
        "segmenter_val_interval": max(1, epochs // 20),
        "val_interval": max(1, epochs // 5),
        "epoch_windows": epoch_windows,
        "cache_rate": values["cache"],
        "missing_channels": values["missing channels"],
        "fourth_dimension": "time" if fingerprint["frames"] else "channel",
        "map_shape": ["X", "Y", "Z", *(["T"] if fingerprint["frames"] else [])],
    }, choices


def _levels(shape: Sequence[int], divisor: int, segmenter: SegmenterBundle | None) -> Choice:
    count = 4 if divisor == 8 else 3
    reason = "segmenter given" if segmenter else f"the median scan is {min(shape)} voxels thick; 4 levels need 16"
    return Choice("levels", count, f"{count}, windows are multiples of {divisor} voxels", reason)


def _widths(need: Callable[[Sequence[int], int, int], float], budget: MemoryBudget) -> Choice:
    """Use 16 filters, or 8 where two windows of 32^3 voxels do not fit with 16."""
    fits = need([32, 32, 32], BATCH_SIZES[-1], 16) <= budget.size
    reason = f"two windows of 32 x 32 x 32 voxels with 16 filters {'fit' if fits else 'do not fit'} in {budget.text}"
    filters = 16 if fits else 8
    return Choice("widths", filters, f"{filters} filters on the segmenter's first level", reason)


def _window(
    shape: Sequence[int],
    divisor: int,
    need: Callable[[Sequence[int], int], float],
    budget: MemoryBudget,
    segmenter: SegmenterBundle | None,
) -> Choice:
    """Take the median scan; shorten a side until the window is small enough.

    It is the relatively longest one of the sides that are longer than the edge of a cube of the same size, so that thin
    axes stay whole.
    """

    def fits(window: Sequence[int]) -> bool:
        return need(window, BATCH_SIZES[-1]) <= budget.size

    if segmenter and segmenter.window and all(side % 8 == 0 for side in segmenter.window) and fits(segmenter.window):
        return Choice("window", segmenter.window, f"{by(segmenter.window)} voxels", f"window of {segmenter.name}")
    divisor = segmenter.divisor if segmenter else divisor
    limit = LARGEST_WINDOW[budget.gpu]
    window = [max(2 * divisor, math.ceil(size / divisor) * divisor) for size in shape]
    reason = f"the median scan, {by(shape)}, in multiples of {divisor}"
    while math.prod(window) > limit or not fits(window):
        reason = f"at most {limit} voxels {'on' if budget.gpu else 'without'} a GPU; the median scan is {by(shape)}"
        if math.prod(window) <= limit:
            reason = f"the largest of which two fit in {budget.text}"
        longer = [axis for axis in range(3) if window[axis] ** 3 >= math.prod(window)]
        shrinkable = [axis for axis in longer if window[axis] > 2 * divisor]
        if not shrinkable:
            least = need(window, BATCH_SIZES[-1]) / GIB
            raise UserError(
                f"--memory: found {budget.size / GIB:.2g} GiB, expected at least {least:.2g} GiB for two windows of "
                f"{by(window)} voxels; train on a computer with more memory"
            )
        window[max(shrinkable, key=lambda axis: window[axis] / shape[axis])] -= divisor
    return Choice("window", window, f"{by(window)} voxels", reason)


def _batch(window: Sequence[int], need: Callable[[Sequence[int], int], float], budget: MemoryBudget) -> Choice:
    size = next((n for n in BATCH_SIZES if need(window, n) <= budget.size), BATCH_SIZES[-1])
    reason = f"2 to 4 as memory allows: about {need(window, size) / GIB:.2g} GiB of {budget.text}"
    return Choice("batch size", size, f"{size} windows", reason)


def _overlap(shape: Sequence[int], window: Sequence[int]) -> Choice:
    if all(size <= side for size, side in zip(shape, window, strict=True)):
        return Choice("overlap", 0.5, "half of a window", "the median scan fits in one window")
    return Choice("overlap", 0.25, "a quarter of a window", "a scan needs several windows; less overlap is faster")


def _length(cases: int, batch: int) -> Choice:
    """Return (epochs, windows per epoch); None stands for one window per case."""
    windows = EPOCH_WINDOWS if cases < SMALL_DATASET else cases
    epochs = math.ceil(ITERATIONS / (windows // batch))
    reason = f"about {ITERATIONS} steps of {batch} windows in each stage"
    text = f"{epochs} epochs of {windows} windows from {cases} case{'s' * (cases > 1)}"
    return Choice("length", (epochs, windows if cases < SMALL_DATASET else None), text, reason)


def _cache(fingerprint: Mapping[str, Any], shape: Sequence[int], computer_memory: float) -> Choice:
    """Return the fraction of the cases that fits in half of the computer's memory."""
    size = 4.0 * math.prod(shape) * fingerprint["cases"] * (len(fingerprint["channels"]) + 1)
    fraction = min(1.0, math.floor(50 * computer_memory / size) / 100)
    reason = f"prepared cases take {size / GIB:.2g} GiB; half of {computer_memory / GIB:.2g} GiB may be used"
    return Choice("cache", fraction, f"{fraction:.0%} of the cases in memory", reason)


def _mirroring(labels: Sequence[str]) -> Choice:
    sided = [name for name in labels if _SIDES.search(name)]
    if sided:
        return Choice("mirroring", 0.0, "none", f"the label {sided[0]!r} has a side")
    return Choice("mirroring", 0.5, "left-right axis, probability 0.5", "no label has a side in its name")


def _lesions(labels: Sequence[str]) -> Choice:
    named = [name for name in labels if _LESIONS.search(name)]
    if named:
        return Choice("evaluation", True, "by voxel and by lesion", f"the label {named[0]!r} names lesions")
    return Choice("evaluation", False, "by voxel", "no label names lesions, tumors or nodules")


def _missing_channels(channels: Sequence[Mapping[str, Any]]) -> Choice:
    missing = ", ".join(f"{c['name']} in {c['missing']}" for c in channels if c["missing"])
    if missing:
        return Choice("missing channels", "zero", "filled with zeros", f"missing: {missing} of the cases")
    return Choice("missing channels", "error", "an error", "every training case has all channels")
