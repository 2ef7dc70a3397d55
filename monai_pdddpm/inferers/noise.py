"""The noise of a member: one field for the whole volume, from the member's own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def member_seed(seed: int, member: int, draw: int) -> int:
    """Return the seed of one draw of a member: a hash of the arguments, below 2^63."""
    return int(np.random.SeedSequence([seed, member, draw]).generate_state(1, np.uint64)[0]) >> 1


def member_noise(
    seed: int, member: int, draw: int, shape: Sequence[int], box: Sequence[slice] | None = None
) -> torch.Tensor:
    """Return the standard normal field that a member uses for the start or for one of its steps.

    It depends on nothing but the arguments: not on the number of members, their order, the batch or the device. It is
    made for the whole volume and cut into windows, so that overlapping windows work on the same noise; independent
    windows would average a good part of the members' differences away.

    Args:
        seed: the run's seed, 0 or more.
        member: the member's number, from 0.
        draw: 0 for the start, i + 1 for the i-th reverse step.
        shape: (K, X, Y[, Z]) of the volume.
        box: the part of the volume that is wanted, one slice with start and stop for each spatial axis; the volume's
            field is never held as a whole.

    Returns:
        float32 on the CPU, (K, box).
    """
    generator = torch.Generator().manual_seed(member_seed(seed, member, draw))
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
    """Cut a list into parts of 16, the last of at least ``least``: torch draws such parts as it would the whole."""
    starts = list(range(0, len(planes), 16))
    if len(starts) > 1 and len(planes) - starts[-1] < least:
        starts.pop()
    return [planes[a:b] for a, b in zip(starts, [*starts[1:], len(planes)], strict=True)]
