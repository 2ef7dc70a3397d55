"""The noise of a member: one field for the whole volume, from the member's own generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def member_seed(seed: int, member: int, draw: int) -> int:
    """Return the seed of one draw of a member: a hash of the arguments, below 2^63."""
    return int(np.random.SeedSequence([seed, member, draw]).generate_state(1, np.uint64)[0] >> 1)


def member_noise(seed: int, member: int, draw: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the standard normal field that a member uses for the start or for one of its steps.

    It depends on nothing but the arguments: not on the number of members, their order, the batch or the device. It is
    made for the whole volume and cut into windows, so that overlapping windows work on the same noise; independent
    windows would average a good part of the members' differences away.

    Args:
        seed: the run's seed, 0 or more.
        member: the member's number, from 0.
        draw: 0 for the start, i + 1 for the i-th reverse step.
        shape: (K, X, Y[, Z]) of the volume.

    Returns:
        float32 on the CPU.
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(member_seed(seed, member, draw)))
