"""The members of one volume, drawn by several processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError, user_message
from monai_pdddpm.utils.ranks import SPREADS, cpu_group, gathered, is_first_rank, rank, share, world_size

from .chain import Chain, Stopwatch
from .config import EnsembleConfig
from .ensemble import EnsembleRun
from .pdddpm import PDDDPMInferer
from .run_info import EnsembleRunInfo
from .statistics import EnsembleStatistics
from .windows import Window

logger = logging.getLogger(__name__)

T = TypeVar("T")


class OtherFailedError(RuntimeError):
    """Another process failed at the volume that all were at."""


@dataclass(frozen=True)
class _Failure:
    message: str
    by_user: bool


def all_gather_checked(word: Any = None) -> list[Any]:
    """Hear what every process has to say, by rank.

    Whatever may fail is done between two meetings and told at the next, so that nobody waits for one that gave up.

    Raises:
        UserError: when a process met a mistake of the user's.
        OtherFailedError: when a process failed otherwise.
    """
    words = gathered(word)
    for number, said in enumerate(words):
        if isinstance(said, _Failure):
            if said.by_user:
                raise OtherFailedError(said.message) from UserError(said.message)
            raise OtherFailedError(f"process {number}: {said.message}")
    return words


def run_collectively(work: Callable[[], T]) -> T:
    """Do work in which all processes all_gather_checked; when it fails in one of them it fails in all."""
    try:
        result = work()
    except OtherFailedError:  # everyone has heard of it
        raise
    except Exception as error:
        told = user_message(error)
        gathered(_Failure(told or f"{type(error).__name__}: {error}", told is not None))
        raise
    all_gather_checked()
    return result


def broadcast(values: torch.Tensor | None) -> torch.Tensor:
    """Return the first process's tensor in every process, on the CPU."""
    shape, dtype = all_gather_checked(None if values is None else (tuple(values.shape), values.dtype))[0]
    parcel = torch.empty(shape, dtype=dtype) if values is None else values.cpu().contiguous()
    all_gather_checked()
    dist.broadcast(parcel, 0, group=cpu_group())
    return parcel


def send_to_rank0(source: int, values: torch.Tensor | None, shape: Iterable[int]) -> torch.Tensor | None:
    """Bring a float32 tensor of another process to the first one, which gets it on the CPU; the others get None.

    Args:
        source: the process that has it.
        values: the tensor, in that process.
        shape: its shape, in the first process.
    """
    parcel = torch.empty(0)
    if is_first_rank():
        parcel = torch.empty(tuple(shape))
    elif values is not None and rank() == source:
        parcel = values.cpu().contiguous()
    all_gather_checked()
    if rank() == source:
        dist.send(parcel, 0, group=cpu_group())
    elif is_first_rank():
        dist.recv(parcel, source, group=cpu_group())
    return parcel if is_first_rank() else None


class SpreadRun(EnsembleRun):
    """The ensemble of one image with this process's part of the members; the first one gets the whole.

    The first process segments, for windows that are run have to be the same everywhere. Statistics are merged in the
    order of the processes.
    """

    def __init__(
        self, settings: EnsembleConfig, chain: Chain, network: Any, image: torch.Tensor, watch: Stopwatch
    ) -> None:
        super().__init__(settings, chain, network, image, watch)
        self.numbers = share(settings.members, rank(), world_size())
        self.processes = world_size()

    def _presegmentations(self) -> Iterator[tuple[Any, Any]]:
        own = super()._presegmentations() if is_first_rank() else None
        for _ in range(len(self.frames)):
            preseg, proposed = next(own) if own else (None, None)
            there, same = all_gather_checked((preseg is not None, preseg is proposed))[0]
            if not there:
                yield None, None
                continue
            preseg = broadcast(preseg).to(self.home)
            yield preseg, preseg if same else broadcast(proposed).to(self.home)

    def _collect(self, output: torch.Tensor, box: Window, drawn: Iterable[torch.Tensor]) -> EnsembleStatistics:
        statistics = super()._collect(output, box, drawn)
        packed = statistics.packed() if statistics.weight else None
        shape = () if packed is None else packed.shape
        weights = all_gather_checked(statistics.weight)
        for source in range(1, world_size()):
            if not weights[source]:  # no window is run, or there are fewer members than processes
                continue
            arrived = send_to_rank0(source, packed, shape)
            if arrived is not None:
                statistics.merge(EnsembleStatistics.unpacked(arrived.to(self.home), weights[source]))
            if self.settings.return_members:
                self._bring_members(source, output)
        return statistics if is_first_rank() else EnsembleStatistics()

    def _bring_members(self, source: int, output: torch.Tensor) -> None:
        classes = len(output) // (3 + self.settings.members)
        for number in share(self.settings.members, source, world_size()):
            place = output[classes * (3 + number) : classes * (4 + number)]
            arrived = send_to_rank0(source, place, place.shape)
            if arrived is not None:
                place.copy_(arrived)


class SpreadInferer(PDDDPMInferer):
    """:class:`PDDDPMInferer` whose members may be spread over processes.

    With ``spread="members"`` the first process is asked for volumes as always, and the others :meth:`serve`. A member
    depends on seed and number alone, so the answer is that of one process, to rounding.

    Args:
        args: as :class:`PDDDPMInferer`.
        spread: ``"cases"``, which changes nothing here, or ``"members"``.
        kwargs: likewise.

    Raises:
        UserError: when an argument is out of range.
    """

    def __init__(self, communicator: Any = None, spread: str = "cases", **settings: Any) -> None:
        super().__init__(communicator, **settings)
        check_choice("spread", spread, SPREADS)
        self.spread = spread

    @property
    def spreads(self) -> bool:
        """Whether several processes draw the members of one volume."""
        return self.spread == "members" and world_size() > 1

    def _volume(self, network: Any, image: torch.Tensor) -> tuple[torch.Tensor, EnsembleRunInfo]:
        if not self.spreads:
            return super()._volume(network, image)
        gathered("volume")
        return run_collectively(lambda: self._part(network, image))

    def _part(
        self, network: Any, image: torch.Tensor | None, device: torch.device | None = None
    ) -> tuple[torch.Tensor, EnsembleRunInfo]:
        sent = broadcast(image)
        sent = sent.to(device) if image is None else image
        run = SpreadRun(self.config, self.chain, network, sent, Stopwatch(sent.device))
        return run.run(), run.info()

    def serve(self, network: Any, device: torch.device) -> None:
        """Draw members for the first process, until it has no more volumes; returns at once in the first process.

        Args:
            network: as in a call.
            device: of the windows.
        """
        if not self.spreads or is_first_rank():
            return
        while gathered(None)[0] == "volume":
            try:
                with torch.no_grad():
                    run_collectively(lambda: self._part(network, None, device))
            except Exception:  # the first process heard of it, and tells
                logger.debug("members were not drawn", exc_info=True)

    def dismiss(self) -> None:
        """Tell the processes that serve that there are no more volumes."""
        if self.spreads and is_first_rank():
            gathered("done")
