"""Descending lists of time steps, the same in training and in sampling.

A start step T' counts noising steps, from 0 (the pre-segmentation itself) to T. Time *indices* run from 0 to T-1, so a
chain from T' starts at index T'-1. A list may end above index 0; the prediction made there is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral

from monai_pdddpm.utils.checks import check_list, check_range
from monai_pdddpm.utils.errors import UserError


def stored_steps(
    chains: Mapping[str, Sequence[int]], num_steps: int, start_step: int | None = None, end_step: int | None = None
) -> list[int]:
    """Return the time indices of a chain: a stored list, or a uniform one where none is stored or a range is given.

    Few steps are best placed by measurement, and the best start depends on their number; a bundle stores the lists.

    Args:
        chains: number of steps, as text, to the list of that length that was measured best.
        num_steps: number of steps, 1 or more. Without a stored list of this length, the uniform list between the ends
            of the list with the nearest length is returned; of two equally near ones, the longer list.
        start_step: T', 0 or more; None starts as the stored list does. 0 gives the empty list.
        end_step: the last index, below T'; None ends at 0 with a ``start_step``, and as the stored list does without.

    Raises:
        UserError: if an argument is out of range, or a stored list has another length or does not descend.

    Example:
        >>> stored_steps({"2": [899, 700], "5": [999, 940, 870, 760, 500]}, 2)
        [899, 700]
        >>> stored_steps({"2": [899, 700], "5": [999, 940, 870, 760, 500]}, 4)
        [999, 833, 666, 500]
        >>> stored_steps({"2": [899, 700]}, 3, start_step=300)
        [299, 149, 0]
    """
    check_range("num_steps", num_steps, 1)
    if end_step is not None:
        check_range("end_step", end_step, 0)
    if start_step is not None:
        return uniform_steps(start_step, num_steps, end_step or 0)
    lists = _checked_chains(chains)
    nearest = lists[min(lists, key=lambda n: (abs(n - num_steps), -n))]
    if end_step is None and len(nearest) == num_steps:
        return nearest
    last = nearest[-1] if end_step is None and len(nearest) > 1 else end_step or 0
    return uniform_steps(nearest[0] + 1, num_steps, last)


def _checked_chains(chains: Mapping[str, Sequence[int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, steps in chains.items():
        indices = [t for t in steps if isinstance(t, int) and t >= 0] if isinstance(steps, Sequence) else []
        if str(len(indices)) != str(number) or not indices or any(a <= b for a, b in pairwise(indices)):
            raise UserError(
                f"chains: found {steps!r} under '{number}', expected as many time indices, descending; fix 'chains' in "
                "the configuration"
            )
        found[len(indices)] = indices
    if not found:
        raise UserError("chains: found no list, expected at least one; add one to 'chains', or set --start_step")
    return found


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
    check_range("start_step", start_step, 0)
    if start_step:
        check_range("end_step", end_step, 0, start_step - 1)
    check_range("num_steps", num_steps, 1, start_step - end_step if start_step else None)
    if start_step == 0:
        return []
    top = start_step - 1
    gaps = num_steps - 1
    if gaps == 0:
        return [top]
    # in whole numbers, so that ties always round down, as in Fast-DDPM's list
    return [top - (2 * i * (top - end_step) + gaps) // (2 * gaps) for i in range(gaps + 1)]


def check_steps(time_steps: Iterable[int], num_train_timesteps: int | None = None) -> list[int]:
    """Return the list if it is strictly descending with indices in [0, T-1], or of at least 0 where T is not given.

    Raises:
        UserError: otherwise.
    """
    steps = check_list("time_steps", time_steps)
    indices = [int(t) for t in steps if isinstance(t, Integral) and not isinstance(t, bool)]
    descending = all(a > b for a, b in pairwise((num_train_timesteps or math.inf, *indices, -1)))
    if len(indices) != len(steps) or not descending:
        raise UserError(
            f"time_steps: found {steps}, expected a strictly descending list of indices"
            f"{f' from {num_train_timesteps - 1}' if num_train_timesteps else ''} to 0; fix --time_steps"
        )
    return indices
