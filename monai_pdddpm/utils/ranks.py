"""The processes of a distributed run: rank, gathering of objects, division of cases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch.utils.data import RandomSampler, Sampler

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError

SPREADS = ("cases", "members")
T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Return whether this process logs and writes for all of them."""
    return rank() == 0


def gathered(value: T) -> list[T]:
    """Return the picklable objects of all processes, by rank. Every process must call this, and waits for the last."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def share(count: int, number: int, of: int) -> range:
    """Return part ``number``, from 0, of ``of`` near-equal consecutive parts of ``range(count)``, larger ones first."""
    least, more = divmod(count, of)
    start = number * least + min(number, more)
    return range(start, start + least + (number < more))


def cases_of_rank(cases: Sequence[T], spread: str = "cases", repeat_few: bool = False) -> list[T]:
    """Return this process's part of the first process's list of cases.

    The parts are consecutive, so objects gathered by rank are in the order of the list.

    Args:
        cases: all cases.
        spread: ``"cases"``, or ``"members"`` to give every case to the first process, whose members the others draw.
        repeat_few: give all cases to every process if there are fewer cases than processes. The mean over the processes
            does not change, and MONAI's metrics need a case in each process.

    Raises:
        UserError: if ``spread`` is neither.
    """
    check_choice("spread", spread, SPREADS)
    agreed = gathered(list(cases))[0]
    if spread == "members":
        return agreed if is_first_rank() else []
    if repeat_few and len(agreed) < world_size():
        return agreed
    return [agreed[i] for i in share(len(agreed), rank(), world_size())]


class RankSampler(Sampler[int]):
    """This process's part of the epoch of one process.

    All processes draw the same indices, from the seed that :class:`monai_pdddpm.handlers.EpochSeed` sets, and take
    every n-th of them. The batches of b windows in n processes are together the batches of n b windows in one process.
    Windows that do not fill a round of all processes are left out.

    Args:
        sampler: draws the indices of one process.

    Raises:
        UserError: if it draws fewer indices than there are processes.
    """

    def __init__(self, sampler: RandomSampler) -> None:
        self.sampler = sampler
        if len(sampler) < world_size():
            raise UserError(
                f"training: found an epoch of {len(sampler)} windows for {world_size()} processes, expected at least "
                "one for each; start fewer processes"
            )

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices."""
        return itertools.islice(self.sampler, rank(), len(self) * world_size(), world_size())

    def __len__(self) -> int:
        """Return how many windows each process has in an epoch."""
        return len(self.sampler) // world_size()
