"""Division of a volume's members between processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError, user_message
from monai_pdddpm.utils.ranks import SPREADS, gathered, rank, share, world_size

from .statistics import EnsembleStatistics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Communicator:
    """The processes that draw the members of a volume: this one alone, or all of torch's default group.

    The first process is called with volumes, the others :meth:`serve`. Every step that may fail is followed by a
    gathering at which failures are exchanged, so no process waits for one that gave up.

    Args:
        spread: ``"cases"`` if each process draws all members of its own cases, ``"members"`` if all processes draw the
            members of the first process's cases.

    Raises:
        UserError: if ``spread`` is neither.
    """

    def __init__(self, spread: str = "cases") -> None:
        check_choice("spread", spread, SPREADS)
        self.processes = world_size() if spread == "members" else 1
        self.rank = rank() if self.processes > 1 else 0

    @property
    def is_first(self) -> bool:
        """Return whether this process segments and gets the result."""
        return self.rank == 0

    def share(self, members: int) -> range:
        """Return the numbers of the members that this process draws."""
        return share(members, self.rank, self.processes)

    def broadcast(self, tensor: torch.Tensor | None) -> torch.Tensor:
        """Return the first process's tensor, from several processes on the CPU; the others pass None."""
        if self.processes == 1:
            assert tensor is not None
            return tensor
        sent = [None if tensor is None else tensor.cpu().clone()]  # the storage of a view would be sent whole
        gather_checked(None)
        dist.broadcast_object_list(sent, 0)
        assert sent[0] is not None
        return sent[0]

    def gather_statistics(self, statistics: EnsembleStatistics) -> EnsembleStatistics:
        """Return the statistics, merged in the order of the processes, in the first process; empty ones in others."""
        sums = None if statistics.sums is None else statistics.sums.cpu()
        for other in self._from_others(EnsembleStatistics(sums, statistics.count)):
            statistics.merge(other)
        return statistics if self.is_first else EnsembleStatistics()

    def gather_members(self, members: Sequence[torch.Tensor]) -> None:
        """Fill the first process's tensors, one per member, with those of the processes that drew them."""
        for number, member in enumerate(members):
            drawn = member.cpu().clone() if not self.is_first and number in self.share(len(members)) else None
            for arrived in self._from_others(drawn):
                if arrived is not None:
                    member.copy_(arrived)

    def run(self, work: Callable[[torch.Tensor, str], T], image: torch.Tensor, case: str) -> T:
        """Return ``work(image, case)`` in the first process, while the others do the same work in :meth:`serve`.

        Raises:
            UserError, OtherProcessError: if any process fails.
        """
        if self.processes == 1:
            return work(image, case)
        gathered(case)
        return _run_collectively(lambda: work(self.broadcast(image), case))

    def serve(self, work: Callable[[torch.Tensor, str], object]) -> None:
        """Do the work of :meth:`run` for each image of the first process, until it dismisses this one."""

        def part(case: str) -> object:
            return work(self.broadcast(None), case)

        while not self.is_first and (case := gathered("")[0]) is not None:
            try:
                _run_collectively(partial(part, case))
            except Exception:  # the first process got the failure and reports it
                logger.debug("members were not drawn", exc_info=True)

    def dismiss(self) -> None:
        """End :meth:`serve` in the other processes."""
        if self.processes > 1 and self.is_first:
            gathered(None)

    def _from_others(self, value: T) -> list[T]:
        """Return the values of the other processes, by rank, in the first process; none in the others."""
        if self.processes == 1:
            return []
        gather_checked(None)
        values: list[Any] = [None] * self.processes
        dist.gather_object(value, values if self.is_first else None)
        return values[1:] if self.is_first else []


class OtherProcessError(RuntimeError):
    """Another process failed at the volume that all processes work on."""


@dataclass(frozen=True)
class _Failure:
    message: str
    by_user: bool


def gather_checked(value: Any) -> list[Any]:
    """Gather one object from every process, by rank.

    Raises:
        OtherProcessError: if a process failed; raised from a UserError if that was the reason.
    """
    values = gathered(value)
    for number, found in enumerate(values):
        if isinstance(found, _Failure):
            if found.by_user:
                raise OtherProcessError(found.message) from UserError(found.message)
            raise OtherProcessError(f"process {number}: {found.message}")
    return values


def _run_collectively(work: Callable[[], T]) -> T:
    """Return the result of work in which all processes gather; if it fails in one process it fails in all."""
    try:
        result = work()
    except OtherProcessError:  # every process has this failure
        raise
    except Exception as error:
        message = user_message(error)
        gathered(_Failure(message or f"{type(error).__name__}: {error}", message is not None))
        raise
    gather_checked(None)
    return result
