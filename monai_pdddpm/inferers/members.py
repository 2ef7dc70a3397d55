"""Members of one volume: window by window, as many at once as the memory allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from monai_pdddpm.networks import Pair
from monai_pdddpm.schedulers import Chain

from .autocast import autocast
from .chain import reverse_chain
from .config import EnsembleConfig
from .noise import member_noise, start_noise
from .stopwatch import Stopwatch
from .windows import Window, WindowRegion

logger = logging.getLogger(__name__)

CPU_MEMORY = 256 * 2**20  # bytes; a batch of members in a region of some dozen windows
MIB = 2**20


class MemberSampler:
    """Draw members of one volume.

    The whole chain runs in a window before the next window begins, so the condition is encoded once per window and
    batch of members. Volumes stay on the device of ``image``; windows are computed on ``device``.

    Args:
        config: settings.
        chain: time steps, rule and process.
        network: segmenter and denoiser.
        region: windows to run; elsewhere the members equal the pre-segmentation.
        image: (1, C, X, Y[, Z]).
        probabilities: probabilities of the segmenter, (1, K, X, Y[, Z]).
        device: device of the windows.
        timer: sums the seconds of the stages.
        case: name of the case, which decides the noise together with seed and member.
    """

    def __init__(
        self,
        config: EnsembleConfig,
        chain: Chain,
        network: Pair,
        region: WindowRegion,
        image: torch.Tensor,
        probabilities: torch.Tensor,
        device: torch.device,
        timer: Stopwatch,
        case: str = "",
    ) -> None:
        self.config, self.chain, self.network, self.region = config, chain, network, region
        self.image = image
        self.probabilities = probabilities
        self.presegmentation = network.prepare_presegmentation(probabilities)
        self.device = device
        self.timer = timer
        self.case = case
        volumes = chain.draws + 2  # the noise, and the blended sums of the first and the last prediction
        size = 4 * volumes * region.cut(probabilities).numel()
        self.at_once = max(1, min(config.member_batch, member_memory_budget(config.memory, device) // size))

    def draw(self, members: range, bar: tqdm) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield first prediction and end of the chain of these members in the region, each (K, box), in their order."""
        for first in range(0, len(members), self.at_once):
            numbers = members[first : first + self.at_once]
            with self.timer("noise"):
                noise = [self._noise(numbers, draw) for draw in range(self.chain.draws)]
            yield from zip(*self._run(noise, bar), strict=True)

    def _run(self, noise: list[torch.Tensor], bar: tqdm) -> list[torch.Tensor]:
        """Return first predictions and ends of a batch, each (members, K, box), for its noise of the same shape."""
        blended = [torch.zeros_like(noise[0]) for _ in range(2)]
        for window, inside in self.region.windows:
            with autocast(self.device, self.config.precision):
                presegmentation = self._part(self.presegmentation, window)
                with self.timer("encode"):
                    features = self.network.encode(self._part(self.image, window), presegmentation)
                with self.timer("chain"):
                    fields = [self._part(field, inside) for field in noise]
                    drawn = reverse_chain(self.network, presegmentation, features, fields, self.chain)
            with self.timer("blend"):
                for target, values in zip(blended, drawn, strict=True):
                    self.region.add(target, inside, values)
            bar.update(len(noise[0]) * len(self.chain.time_steps))
        fallback = self.region.cut(self.probabilities)
        return [self.region.finish(values, fallback) for values in blended]

    def _noise(self, numbers: range, draw: int) -> torch.Tensor:
        shape = self.probabilities.shape[1:]
        noise = self.probabilities.new_empty(len(numbers), shape[0], *self.region.size)
        seed, box, case = self.config.seed, self.region.box, self.case
        amplitude, length = self.config.large_scale_noise, self.config.noise_length
        for i, member in enumerate(numbers):
            if draw == 0:
                noise[i] = start_noise(seed, member, shape, amplitude, length, box, case)
            else:
                noise[i] = member_noise(seed, member, draw, shape, box, case)
        return noise

    def _part(self, volume: torch.Tensor, window: Window) -> torch.Tensor:
        index: Any = (..., *window)
        return volume[index].to(self.device)


def member_memory_budget(mib: int, device: torch.device) -> int:
    """Return the bytes for the members in work.

    Args:
        mib: requested MiB; 0 takes 256 MiB on a CPU and an eighth of the free memory on a GPU.
        device: device of the windows.
    """
    if mib:
        return mib * MIB
    return torch.cuda.mem_get_info(device)[0] // 8 if device.type == "cuda" else CPU_MEMORY


def volume_device(size: int, device: torch.device) -> torch.device:
    """Return the device for a case's volumes: the CPU if they take more than half of the device's free memory.

    Args:
        size: bytes of the volumes.
        device: device of the windows.
    """
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    logger.warning(
        "the volumes of this case take %d MiB, more than half of %s; keeping them on the CPU", size // MIB, device
    )
    return torch.device("cpu")
