"""The noise of a member: one field for the whole volume, from seed, case and member alone.

The start noise may hold a smooth field beside the white one. A chain of few steps shrinks the differences between
members at the scale of whole structures, because its first prediction is the same for all of them; the smooth field
restores them and is invisible in single voxels.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from monai_pdddpm.utils.seeds import hashed_seed

BLOCK = 24  # edge of the cubes that are drawn on their own, in voxels
_SMOOTH_DRAW = 2**31  # number of the smooth field among a member's draws, beyond those of any chain
# Smooth fields are sums of products of one node and a weight per axis. With these units their terms are multiples of
# 2^-46 and below 2^6, so float64 holds every sum exactly, and a field has the same bytes in any order of summation.
_NODE_UNIT, _WEIGHT_UNIT = 2.0**-10, 2.0**-12


@dataclass(frozen=True)
class MemberNoise:
    """The noise of a member in a region of a volume.

    The fields depend on the arguments alone, not on the number of members, their order, the batch or the device. They
    are one for the whole volume, so overlapping windows share their noise; independent windows would average out most
    of the members' differences. Each cube of the volume has its own generator, so a region costs what its cubes cost.

    Args:
        seed: seed of the run, 0 or more.
        member: number of the member, from 0.
        shape: (K, X, Y[, Z]) of the volume.
        box: the region, one slice with start and stop per spatial axis; cubes outside of it are not drawn. None is the
            whole volume.
        case: name of the case; the empty name stands for an image without one.
    """

    seed: int
    member: int
    shape: Sequence[int]
    box: Sequence[slice] | None = None
    case: str = ""

    @property
    def spans(self) -> Sequence[slice]:
        """Return the region."""
        return self.box or [slice(0, n) for n in self.shape[1:]]

    def white(self, draw: int = 0) -> torch.Tensor:
        """Return a standard normal white field, (K, box) float32 on the CPU.

        Args:
            draw: 0 for the start, i + 1 for the i-th reverse step.
        """
        spans, classes = self.spans, self.shape[0]
        field = torch.empty(classes, *(span.stop - span.start for span in spans))
        blocks = [range(span.start // BLOCK, math.ceil(span.stop / BLOCK)) for span in spans]
        for block in itertools.product(*blocks):
            drawn = torch.randn(classes, *[BLOCK] * len(spans), generator=self._generator(draw, block))
            target, source = [], []
            for i, span in zip(block, spans, strict=True):
                low, high = max(i * BLOCK, span.start), min((i + 1) * BLOCK, span.stop)
                target.append(slice(low - span.start, high - span.start))
                source.append(slice(low - i * BLOCK, high - i * BLOCK))
            field[(slice(None), *target)] = drawn[(slice(None), *source)]
        return field

    def smooth(self, length: float) -> torch.Tensor:
        """Return a smooth Gaussian field, (K, box) float32, with variance 1 at every voxel to within 0.3 %.

        White noise on a lattice of half the correlation length is filtered along each axis by a Gaussian, so the
        correlation of two voxels at distance d is ``exp(-d^2 / (2 length^2))`` to within 0.003.

        Args:
            length: correlation length in voxels, 1 or more.
        """
        filters = [lattice_filter(n, length)[span] for n, span in zip(self.shape[1:], self.spans, strict=True)]
        used = [torch.nonzero(weights.any(0)).flatten() for weights in filters]
        box = [slice(int(nodes[0]), int(nodes[-1]) + 1) for nodes in used]
        field = _rounded(replace(self, box=box).white(_SMOOTH_DRAW).double(), _NODE_UNIT)
        for axis, (weights, nodes) in enumerate(zip(filters, box, strict=True), start=1):
            field = torch.tensordot(weights[:, nodes], field, ([1], [axis])).movedim(0, axis)
        return field.float().contiguous()

    def start(self, amplitude: float, length: float) -> torch.Tensor:
        """Return the field in which the chain starts, ``(white + amplitude smooth) / sqrt(1 + amplitude^2)``.

        Args:
            amplitude: amplitude of the smooth field relative to the white one, 0 or more.
            length: as in :meth:`smooth`.
        """
        if not amplitude:
            return self.white()
        return (self.white() + amplitude * self.smooth(length)) / math.sqrt(1 + amplitude**2)

    def _generator(self, draw: int, block: Sequence[int]) -> torch.Generator:
        """Return the generator of one cube of a field; an image without a case name adds nothing to the seed."""
        name = hashlib.sha256(self.case.encode("utf-8", "surrogateescape")).digest()[:8]
        words = [int.from_bytes(name, "big")] if self.case else []  # Python 3.10 needs the byte order
        return torch.Generator().manual_seed(hashed_seed(self.seed, self.member, draw, *words, *block))


def lattice_filter(n: int, length: float) -> torch.Tensor:
    """Return the Gaussian filter from lattice nodes to the n voxels of an axis, (n, nodes) float64.

    The squares of each row sum to 1.
    """
    spacing = length / 2
    nodes = torch.arange(-4, math.ceil((n - 1) / spacing) + 5, dtype=torch.float64) * spacing
    matrix = torch.exp(-(((torch.arange(n)[:, None] - nodes) / length) ** 2))
    return _rounded(matrix / matrix.norm(dim=1, keepdim=True), _WEIGHT_UNIT)


def _rounded(x: torch.Tensor, unit: float) -> torch.Tensor:
    return (x / unit).round() * unit
