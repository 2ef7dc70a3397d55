"""Which windows a volume is cut into, and how their results are blended."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from torch.nn import functional as F

Window = tuple[slice, ...]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return the first index of each window along one axis: from end to end, evenly spread, as few as may be.

    Args:
        size: length of the axis; one window serves an axis that is shorter than it.
        window: length of a window.
        overlap: least share, 0 to below 1, that neighbours have in common.

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
    """The windows over a volume, and sums weighted by their importance.

    Args:
        size: of the volume, (X, Y[, Z]).
        roi_size: of a window.
        overlap: least share that neighbouring windows have in common.
        mode: ``"gaussian"`` weights a window's centre more than its border, ``"constant"`` all voxels alike.
        device: where the weights lie.
    """

    def __init__(
        self,
        size: Sequence[int],
        roi_size: Sequence[int],
        overlap: float = 0.5,
        mode: str = "gaussian",
        device: torch.device | str = "cpu",
    ) -> None:
        self.size, self.roi_size = tuple(size), tuple(roi_size)
        starts = [window_starts(n, r, overlap) for n, r in zip(self.size, self.roi_size, strict=True)]
        self.windows = [
            tuple(slice(s, s + r) for s, r in zip(corner, self.roi_size, strict=True))
            for corner in itertools.product(*starts)
        ]
        weight = compute_importance_map(self.roi_size, mode=mode, device=device, dtype=torch.float32)
        # MONAI's floor against zeros: the far corners of a Gaussian underflow
        self.weight = weight.clamp(min=max(float(weight.min()), 1e-3))
        self.total = torch.zeros(self.size, device=device)
        for window in self.windows:
            self.total[window] += self.weight

    def __len__(self) -> int:
        return len(self.windows)

    def cut(self, volume: torch.Tensor, window: Window) -> torch.Tensor:
        """Return the view of (..., X, Y[, Z]) in a window."""
        index: Any = (..., *window)
        return volume[index]

    def add(self, accumulator: torch.Tensor, window: Window, values: torch.Tensor) -> None:
        """Add a window's values, weighted, to an accumulator of the volume's size."""
        self.cut(accumulator, window).add_(self.weight * values.to(accumulator.device))

    def finish(self, accumulator: torch.Tensor) -> torch.Tensor:
        """Turn the weighted sum into the mean, in place."""
        return accumulator.div_(self.total)


def margin_of(roi_size: Sequence[int], overlap: float) -> tuple[int, ...]:
    """Return how far from a window's border, along each axis, evenly spread windows have every voxel in one of them."""
    return tuple(min(math.floor(r * overlap / 2 + 1e-6), (r - 1) // 2) for r in roi_size)


def covering_windows(active: torch.Tensor, roi_size: Sequence[int], rim: Sequence[int]) -> list[Window]:
    """Place few windows so that each active voxel lies in one, and not in its rim unless that is the volume's border.

    Active voxels are cut into slabs along the first axis, each slab into columns along the second, and so on: the
    fewest that there may be along each axis, with what is active in their middle.

    Args:
        active: (X, Y[, Z]), boolean.
        roi_size: of a window, at most the volume's size along each axis.
        rim: voxels along each axis, below half of a window.
    """

    def cover(places: torch.Tensor, axis: int) -> list[Window]:
        if axis == active.dim():
            return [()]
        size, roi = active.shape[axis], roi_size[axis]
        found: list[Window] = []
        while len(places):
            along = places[:, axis]
            low = int(along.min())
            start = min(max(low - rim[axis], 0), size - roi)
            here = along < (size if start + roi == size else start + roi - rim[axis])
            middle = (low + int(along[here].max()) + 1 - roi) // 2
            span = slice(*(min(max(middle, 0), size - roi) + n for n in (0, roi)))
            found += [(span, *others) for others in cover(places[here], axis + 1)]
            places = places[~here]
        return found

    return cover(active.nonzero(), 0)


class Region:
    """The bounding box of some windows, and means over it: what they do not cover, or only in part, is known otherwise.

    Args:
        plan: all windows, evenly spread.
        windows: at least one.
        rim: of windows that are not the plan's, the voxels along each axis over which their say goes down to nothing.
            Of some of the plan's windows none: there the weight of the others stands for what is known otherwise.
    """

    def __init__(self, plan: WindowPlan, windows: Sequence[Window], rim: Sequence[int] = ()) -> None:
        corner = [min(w[axis].start for w in windows) for axis in range(len(plan.size))]
        end = [max(w[axis].stop for w in windows) for axis in range(len(plan.size))]
        self.box = tuple(slice(a, b) for a, b in zip(corner, end, strict=True))
        self.size = tuple(b - a for a, b in zip(corner, end, strict=True))
        self.windows = [
            (window, tuple(slice(s.start - a, s.stop - a) for s, a in zip(window, corner, strict=True)))
            for window in windows
        ]
        self._plan = plan
        weight = torch.zeros(self.size, device=plan.total.device)
        silence = torch.ones_like(weight)
        for window, inside in self.windows:
            weight[inside] += plan.weight
            if rim:
                silence[inside] *= 1 - _say(window, plan.size, rim, weight.device)
        if rim:
            self._otherwise = silence
            self._total = torch.where(weight > 0, weight / (1 - silence), 1)
        else:
            self._total = plan.cut(plan.total, self.box)
            self._otherwise = 1 - weight / self._total

    def cut(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the view of a volume of the plan's size, (..., X, Y[, Z]), in the box."""
        return self._plan.cut(volume, self.box)

    def add(self, accumulator: torch.Tensor, inside: Window, values: torch.Tensor) -> None:
        """Add a window's values, weighted, to an accumulator of the box's size."""
        self._plan.add(accumulator, inside, values)

    def finish(self, accumulator: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        """Turn the weighted sum into the mean, in place.

        Args:
            accumulator: sum over these windows, (..., box).
            otherwise: what is known otherwise, of the same shape or one that broadcasts.
        """
        return accumulator.div_(self._total).addcmul_(otherwise, self._otherwise)


def _say(window: Window, size: Sequence[int], rim: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return a ramp over a window, from near 0 at its border to 1 behind the rim; 1 at the volume's border."""
    ramps = []
    for span, n, width in zip(window, size, rim, strict=True):
        ramp = torch.ones(span.stop - span.start, device=device)
        rise = torch.arange(1, width + 1, device=device) / (width + 1)
        if span.start > 0:
            ramp[:width] = rise
        if span.stop < n:
            ramp[len(ramp) - width :] = rise.flip(0)
        ramps.append(ramp)
    return functools.reduce(lambda a, b: a[..., None] * b, ramps)


def pad_to(volume: torch.Tensor, roi_size: Sequence[int]) -> tuple[torch.Tensor, Window]:
    """Pad (..., X, Y[, Z]) with zeros on both sides to at least a window.

    Returns:
        the padded volume and the slices that undo it.
    """
    missing = [max(0, r - n) for n, r in zip(volume.shape[-len(roi_size) :], roi_size, strict=True)]
    before = [m // 2 for m in missing]
    pads = [p for m, b in reversed(list(zip(missing, before, strict=True))) for p in (b, m - b)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, volume.shape[-len(roi_size) :], strict=True))
    return F.pad(volume, pads), inner
