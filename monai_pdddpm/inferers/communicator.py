"""Division of a volume's members between processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
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
        shape, dtype = gather_checked(None if tensor is None else (tuple(tensor.shape), tensor.dtype))[0]
        received = torch.empty(shape, dtype=dtype) if tensor is None else tensor.cpu().contiguous()
        gather_checked(None)
        dist.broadcast(received, 0)
        return received

    def gather_statistics(self, statistics: EnsembleStatistics) -> EnsembleStatistics:
        """Return the statistics, merged in the order of the processes, in the first process; empty ones in others."""
        packed = statistics.sums
        counts = gather_checked(statistics.count) if self.processes > 1 else []
        for source in range(1, self.processes):
            if counts[source]:  # 0 if no window is run, or there are fewer members than processes
                arrived = self._send_to_first(source, packed, () if packed is None else packed.shape)
                if arrived is not None and packed is not None:
                    statistics.merge(EnsembleStatistics(arrived.to(packed.device), counts[source]))
        return statistics if self.is_first else EnsembleStatistics()

    def gather_members(self, members: Sequence[torch.Tensor]) -> None:
        """Fill the first process's tensors, one per member, with those of the processes that drew them."""
        for source in range(1, self.processes):
            for number in share(len(members), source, self.processes):
                arrived = self._send_to_first(source, members[number], members[number].shape)
                if arrived is not None:
                    members[number].copy_(arrived)

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

    def _send_to_first(self, source: int, values: torch.Tensor | None, shape: Iterable[int]) -> torch.Tensor | None:
        """Return a float32 tensor of another process on the CPU of the first process, None in the others.

        Args:
            source: rank of the process that has the tensor.
            values: the tensor, in that process.
            shape: its shape, in the first process.
        """
        parcel = torch.empty(0)
        if self.is_first:
            parcel = torch.empty(tuple(shape))
        elif values is not None:
            parcel = values.cpu().contiguous()
        gather_checked(None)
        if self.rank == source:
            dist.send(parcel, 0)
        elif self.is_first:
            dist.recv(parcel, source)
        return parcel if self.is_first else None


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
