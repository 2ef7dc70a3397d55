"""Windows over a volume, and the blending of their results."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from monai.transforms import generate_spatial_bounding_box
from torch.nn import functional as F

Window = tuple[slice, ...]


def crop(volume: torch.Tensor, window: Window) -> torch.Tensor:
    """Return a window of a volume, (..., X, Y[, Z]), as a view."""
    index: Any = (..., *window)
    return volume[index]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return the first index of each window along one axis: the fewest evenly spread windows that cover it.

    Args:
        size: length of the axis; an axis shorter than a window has one.
        window: length of a window.
        overlap: smallest fraction, 0 to below 1, that neighbors share.

    Example:
        >>> window_starts(10, 4, 0.5)
        [0, 2, 4, 6]
    """
    if size <= window:
        return [0]
    step = max(1, math.floor(window * (1 - overlap) + 1e-6))  # 10 * (1 - 0.9) is 0.99...
    count = math.ceil((size - window) / step) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


class WindowPlan:
    """Evenly spread windows over a volume, and sums weighted by their importance.

    Args:
        size: size of the volume, (X, Y[, Z]).
        roi_size: size of a window.
        overlap: smallest fraction that neighboring windows share.
        device: device of the weights.
        box: region to cover, at least a window large; by default the volume.
    """

    def __init__(
        self,
        size: Sequence[int],
        roi_size: Sequence[int],
        overlap: float,
        device: torch.device | str = "cpu",
        box: Window | None = None,
    ) -> None:
        self.size, self.roi_size = tuple(size), tuple(roi_size)
        starts = [
            [span.start + start for start in window_starts(span.stop - span.start, r, overlap)]
            for span, r in zip(box or [slice(0, n) for n in self.size], self.roi_size, strict=True)
        ]
        self.windows = [
            tuple(slice(s, s + r) for s, r in zip(corner, self.roi_size, strict=True))
            for corner in itertools.product(*starts)
        ]
        # MONAI raises weights to at least 1e-3, because the far corners of a Gaussian underflow to zero
        self.weight = compute_importance_map(self.roi_size, mode="gaussian", device=device, dtype=torch.float32)
        self.total = torch.zeros(self.size, device=device)
        for window in self.windows:
            self.total[window] += self.weight
        self.total.clamp_(min=1e-6)  # outside of the windows

    def __len__(self) -> int:
        return len(self.windows)

    def add(self, accumulator: torch.Tensor, window: Window, values: torch.Tensor) -> None:
        """Add the weighted values of a window to an accumulator, of the volume or of a region that the window is in."""
        crop(accumulator, window).add_(self.weight * values.to(accumulator.device))

    def finish(self, accumulator: torch.Tensor) -> torch.Tensor:
        """Turn the weighted sum into the mean, in place; 0 outside of the windows."""
        return accumulator.div_(self.total)


