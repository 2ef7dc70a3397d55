"""Which windows a volume is cut into, and how their results are blended."""

from __future__ import annotations

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


class Region:
    """The bounding box of some windows of a plan, and sums over it; what no window covers is known otherwise.

    Args:
        plan: all windows.
        windows: some of them, at least one.
    """

    def __init__(self, plan: WindowPlan, windows: Sequence[Window]) -> None:
        corner = [min(w[axis].start for w in windows) for axis in range(len(plan.size))]
        end = [max(w[axis].stop for w in windows) for axis in range(len(plan.size))]
        self.box = tuple(slice(a, b) for a, b in zip(corner, end, strict=True))
        self.size = tuple(b - a for a, b in zip(corner, end, strict=True))
        self.windows = [
            (window, tuple(slice(s.start - a, s.stop - a) for s, a in zip(window, corner, strict=True)))
            for window in windows
        ]
        self._plan = plan
        self._total = plan.cut(plan.total, self.box)
        covered = torch.zeros(self.size, device=plan.total.device)
        for _, inside in self.windows:
            covered[inside] += plan.weight
        self._uncovered = 1 - covered / self._total

    def cut(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the view of a volume of the plan's size, (..., X, Y[, Z]), in the box."""
        return self._plan.cut(volume, self.box)

    def add(self, accumulator: torch.Tensor, inside: Window, values: torch.Tensor) -> None:
        """Add a window's values, weighted, to an accumulator of the box's size."""
        self._plan.add(accumulator, inside, values)

    def finish(self, accumulator: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        """Turn the weighted sum into the mean over all windows of the plan, in place.

        Args:
            accumulator: sum over these windows, (..., box).
            otherwise: what the other windows would say, of the same shape or one that broadcasts.
        """
        return accumulator.div_(self._total).addcmul_(otherwise, self._uncovered)


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
