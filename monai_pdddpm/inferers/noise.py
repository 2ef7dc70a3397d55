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

import torch

from monai_pdddpm.utils.seeds import hashed_seed

BLOCK = 24  # edge of the cubes that are drawn on their own, in voxels
_SMOOTH_DRAW = 2**31  # number of the smooth field among a member's draws, beyond those of any chain
# Smooth fields are sums of products of one node and a weight per axis. With these units their terms are multiples of
# 2^-46 and below 2^6, so float64 holds every sum exactly, and a field has the same bytes in any order of summation.
_NODE_UNIT, _WEIGHT_UNIT = 2.0**-10, 2.0**-12


def member_noise(
    seed: int, member: int, draw: int, shape: Sequence[int], box: Sequence[slice] | None = None, case: str = ""
) -> torch.Tensor:
    """Return the standard normal white field of a member for the start or for one of its steps.

    The field depends on the arguments alone, not on the number of members, their order, the batch or the device. It is
    one for the whole volume, so overlapping windows share their noise; independent windows would average out most of
    the members' differences. Each cube of the volume has its own generator, so a region costs what its cubes cost.

    Args:
        seed: seed of the run, 0 or more.
        member: number of the member, from 0.
        draw: 0 for the start, i + 1 for the i-th reverse step.
        shape: (K, X, Y[, Z]) of the volume.
        box: region to return, one slice with start and stop per spatial axis; cubes outside of it are not drawn.
        case: name of the case; the empty name stands for an image without one.

    Returns:
        (K, box) float32 on the CPU.
    """
    spans = box or [slice(0, n) for n in shape[1:]]
    field = torch.empty(shape[0], *(span.stop - span.start for span in spans))
    blocks = [range(span.start // BLOCK, math.ceil(span.stop / BLOCK)) for span in spans]
    for block in itertools.product(*blocks):
        drawn = torch.randn(shape[0], *[BLOCK] * len(spans), generator=_generator(seed, member, draw, case, block))
        target, source = [], []
        for i, span in zip(block, spans, strict=True):
            low, high = max(i * BLOCK, span.start), min((i + 1) * BLOCK, span.stop)
            target.append(slice(low - span.start, high - span.start))
            source.append(slice(low - i * BLOCK, high - i * BLOCK))
        field[(slice(None), *target)] = drawn[(slice(None), *source)]
    return field


def start_noise(
    seed: int,
    member: int,
    shape: Sequence[int],
    amplitude: float,
    length: float,
    box: Sequence[slice] | None = None,
    case: str = "",
) -> torch.Tensor:
    """Return the field in which a member's chain starts, ``(white + amplitude smooth) / sqrt(1 + amplitude^2)``.

    Args:
        seed: as in :func:`member_noise`.
        member: likewise.
        shape: likewise.
        amplitude: amplitude of the smooth field relative to the white one, 0 or more.
        length: correlation length of the smooth field in voxels, 1 or more.
        box: as in :func:`member_noise`.
        case: likewise.

    Returns:
        (K, box) float32 on the CPU, with variance 1 at every voxel.
    """
    white = member_noise(seed, member, 0, shape, box, case)
    if not amplitude:
        return white
    return (white + amplitude * smooth_noise(seed, member, shape, length, box, case)) / math.sqrt(1 + amplitude**2)


def smooth_noise(
    seed: int, member: int, shape: Sequence[int], length: float, box: Sequence[slice] | None = None, case: str = ""
) -> torch.Tensor:
    """Return a smooth Gaussian field of a member, with variance 1 at every voxel to within 0.3 %.

    White noise on a lattice of half the correlation length is filtered along each axis by a Gaussian, so the
    correlation of two voxels at distance d is ``exp(-d^2 / (2 length^2))`` to within 0.003. Like :func:`member_noise`
    the field is one for the whole volume, whatever its windows.

    Args:
        seed: as in :func:`member_noise`.
        member: likewise.
        shape: likewise.
        length: correlation length in voxels, 1 or more.
        box: as in :func:`member_noise`.
        case: likewise.

    Returns:
        (K, box) float32 on the CPU.
    """
    spans = box or [slice(0, n) for n in shape[1:]]
    filters = [lattice_filter(n, length)[span] for n, span in zip(shape[1:], spans, strict=True)]
    used = [torch.nonzero(weights.any(0)).flatten() for weights in filters]
    lattice = (shape[0], *(weights.shape[1] for weights in filters))
    node_box = [slice(int(nodes[0]), int(nodes[-1]) + 1) for nodes in used]
    nodes = member_noise(seed, member, _SMOOTH_DRAW, lattice, node_box, case)
    field = _rounded(nodes.double(), _NODE_UNIT)
    for axis, (weights, nodes_used) in enumerate(zip(filters, node_box, strict=True), start=1):
        field = torch.tensordot(weights[:, nodes_used], field, ([1], [axis])).movedim(0, axis)
    return field.float().contiguous()


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


def _generator(seed: int, member: int, draw: int, case: str, block: Sequence[int]) -> torch.Generator:
    """Return the generator of one cube of a field; an image without a case name adds nothing to the seed."""
    name = hashlib.sha256(case.encode("utf-8", "surrogateescape")).digest()[:8]
    words = [int.from_bytes(name, "big")] if case else []  # Python 3.10 needs the byte order
    return torch.Generator().manual_seed(hashed_seed(seed, member, draw, *words, *block))
