"""Descending lists of time steps, the same in training and in sampling.

A start step T' counts noising steps, from 0 (the pre-segmentation itself) to T. Time *indices* run from 0 to T-1, so a
chain from T' starts at index T'-1. A list may end above index 0; the prediction made there is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from monai_pdddpm.utils.checks import check_range
from monai_pdddpm.utils.errors import UserError


def early_end(start_step: int, share: float) -> int:
    """Return the index at which a chain from T' ends: floor(share T'), at most T'-1.

    In 3D the regions of a mask are decided at high noise. Below, the chain only sharpens them, and the members'
    probabilities become nearly one-hot.

    Args:
        start_step: T', 0 or more.
        share: 0 (down to index 0) to 1 (a single step).

    Raises:
        UserError: if an argument is out of range.

    Example:
        >>> early_end(950, 0.9)
        855
    """
    check_range("start_step", start_step, 0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UserError(f"end_fraction: found {share!r}, expected a number from 0 to 1; fix --end_fraction")
    exact = math.floor(share * start_step + 1e-9)  # 0.7 * 700 is 489.99... in floats
    return max(0, min(exact, start_step - 1))


def uniform_steps(start_step: int, num_steps: int | None = None, end_step: int = 0) -> list[int]:
    """Return ``num_steps`` indices evenly spread from T'-1 down to ``end_step`` (Fast-DDPM's uniform list, truncated).

    Args:
        start_step: T', 0 or more; 0 gives the empty list.
        num_steps: length of the list, 1 to T' - ``end_step``; None gives every index.
        end_step: the last index of a list of 2 or more, at most T'-1.

    Raises:
        UserError: if an argument is out of range.

    Example:
        >>> uniform_steps(300, 10)
        [299, 266, 233, 199, 166, 133, 100, 66, 33, 0]
    """
    if num_steps is None:
        num_steps = max(1, start_step - end_step)
    _check(start_step, num_steps, end_step)
    if start_step == 0:
        return []
    top = start_step - 1
    gaps = num_steps - 1
    if gaps == 0:
        return [top]
    # in whole numbers, so that ties always round down, as in Fast-DDPM's list
    return [top - (2 * i * (top - end_step) + gaps) // (2 * gaps) for i in range(gaps + 1)]


def uneven_steps(start_step: int, num_steps: int, end_step: int = 0) -> list[int]:
    """Return ``num_steps`` indices, 40 % in the lower 70 % of the range and 60 % above (Fast-DDPM's other list).

    Args:
        start_step: T', 0 or more; 0 gives the empty list.
        num_steps: length of the list, 1 to T' - ``end_step``; shorter where two entries fall on the same index.
        end_step: the last index of a list of 2 or more, at most T'-1.

    Raises:
        UserError: if an argument is out of range.

    Example:
        >>> uneven_steps(300, 5)
        [299, 255, 210, 105, 0]
    """
    _check(start_step, num_steps, end_step)
    if start_step == 0:
        return []
    top = start_step - 1
    if num_steps == start_step - end_step:
        return list(range(top, end_step - 1, -1))
    bend = end_step + (top - end_step) * 699 / 999
    below = max(int(0.4 * num_steps), min(num_steps - 1, 1))  # one at least, which is the end of the list
    low = np.linspace(end_step, bend, below + 1)[:-1]
    high = np.linspace(bend, top, num_steps - below) if num_steps - below > 1 else np.array([top])
    return sorted({math.ceil(i) for i in (*low, *high)}, reverse=True)


def check_steps(time_steps: Iterable[int], num_train_timesteps: int) -> list[int]:
    """Return the list if it is strictly descending with indices in [0, T-1].

    Raises:
        UserError: otherwise.
    """
    time_steps = [int(t) for t in time_steps]
    if any(a <= b for a, b in pairwise(time_steps)) or any(not 0 <= t < num_train_timesteps for t in time_steps):
        raise UserError(
            f"time_steps: found {time_steps}, expected a strictly descending list of indices from "
            f"{num_train_timesteps - 1} to 0; fix 'time_steps' in the configuration"
        )
    return time_steps


def _check(start_step: int, num_steps: int, end_step: int) -> None:
    if start_step < 0:
        raise UserError(f"start_step: found {start_step}, expected 0 or more; fix --start_step")
    if start_step and not 0 <= end_step < start_step:
        raise UserError(
            f"end_step: found {end_step}, expected 0 to start_step - 1 = {start_step - 1}; fix --time_steps#end_step"
        )
    most = start_step - end_step
    if num_steps < 1 or (start_step and num_steps > most):
        expected = f"1 to start_step - end_step = {most}" if start_step else "1 or more"
        raise UserError(f"num_steps: found {num_steps}, expected {expected}; fix --num_steps")
