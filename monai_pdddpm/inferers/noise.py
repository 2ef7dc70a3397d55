"""The noise of a member: one field for the whole volume, from the member's own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_pdddpm.utils.seeds import hashed_seed


def member_noise(
    seed: int, member: int, draw: int, shape: Sequence[int], box: Sequence[slice] | None = None
) -> torch.Tensor:
    """Return the standard normal field of a member for the start or for one of its steps.

    The field depends on the arguments alone, not on the number of members, their order, the batch or the device. It is
    drawn for the whole volume, so overlapping windows share their noise. Independent windows would average out most of
    the members' differences.

    Args:
        seed: seed of the run, 0 or more.
        member: number of the member, from 0.
        draw: 0 for the start, i + 1 for the i-th reverse step.
        shape: (K, X, Y[, Z]) of the volume.
        box: region to return, one slice with start and stop per spatial axis; the whole field is never in memory.

    Returns:
        (K, box) float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(hashed_seed(seed, member, draw))
    if box is None:
        return torch.randn(*shape, generator=generator)
    x, *others = box
    field = torch.empty(shape[0], *(s.stop - s.start for s in box))
    planes = [(k, i) for k in range(shape[0]) for i in range(shape[1])]
    for part in _sixteens(planes, least=math.ceil(16 / math.prod(shape[2:]))):
        drawn = torch.randn(len(part), *shape[2:], generator=generator)[(slice(None), *others)]
        for (k, i), plane in zip(part, drawn, strict=True):
            if x.start <= i < x.stop:
                field[k, i - x.start] = plane
    return field


def _sixteens(planes: list[tuple[int, int]], least: int) -> list[list[tuple[int, int]]]:
    """Split a list into parts of 16, the last of at least ``least``, for which torch draws the same numbers."""
    starts = list(range(0, len(planes), 16))
    if len(starts) > 1 and len(planes) - starts[-1] < least:
        starts.pop()
    return [planes[a:b] for a, b in zip(starts, [*starts[1:], len(planes)], strict=True)]
