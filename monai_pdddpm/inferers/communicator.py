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
from monai_pdddpm.utils.ranks import SPREADS, gathered, is_first_rank, rank, share, world_size

from .statistics import EnsembleStatistics

logger = logging.getLogger(__name__)

T = TypeVar("T")
_DONE = "done"


class Communicator:
    """All members of a volume in this process; subclasses divide them between several."""

    @property
    def processes(self) -> int:
        """Return the number of processes that draw members."""
        return 1

    @property
    def is_first(self) -> bool:
        """Return whether this process segments and gets the result."""
        return True

    def share(self, members: int) -> range:
        """Return the numbers of the members that this process draws."""
        return range(members)

    def broadcast(self, tensor: torch.Tensor | None) -> torch.Tensor:
        """Return the first process's tensor; the others pass None."""
        assert tensor is not None
        return tensor

    def gather_statistics(self, statistics: EnsembleStatistics) -> EnsembleStatistics:
        """Return the merged statistics in the first process, empty ones in the others."""
        return statistics

    def gather_members(self, members: Sequence[torch.Tensor]) -> None:
        """Fill the first process's tensors, one per member, with those of the processes that drew them."""

    def run(self, work: Callable[[torch.Tensor, str], T], image: torch.Tensor, case: str) -> T:
        """Return ``work(image, case)`` in the first process, while the others do the same work in :meth:`serve`."""
        return work(image, case)

    def serve(self, work: Callable[[torch.Tensor, str], object]) -> None:
        """Do the work of :meth:`run` for each image of the first process, until it dismisses this one."""

    def dismiss(self) -> None:
        """End :meth:`serve` in the other processes."""


class DistributedMembers(Communicator):
    """A part of the members in each process of torch's default group.

    The first process is called with volumes, the others :meth:`serve`. Every step that may fail is followed by a
    gathering at which failures are exchanged, so no process waits for one that gave up.
    """

    @property
    def processes(self) -> int:
        """Return the number of processes."""
        return world_size()

    @property
    def is_first(self) -> bool:
        """Return whether this is the first process."""
        return is_first_rank()

    def share(self, members: int) -> range:
        """Return this process's part of the members."""
        return share(members, rank(), world_size())

    def broadcast(self, tensor: torch.Tensor | None) -> torch.Tensor:
        """Return the first process's tensor, on the CPU."""
        shape, dtype = gather_checked(None if tensor is None else (tuple(tensor.shape), tensor.dtype))[0]
        received = torch.empty(shape, dtype=dtype) if tensor is None else tensor.cpu().contiguous()
        gather_checked(None)
        dist.broadcast(received, 0)
        return received

    def gather_statistics(self, statistics: EnsembleStatistics) -> EnsembleStatistics:
        """Merge the statistics in the order of the processes."""
        packed = statistics.sums
        counts = gather_checked(statistics.count)
        for source in range(1, world_size()):
            if counts[source]:  # 0 if no window is run, or there are fewer members than processes
                arrived = _send_to_first(source, packed, () if packed is None else packed.shape)
                if arrived is not None and packed is not None:
                    statistics.merge(EnsembleStatistics(arrived.to(packed.device), counts[source]))
        return statistics if is_first_rank() else EnsembleStatistics()

    def gather_members(self, members: Sequence[torch.Tensor]) -> None:
        """Copy each member from the process that drew it."""
        for source in range(1, world_size()):
            for number in share(len(members), source, world_size()):
                arrived = _send_to_first(source, members[number], members[number].shape)
                if arrived is not None:
                    members[number].copy_(arrived)

    def run(self, work: Callable[[torch.Tensor, str], T], image: torch.Tensor, case: str) -> T:
        """Send image and case name to the other processes and return ``work(image, case)``.

        Raises:
            UserError, OtherProcessError: if any process fails.
        """
        gathered(("volume", case))

        def part() -> T:
            self.broadcast(image)
            return work(image, case)

        return _run_collectively(part)

    def serve(self, work: Callable[[torch.Tensor, str], object]) -> None:
        """Do the work for each image of the first process; return at once in the first process."""
        if is_first_rank():
            return
        while (message := gathered(None)[0]) is not None and message != _DONE:
            case = str(message[1])
            try:
                _run_collectively(partial(self._serve_one, work, case))
            except Exception:  # the first process got the failure and reports it
                logger.debug("members were not drawn", exc_info=True)

    def _serve_one(self, work: Callable[[torch.Tensor, str], object], case: str) -> object:
        return work(self.broadcast(None), case)

    def dismiss(self) -> None:
        """End :meth:`serve` in the other processes."""
        if is_first_rank():
            gathered(_DONE)


def make_communicator(spread: str = "cases") -> Communicator:
    """Return the communicator of a distributed inference.

    Args:
        spread: ``"cases"`` if each process has its own cases, ``"members"`` if all processes draw the members of the
            first process's cases.

    Raises:
        UserError: if ``spread`` is neither.
    """
    check_choice("spread", spread, SPREADS)
    return DistributedMembers() if spread == "members" and world_size() > 1 else Communicator()


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


def _send_to_first(source: int, values: torch.Tensor | None, shape: Iterable[int]) -> torch.Tensor | None:
    """Return a float32 tensor of another process on the CPU of the first process, None in the others.

    Args:
        source: rank of the process that has the tensor.
        values: the tensor, in that process.
        shape: its shape, in the first process.
    """
    parcel = torch.empty(0)
    if is_first_rank():
        parcel = torch.empty(tuple(shape))
    elif values is not None:
        parcel = values.cpu().contiguous()
    gather_checked(None)
    if rank() == source:
        dist.send(parcel, 0)
    elif is_first_rank():
        dist.recv(parcel, source)
    return parcel if is_first_rank() else None
