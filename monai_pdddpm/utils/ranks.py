"""Several processes at one piece of work: who this one is, what the others say, and which cases are whose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Sized
from typing import Any, TypeVar

import torch.distributed as dist
from torch.utils.data import RandomSampler

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError

__all__ = ["SPREADS", "RankSampler", "cases_of_rank", "gathered", "is_first_rank", "rank", "share", "world_size"]

SPREADS = ("cases", "members")
T = TypeVar("T")
_cpu_groups: list[Any] = []  # made once by all processes together


def rank() -> int:
    """Return the number of this process, 0 where there is but one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Return whether this process is the one that tells and writes what concerns all."""
    return rank() == 0


def cpu_group() -> Any:
    """Return the group in which processes exchange objects and tensors of the CPU; None is torch's own default."""
    return _cpu_groups[-1] if _cpu_groups else None


def gathered(value: T) -> list[T]:
    """Return what every process gives here, by rank; all of them have to call it, and wait for the last.

    Args:
        value: what this process gives, any object that can be copied to another process.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=cpu_group())
    return values


def share(count: int, number: int, of: int) -> range:
    """Return one of the near-equal parts that ``range(count)`` falls into, in order, the larger ones first.

    Args:
        count: length of the whole.
        number: of the part, from 0.
        of: number of parts.
    """
    least, more = divmod(count, of)
    start = number * least + min(number, more)
    return range(start, start + least + (number < more))


def cases_of_rank(cases: Sequence[T], spread: str = "cases", repeat_few: bool = False) -> list[T]:
    """Return this process's cases of a list that the first process decides for all.

    The parts follow each other, so what is gathered by rank is in the list's order.

    Args:
        cases: all cases; those of the first process count.
        spread: ``"cases"``, or ``"members"`` to give every case to the first process, which the others help.
        repeat_few: with fewer cases than processes everyone takes all: the mean over all processes stays the same, and
            no process is without a case, which MONAI's metrics could not take.

    Raises:
        UserError: when ``spread`` is neither.
    """
    check_choice("spread", spread, SPREADS)
    agreed = gathered(list(cases))[0]
    if spread == "members":
        return agreed if is_first_rank() else []
    if repeat_few and len(agreed) < world_size():
        return agreed
    return [agreed[i] for i in share(len(agreed), rank(), world_size())]


class RankSampler(RandomSampler):
    """This process's part of an epoch in random order.

    All processes draw one order, that of torch's ``RandomSampler`` from the seed that
    :class:`monai_pdddpm.handlers.EpochSeed` gave to all, and take turns in it. So the batches of ``b`` cases of ``n``
    processes are together the batches of ``n b`` cases of one. What is left over of a full turn is left out.

    Args:
        dataset: whose length counts.

    Raises:
        UserError: when there are fewer cases than processes.
    """

    def __init__(self, dataset: Sized) -> None:
        super().__init__(dataset)
        if len(dataset) < world_size():
            raise UserError(
                f"training: found {len(dataset)} cases for {world_size()} processes, expected one for each at least; "
                "start fewer processes"
            )

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices."""
        return itertools.islice(super().__iter__(), rank(), len(self) * world_size(), world_size())

    def __len__(self) -> int:
        """Return how many cases each process has in an epoch."""
        return self.num_samples // world_size()
