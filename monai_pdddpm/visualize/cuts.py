"""Where to cut a case so that the picture shows what matters, and which way up: arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

__all__ = ["PLANES", "Case", "Plane", "View", "crop_box", "cut", "orientation_of", "pick_slices"]

Array = NDArray[Any]

MARGIN_MM = 20.0
_AXES = (0, 1, 2)


@dataclass(frozen=True)
class Plane:
    """A way to cut an array whose axes run to the right, to the front and to the head (RAS).

    Args:
        name: what radiologists call it.
        axis: the axis that is cut.
        across: the axis from one side of the picture to the other.
        up: the axis from the bottom of the picture to its top.
        ends: what lies at the left, right, bottom and top of the picture.
    """

    name: str
    axis: int
    across: int
    up: int
    ends: str


PLANES = (Plane("Axial", 2, 0, 1, "RLPA"), Plane("Coronal", 1, 0, 2, "RLIS"), Plane("Sagittal", 0, 1, 2, "APIS"))


@dataclass(frozen=True)
class Case:
    """The volumes of a case on one grid.

    Args:
        image: (X, Y, Z) scan.
        label_map: (X, Y, Z) label map, 0 for the background.
        uncertainty: (X, Y, Z) entropy in nats.
        spacing: voxel size in mm along X, Y, Z.
        members: (X, Y, Z, N) label maps, the member last.
        truth: (X, Y, Z) reference.
    """

    image: Array
    label_map: Array
    uncertainty: Array
    spacing: tuple[float, ...]
    members: Array | None = None
    truth: Array | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        if len(shape) != 3 or not all(shape):
            raise ValueError(f"image: found shape {shape}, expected (X, Y, Z), each at least 1")
        for name, volume in self.volumes().items():
            if volume.ndim != (4 if name == "members" else 3) or volume.shape[:3] != shape:
                raise ValueError(f"{name}: found spatial shape {volume.shape[:3]}, expected {shape} as of the image")
        if len(self.spacing) != 3 or not all(0 < step < math.inf for step in self.spacing):
            raise ValueError(f"spacing: found {self.spacing}, expected three positive numbers of mm")

    def volumes(self) -> dict[str, Array]:
        """All volumes that there are, by name."""
        names = ("image", "label_map", "uncertainty", "members", "truth")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def turned(self, orientation: Array) -> Case:
        """Swap and flip the axes as `orientation_of` says, after which they are RAS."""
        spacing = tuple(self.spacing[int(axis)] for axis in np.argsort(orientation[:, 0]))
        return self._each(lambda volume: apply_orientation(volume, orientation), spacing)

    def cropped(self, box: tuple[slice, slice, slice]) -> Case:
        """Take a part of every volume."""
        return self._each(lambda volume: volume[box], self.spacing)

    def view(self, plane: Plane, index: int, name: str, at: Sequence[int] | None = None) -> View:
        """Cut every volume of a case that is RAS; see `cut`. ``at`` is where the planes cut, along each axis."""
        cuts: dict[str, Any] = {key: cut(volume, plane, index) for key, volume in self.volumes().items()}
        steps = (self.spacing[plane.up], self.spacing[plane.across])
        others = None
        if at is not None:
            axes = (plane.across, plane.up)
            across, down = ((self.image.shape[axis] - at[axis] - 0.5) * self.spacing[axis] for axis in axes)
            others = (across, down)
        return View(**cuts, plane=plane, name=name, steps=steps, others=others)

    def _each(self, change: Callable[[Array], Array], spacing: tuple[float, ...]) -> Case:
        changed: dict[str, Any] = {name: change(volume) for name, volume in self.volumes().items()}
        return replace(self, spacing=spacing, **changed)


@dataclass(frozen=True)
class View:
    """A cut through a case, as it is seen: rows from the top down, columns from the left.

    Args:
        plane: how it was cut.
        name: where it was cut.
        steps: height and width of a pixel in mm.
        image: (rows, columns), and so are all others, but ``members`` is (rows, columns, N).
        label_map: label map.
        uncertainty: entropy in nats.
        members: label maps, the member last.
        truth: reference.
        others: where the two other planes cut this one, in mm from its left and from its top.
    """

    plane: Plane
    name: str
    steps: tuple[float, float]
    image: Array
    label_map: Array
    uncertainty: Array
    members: Array | None = None
    truth: Array | None = None
    others: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in mm."""
        return self.image.shape[1] * self.steps[1], self.image.shape[0] * self.steps[0]


def orientation_of(affine: Array | None) -> Array:
    """Tell for each axis of an array which RAS axis it is nearest to, and whether it runs along it (1) or against (-1).

    Args:
        affine: voxel to RAS+, 4 x 4; None for an array that is RAS already.

    Returns:
        Whole numbers of shape (3, 2), an orientation of nibabel's.

    Raises:
        ValueError: when two axes are the same, or one has no length.
    """
    orientation = io_orientation(np.eye(4) if affine is None else np.asarray(affine))
    if np.isnan(orientation).any():
        raise ValueError(f"affine: found {np.asarray(affine).tolist()}, expected three axes that differ")
    return orientation.astype(int)


