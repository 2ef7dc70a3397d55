"""Members of one volume: which windows are run, in which order, and what is kept meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from .autocast import autocast
from .chain import Chain, Stopwatch, reverse_chain
from .config import EnsembleConfig
from .noise import member_noise
from .windows import Region, Window, WindowPlan

logger = logging.getLogger(__name__)

CPU_MEMORY = 256 * 2**20  # bytes; room for a batch of members in a region of some dozen windows
MIB = 2**20


class MemberSampler:
    """Draws members of one volume behind one presegmentation.

    The whole chain runs in a window before the next one begins, so its condition is encoded once for a batch of
    members.

    Volumes lie where ``image`` does, windows are computed on ``device``.

    Args:
        settings: what the user chose.
        network: with the parts of :class:`monai_pdddpm.networks.PDDDPM`.
        plan: all windows of the volume.
        region: the windows to run; elsewhere the members are the pre-segmentation.
        image: (1, C, ...).
        preseg: probabilities that are proposed, (1, K, ...).
        device: of the windows.
        watch: takes the seconds.
    """

    def __init__(
        self,
        settings: EnsembleConfig,
        chain: Chain,
        network: Any,
        plan: WindowPlan,
        region: Region,
        image: torch.Tensor,
        preseg: torch.Tensor,
        device: torch.device,
        watch: Stopwatch,
    ) -> None:
        self.settings, self.chain = settings, chain
        self.network, self.plan = network, plan
        self.region = region
        self.image = image
        self.preseg = preseg
        self.presegmentation = network.propose(preseg)
        self.device = device
        self.watch = watch
        volumes = self.chain.draws + 1  # the noise, and the blended sum
        size = 4 * volumes * self.region.cut(preseg).numel()
        self.at_once = max(1, min(settings.member_batch, member_memory_budget(settings.memory, device) // size))

    def draw(self, bar: tqdm, members: range) -> Iterator[torch.Tensor]:
        """Yield the probabilities of these members in the region, (K, box), in their order."""
        for first in range(0, len(members), self.at_once):
            numbers = members[first : first + self.at_once]
            with self.watch("noise"):
                noise = [self._noise(numbers, draw) for draw in range(self.chain.draws)]
            yield from self._by_window(noise, bar)

    def _by_window(self, noise: list[torch.Tensor], bar: tqdm) -> torch.Tensor:
        region, blended = self.region, torch.zeros_like(noise[0])
        for window, inside in region.windows:
            with autocast(self.device, self.settings.precision):
                with self.watch("encode"):
                    condition = self._encode(window)
                with self.watch("chain"):
                    presegmentation = self._to_device(self.plan.cut(self.presegmentation, window))
                    fields = [self._to_device(self.plan.cut(field, inside)) for field in noise]
                    drawn = reverse_chain(self.network, presegmentation, condition, fields, self.chain)
            with self.watch("blend"):
                region.add(blended, inside, drawn)
            bar.update(len(drawn) * len(self.chain.time_steps))
        return region.finish(blended, region.cut(self.preseg))

    def _encode(self, window: Window) -> list[torch.Tensor]:
        image, presegmentation = (
            self._to_device(self.plan.cut(volume, window)) for volume in (self.image, self.presegmentation)
        )
        return self.network.encode(image, presegmentation)

    def _noise(self, numbers: range, draw: int) -> torch.Tensor:
        shape, box = self.preseg.shape[1:], self.region.box
        noise = self.preseg.new_empty(len(numbers), shape[0], *self.region.size)
        for i, member in enumerate(numbers):
            noise[i] = member_noise(self.settings.seed, member, draw, shape, box)
        return noise

    def _to_device(self, part: torch.Tensor) -> torch.Tensor:
        return part.to(self.device)


def member_memory_budget(mib: int, device: torch.device) -> int:
    """Return the bytes that members in work may take: as asked, or 256 MiB, or an eighth of what a GPU has free."""
    if mib:
        return mib * MIB
    return torch.cuda.mem_get_info(device)[0] // 8 if device.type == "cuda" else CPU_MEMORY


def volume_device(size: int, device: torch.device) -> torch.device:
    """Return where a case's volumes are kept: the device when they take at most half of its free memory, else the CPU.

    Args:
        size: bytes of the volumes.
        device: of the windows.
    """
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    logger.warning("the volumes of this case take %d MiB, more than half of %s: kept on the CPU", size // MIB, device)
    return torch.device("cpu")