def margin_of(roi_size: Sequence[int], overlap: float) -> tuple[int, ...]:
    """Return the widest margin, per axis, such that evenly spread windows without it still cover the volume."""
    return tuple(min(math.floor(r * overlap / 2 + 1e-6), (r - 1) // 2) for r in roi_size)


def covering_windows(active: torch.Tensor, roi_size: Sequence[int], margin: Sequence[int]) -> list[Window]:
    """Place few windows such that each active voxel is in one, outside its margin unless at the volume's border.

    Active voxels are split into slabs along the first axis, each slab into columns along the second, and so on, as few
    as possible along each axis, with the active voxels in the middle.

    Args:
        active: (X, Y[, Z]), boolean.
        roi_size: size of a window, at most that of the volume along each axis.
        margin: voxels along each axis, below half a window.
    """

    def cover(places: torch.Tensor, axis: int) -> list[Window]:
        if axis == active.dim():
            return [()]
        size, roi = active.shape[axis], roi_size[axis]
        found: list[Window] = []
        while len(places):
            along = places[:, axis]
            low = int(along.min())
            start = min(max(low - margin[axis], 0), size - roi)
            here = along < (size if start + roi == size else start + roi - margin[axis])
            middle = (low + int(along[here].max()) + 1 - roi) // 2
            span = slice(*(min(max(middle, 0), size - roi) + n for n in (0, roi)))
            found += [(span, *others) for others in cover(places[here], axis + 1)]
            places = places[~here]
        return found

    return cover(active.nonzero(), 0)


class WindowRegion:
    """The bounding box of some windows, with weighted means over it; uncovered voxels keep a fallback value.

    Args:
        plan: all windows, evenly spread.
        windows: windows to run, at least one.
        margin: for windows that are not those of the plan, the voxels along each axis over which a window's weight
            falls to zero in favor of the fallback. Empty for windows of the plan: there the fallback gets the weight of
            the windows that are left out.
    """

    def __init__(self, plan: WindowPlan, windows: Sequence[Window], margin: Sequence[int] = ()) -> None:
        corner = [min(w[axis].start for w in windows) for axis in range(len(plan.size))]
        end = [max(w[axis].stop for w in windows) for axis in range(len(plan.size))]
        self.box = tuple(slice(a, b) for a, b in zip(corner, end, strict=True))
        self.size = tuple(b - a for a, b in zip(corner, end, strict=True))
        self.windows = [
            (window, tuple(slice(s.start - a, s.stop - a) for s, a in zip(window, corner, strict=True)))
            for window in windows
        ]
        weight = torch.zeros(self.size, device=plan.total.device)
        fallback_weight = torch.ones_like(weight)
        for window, inside in self.windows:
            weight[inside] += plan.weight
            if margin:
                fallback_weight[inside] *= 1 - edge_ramp(window, plan.size, margin, weight.device)
        if margin:
            self._fallback_weight = fallback_weight
            self._total = torch.where(weight > 0, weight / (1 - fallback_weight), 1.0)
        else:
            self._total = crop(plan.total, self.box)
            self._fallback_weight = 1 - weight / self._total

    def finish(self, accumulator: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
        """Turn the weighted sum into the mean, in place.

        Args:
            accumulator: sum over the windows, (..., box).
            fallback: values of uncovered voxels, of the same shape or one that broadcasts.
        """
        return accumulator.div_(self._total).addcmul_(fallback, self._fallback_weight)


def edge_ramp(window: Window, size: Sequence[int], margin: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return a ramp over a window, from near 0 at its border to 1 inside the margin; 1 at the volume's border."""
    ramps = []
    for span, n, width in zip(window, size, margin, strict=True):
        ramp = torch.ones(span.stop - span.start, device=device)
        rise = torch.arange(1, width + 1, device=device) / (width + 1)
        if span.start > 0:
            ramp[:width] = rise
        if span.stop < n:
            ramp[len(ramp) - width :] = rise.flip(0)
        ramps.append(ramp)
    return functools.reduce(lambda a, b: a[..., None] * b, ramps)


def pad_to(volume: torch.Tensor, roi_size: Sequence[int]) -> tuple[torch.Tensor, Window]:
    """Pad a volume, (..., X, Y[, Z]), with zeros on both sides to at least a window.

    Returns:
        The padded volume, and the slices that undo the padding.
    """
    missing = [max(0, r - n) for n, r in zip(volume.shape[-len(roi_size) :], roi_size, strict=True)]
    before = [m // 2 for m in missing]
    pads = [p for m, b in reversed(list(zip(missing, before, strict=True))) for p in (b, m - b)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, volume.shape[-len(roi_size) :], strict=True))
    return F.pad(volume, pads) if any(pads) else volume, inner


def content_box(frames: torch.Tensor, inner: Window, padded: Sequence[int], roi_size: Sequence[int]) -> Window:
    """Return the bounding box of the voxels that differ from the first one, widened to a window.

    Outside of it lies what a scanner or a brain extraction filled with one value.

    Args:
        frames: (T, C, X, Y[, Z]).
        inner: place of the frames in the padded volume.
        padded: size of the padded volume.
        roi_size: size of a window.

    Returns:
        The box in the padded volume; the whole volume if no voxel differs.
    """
    first: Any = (slice(0, 1), slice(None), *[slice(0, 1)] * len(padded))
    differs = (frames != frames[first]).flatten(end_dim=1).any(0, keepdim=True)
    if not differs.any():
        return tuple(slice(0, n) for n in padded)
    box = []
    for used_from, used_to, place, n, r in zip(
        *generate_spatial_bounding_box(differs), inner, padded, roi_size, strict=True
    ):
        low, high = used_from + place.start, used_to + place.start
        low -= max(0, r - high + low) // 2
        low = min(max(0, low), n - r)
        box.append(slice(low, max(high, low + r)))
    return tuple(box)
