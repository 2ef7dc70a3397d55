"""From the network's grid to the scan's, where maps differ from sure background."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms.utils import generate_spatial_bounding_box
from torch.nn import functional as F

_SAME = 1e-3  # voxels; grids that differ by less need no interpolation
_SLAB = 2**22  # voxels that are interpolated at once: their coordinates take 144 MiB


def box_above(values: Sequence[torch.Tensor], limits: Sequence[float]) -> tuple[slice, ...]:
    """Return the bounding box, one voxel wider on each side, of the voxels in which any value exceeds its limit.

    The values, each (C, X, Y[, Z]), are on one grid. If none exceeds its limit, the box is at the first voxel.
    """
    found = torch.zeros(values[0].shape[1:], dtype=torch.bool, device=values[0].device)
    for each, limit in zip(values, limits, strict=True):
        found |= each.amax(0) > limit
    start, end = generate_spatial_bounding_box(found[None], margin=1, allow_smaller=True)
    return tuple(slice(low, high or min(size, 2)) for low, high, size in zip(start, end, found.shape, strict=True))


class ScanGrid:
    """The grid of a scan, and the part of it on which a box of the network's grid lies.

    The affines of the scan before and after preprocessing state where a voxel lies, so orientation, spacing, crops and
    padding need no inverse of their own. Voxels of the scan beyond the box are background.

    Args:
        image: preprocessed scan, (C, X, Y[, Z]), with ``original_affine`` and ``spatial_shape`` in its metadata.
        box: part of the network's grid, one slice per axis.
    """

    def __init__(self, image: MetaTensor, box: Sequence[slice]) -> None:
        dims = image.dim() - 1
        self.box = tuple(box)
        self.affine = torch.as_tensor(np.asarray(image.meta.get("original_affine", image.affine), dtype=np.float64))
        shape = image.meta.get("spatial_shape", image.shape[1:])
        self.shape = tuple(int(n) for n in shape)[:dims]
        network, scan = (to_affine_nd(dims, np.asarray(a, dtype=np.float64)) for a in (image.affine, self.affine))
        # from a voxel of the scan to one of the network's grid
        self._relation = np.linalg.solve(network, scan)[:-1]
        self._turned = _whole_numbers(self._relation, self.shape)
        # interpolation reaches almost one voxel beyond the box
        more = 1 - _SAME if self._turned is None else _SAME
        corners = np.array(list(itertools.product(*((s.start - more, s.stop - 1 + more) for s in self.box))))
        found = np.linalg.solve(self._relation[:, :-1], (corners - self._relation[:, -1]).T)
        limits = zip(found.min(1), found.max(1), self.shape, strict=True)
        spans = [(min(max(0, math.ceil(low)), n), min(max(0, math.floor(high) + 1), n)) for low, high, n in limits]
        self.target = tuple(slice(low, max(low, high)) for low, high in spans)

    def resample(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the network's grid, (C, X, Y[, Z]), on the part of the scan's grid, (C, target)."""
        source = values[(slice(None), *self.box)]
        size = [s.stop - s.start for s in self.target]
        if 0 in size:  # the box lies in the padding
            return source.new_empty(len(source), *size)
        return self._interpolated(source) if self._turned is None else self._flipped(source, self._turned)

    def paste(self, values: torch.Tensor, background: float = 0.0, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return values of the part, (C, target[, T]), on the whole grid, (C, X, Y[, Z][, T]).

        Elsewhere the first channel is ``background`` and the others are 0. ``out`` is a tensor of zeros to fill.
        """
        after = values.shape[1 + len(self.shape) :]
        if out is None and values.shape[1:] == (*self.shape, *after):
            return values
        whole = values.new_zeros(len(values), *self.shape, *after) if out is None else out
        if background:
            whole[0] = background
        whole[(slice(None), *self.target)] = values
        return whole

    def _flipped(self, source: torch.Tensor, relation: np.ndarray) -> torch.Tensor:
        """Return a copy with permuted and flipped axes."""
        order = [int(np.flatnonzero(relation[:, axis])[0]) for axis in range(len(relation))]
        out, backwards = source.permute(0, *(1 + of for of in order)), []
        for axis, (span, of) in enumerate(zip(self.target, order, strict=True)):
            ends = [relation[of, axis] * i + relation[of, -1] - self.box[of].start for i in (span.start, span.stop - 1)]
            out = out.narrow(1 + axis, min(ends), span.stop - span.start)
            backwards += [1 + axis] if relation[of, axis] == -1 else []
        return out.flip(backwards)

    def _interpolated(self, source: torch.Tensor) -> torch.Tensor:
        """Interpolate linearly, slab by slab; values beyond the box are those of its border."""
        size = [s.stop - s.start for s in self.target]
        out = source.new_empty(len(source), *size)
        # grid_sample counts from -1 to 1, and its axes from the last
        scale = np.array([max(n - 1, 1) for n in source.shape[1:]]) / 2
        step = (self._relation[:, :-1] / scale[:, None])[::-1]
        first = self._relation @ [*(s.start for s in self.target), 1] - [s.start for s in self.box]
        first = (first / scale - 1)[::-1]
        thick = max(1, _SLAB // math.prod(size[1:]))
        for start in range(0, size[0], thick):
            part = slice(start, start + thick)
            grid = torch.as_tensor(first.copy())
            for axis, n in enumerate(size):
                along = torch.arange(n, dtype=torch.float64)[part if axis == 0 else slice(None)]
                along = along[:, None] * torch.as_tensor(step[:, axis].copy())
                grid = grid + along.view(*(-1 if a == axis else 1 for a in range(len(size))), len(size))
            sampled = F.grid_sample(source[None], grid[None].to(source), padding_mode="border", align_corners=True)
            out[:, part] = sampled[0]
        return out


def _whole_numbers(relation: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Return a relation of grids, (d, d + 1), as whole numbers if it only permutes, flips and shifts, else None."""
    rounded = np.rint(relation)
    turned = np.abs(rounded[:, :-1])
    corners = np.array([[*end, 1] for end in itertools.product(*((0, n) for n in shape))], dtype=float)
    if not (turned.sum(0) == 1).all():  # an axis for each; no two have the same, as grids are no planes
        return None
    return rounded.astype(int) if np.abs(corners @ (relation - rounded).T).max() < _SAME else None
