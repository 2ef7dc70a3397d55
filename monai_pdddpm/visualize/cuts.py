"""Choose the planes of a case that show most, and cut arrays along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Box = tuple[slice, slice, slice]

MARGIN_MM = 20.0
_AXES = (0, 1, 2)


@dataclass(frozen=True)
class Plane:
    """A way to cut an array whose axes point to the right, to the front and to the head (RAS).

    Args:
        name: its radiological name.
        axis: the axis that is cut.
        across: the axis from one side of the picture to the other.
        up: the axis from the bottom of the picture to its top.
        sides: letters of the left, right, bottom and top side of the picture.
    """

    name: str
    axis: int
    across: int
    up: int
    sides: str


PLANES = (Plane("Axial", 2, 0, 1, "RLPA"), Plane("Coronal", 1, 0, 2, "RLIS"), Plane("Sagittal", 0, 1, 2, "APIS"))


def index_in_file(axis: int, index: int, shape: Sequence[int], orientation: Array) -> str:
    """Return the name of a slice of a RAS volume, (X, Y, Z), in the file's own axes, such as ``k = 17``.

    ``orientation`` is nibabel's ``io_orientation`` of the file's affine.
    """
    source = int(np.flatnonzero(orientation[:, 0] == axis)[0])
    number = index if orientation[source, 1] > 0 else shape[axis] - 1 - index
    return f"{'ijk'[source]} = {number}"


def planes_of(shape: Sequence[int]) -> list[Plane]:
    """Return the planes in which a RAS volume is more than a line, at least one."""
    return [plane for plane in PLANES if shape[plane.across] > 1 and shape[plane.up] > 1] or [PLANES[0]]


def cut(volume: Array, plane: Plane, index: int) -> Array:
    """Return a slice of a RAS volume, (X, Y, Z, ...), as a picture, (rows, columns, ...), from the top and left.

    Axial and coronal pictures have the patient's right at the left (radiological convention); sagittal ones have
    anterior at the left.
    """
    return np.moveaxis(volume, plane.axis, 0)[index, ::-1, ::-1].swapaxes(0, 1)


def informative_slices(seg: Array, entropy: Array, highest: float) -> tuple[int, int, int]:
    """Return the slice across each axis with the most segmented and uncertain voxels.

    A segmented voxel counts 1. Its entropy divided by `highest` is added, and so is that of voxels outside the
    segmentation with at least half of the highest entropy: faint uncertainty of the background does not count, a
    structure that was nearly found does.

    Args:
        seg: (X, Y, Z) label map.
        entropy: (X, Y, Z) in nats.
        highest: the highest possible entropy.

    Returns:
        An index along each axis; the middle of equally good slices.
    """
    weight = (seg != 0) + np.where(_relevant(seg, entropy, highest), entropy / highest, 0)
    totals = [_reduce_to(np.add, weight, axis) for axis in _AXES]
    equal = [np.flatnonzero(np.isclose(total, total.max())) for total in totals]
    x, y, z = (int(best[len(best) // 2]) for best in equal)
    return x, y, z


def crop_box(seg: Array, entropy: Array, spacing: Sequence[float], highest: float, slices: tuple[int, int, int]) -> Box:
    """Return the part of a volume to show: the segmented or very uncertain voxels of the slices, and a wide margin.

    Args:
        seg: see `informative_slices`, which returns ``slices``.
        entropy: voxels from half of `highest` on belong to the box.
        spacing: voxel size in mm along X, Y, Z.
        highest: the highest possible entropy.
        slices: index along each axis of the slices to show.

    Returns:
        A slice per axis: the bounding box and, on every side, half its longest side or 20 mm, whichever is more. X and
        Y get the same length where the volume allows it, because their pictures stand in one column. The whole volume
        when no voxel is segmented or very uncertain.
    """
    relevant, shown = _relevant(seg, entropy, highest), np.zeros(seg.shape, dtype=bool)
    for axis, index in enumerate(slices):
        place = (slice(None),) * axis + (index,)
        shown[place] = relevant[place]
    if not shown.any():
        return slice(0, seg.shape[0]), slice(0, seg.shape[1]), slice(0, seg.shape[2])
    ends = [np.flatnonzero(_reduce_to(np.logical_or, shown, axis))[[0, -1]] for axis in _AXES]
    sides = [(last - first + 1) * step for (first, last), step in zip(ends, spacing, strict=True)]
    wanted = [side + 2 * max(MARGIN_MM, max(sides) / 2) for side in sides]
    wanted[:2] = [max(min(wanted[axis], seg.shape[axis] * spacing[axis]) for axis in (0, 1))] * 2
    box = []
    for axis, size in enumerate(seg.shape):
        count = min(size, math.ceil(wanted[axis] / spacing[axis]))
        start = min(max(0, (int(ends[axis].sum()) + 1 - count) // 2), size - count)  # moved inside the axis
        box.append(slice(start, start + count))
    return box[0], box[1], box[2]


def _relevant(seg: Array, entropy: Array, highest: float) -> Array:
    return (seg != 0) | (entropy >= highest / 2)


def _reduce_to(operation: np.ufunc, volume: Array, axis: int) -> Array:
    """Reduce all axes but one."""
    return operation.reduce(volume, axis=tuple(other for other in _AXES if other != axis))