def index_in_file(axis: int, index: int, shape: Sequence[int], orientation: Array) -> str:
    """Name a slice of a turned volume by its index before it was turned, such as ``k = 17``.

    Args:
        axis: RAS axis that is cut.
        index: index along it.
        shape: shape of the turned volume.
        orientation: what turned it.

    Returns:
        Axis i, j or k of the file, and the index along it from 0.
    """
    source = int(np.flatnonzero(orientation[:, 0] == axis)[0])
    number = index if orientation[source, 1] > 0 else shape[axis] - 1 - index
    return f"{'ijk'[source]} = {number}"


def planes_of(shape: Sequence[int]) -> list[Plane]:
    """Planes in which an RAS volume is more than a line: all three, or one where there is a single slice."""
    return [plane for plane in PLANES if shape[plane.across] > 1 and shape[plane.up] > 1] or [PLANES[0]]


def cut(volume: Array, plane: Plane, index: int) -> Array:
    """Take a slice of an RAS volume as it is seen: rows from the top down, columns from the left.

    Args:
        volume: (X, Y, Z), or more axes after these.
        plane: how to cut. Axial and coronal cuts have the patient's right at the left, as radiologists see them;
            sagittal ones have anterior at the left.
        index: where to cut.

    Returns:
        (rows, columns), and the further axes.
    """
    return np.moveaxis(volume, plane.axis, 0)[index, ::-1, ::-1].swapaxes(0, 1)


def pick_slices(label_map: Array, uncertainty: Array, highest: float) -> tuple[int, int, int]:
    """Find the slice across each axis that shows most of what matters.

    A voxel weighs 1 when it is segmented, and its entropy over `highest` on top when it is segmented or at least half
    as uncertain as can be: a faint doubt all over the background has no say, a structure that was nearly found has.

    Args:
        label_map: (X, Y, Z) label map.
        uncertainty: (X, Y, Z) entropy.
        highest: the most that the entropy can be.

    Returns:
        An index along each axis; of several that are alike the middle one, so the middle slice when nothing matters.
    """
    weight = (label_map != 0) + np.where(_matters(label_map, uncertainty, highest), uncertainty / highest, 0)
    totals = [_over_others(np.add, weight, axis) for axis in _AXES]
    best = [np.flatnonzero(np.isclose(total, total.max())) for total in totals]
    first, second, third = (int(alike[len(alike) // 2]) for alike in best)
    return first, second, third


def crop_box(case: Case, highest: float, slices: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Find the part of a case to show: what is segmented, true or greatly uncertain in the slices, and a wide margin.

    Args:
        case: volumes; voxels with an entropy from half of `highest` on belong to the box.
        highest: the most that the entropy can be.
        slices: index along each axis of the slices to show.

    Returns:
        A slice per axis: the bounding box and, on every side, half its largest side or 20 mm, whichever is more. X and
        Y are made alike where the volume is large enough, since pictures of both stand in one column. Everything when
        there is nothing to bound.
    """
    whole = _matters(case.label_map, case.uncertainty, highest)
    if case.truth is not None:
        whole |= case.truth != 0
    found = np.zeros_like(whole)
    for axis in _AXES:
        place = (slice(None),) * axis + (slices[axis],)
        found[place] = whole[place]
    if not found.any():
        first, second, third = (slice(0, size) for size in found.shape)
        return first, second, third
    ends = [np.flatnonzero(_over_others(np.logical_or, found, axis))[[0, -1]].tolist() for axis in _AXES]
    longest = max((last - first + 1) * step for (first, last), step in zip(ends, case.spacing, strict=True))
    margin = max(MARGIN_MM, longest / 2)
    wanted = [(last - first + 1) * step + 2 * margin for (first, last), step in zip(ends, case.spacing, strict=True)]
    wanted[:2] = [max(_within(wanted[axis], case, axis) for axis in (0, 1))] * 2
    first, second, third = (_around(sum(ends[axis]) + 1, wanted[axis], case, axis) for axis in _AXES)
    return first, second, third


def _within(length: float, case: Case, axis: int) -> float:
    return min(length, case.image.shape[axis] * case.spacing[axis])


def _around(twice_middle: int, length: float, case: Case, axis: int) -> slice:
    """Take so many mm of an axis, or all of it, around a middle as far as the ends of the axis allow."""
    size = case.image.shape[axis]
    count = min(size, math.ceil(length / case.spacing[axis]))
    start = min(max(0, (twice_middle - count) // 2), size - count)
    return slice(start, start + count)


def _matters(label_map: Array, uncertainty: Array, highest: float) -> Array:
    return (label_map != 0) | (uncertainty >= highest / 2)


def _over_others(operation: np.ufunc, volume: Array, axis: int) -> Array:
    """Reduce all axes but one."""
    return operation.reduce(volume, axis=tuple(other for other in _AXES if other != axis))
