"""Members of one volume: which windows are run, in which order, and what is kept meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from monai_pdddpm.schedulers.schedule import start_state

from .autocast import autocast
from .chain import Stopwatch, reverse_chain
from .noise import member_noise
from .scratch import FiledTensor, ScratchFile
from .windows import Region, Window, WindowPlan

if TYPE_CHECKING:
    from .pdddpm import PDDDPMInferer

logger = logging.getLogger(__name__)

FUSIONS = ("window", "step")
WORKING_VOLUMES = {"window": 1, "step": 6}  # float32 volumes in work for a member, beside its noise
CPU_MEMORY = 256 * 2**20  # bytes; room for a batch of members in a region of some dozen windows
MIB = 2**20
Features = Callable[[Window], list[torch.Tensor]]


class FeatureStore:
    """A condition's features per window: in memory as far as that goes, beyond it on the CPU in a temporary file.

    On a GPU, and when the disk is full, what does not fit is encoded anew each time.

    Args:
        encode: window -> features.
        room: bytes in memory.
    """

    def __init__(self, encode: Features, room: int) -> None:
        self._encode = encode
        self._room = room
        self._kept: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self._filed: dict[tuple[int, ...], list[FiledTensor]] = {}
        self._file: ScratchFile | None = None

    def __call__(self, window: Window) -> list[torch.Tensor]:
        """Return a window's features."""
        key = tuple(s.start for s in window)
        if key in self._kept:
            return self._kept[key]
        if key in self._filed:
            return [filed.read() for filed in self._filed[key]]
        features = self._encode(window)
        size = sum(f.numel() * f.element_size() for f in features)
        if size <= self._room:
            self._room -= size
            self._kept[key] = features
        elif features[0].device.type == "cpu":
            self._put_away(key, features)
        return features

    def _put_away(self, key: tuple[int, ...], features: list[torch.Tensor]) -> None:
        try:
            self._file = self._file or ScratchFile()
            self._filed[key] = [self._file.write(f) for f in features]
        except OSError as error:
            logger.debug("features are encoded anew: no room for them in a temporary file (%s)", error)


class MemberSampler:
    """Draws members of one volume behind one presegmentation.

    ``fusion="window"`` runs the whole chain in a window before the next: the condition is encoded once and its features
    are dropped. ``fusion="step"`` predicts x_0 in all windows, blends it on the volume and takes one reverse step for
    the whole volume; features are kept between steps as far as ``memory`` goes, and encoded anew beyond.

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
        settings: PDDDPMInferer,
        network: Any,
        plan: WindowPlan,
        region: Region,
        image: torch.Tensor,
        preseg: torch.Tensor,
        device: torch.device,
        watch: Stopwatch,
    ) -> None:
        self.settings, self.chain = settings, settings.chain
        self.network, self.plan = network, plan
        self.region = region
        self.image = image
        self.preseg = preseg
        self.presegmentation = network.propose(preseg)
        self.device = device
        self.watch = watch
        self._room = member_memory_budget(settings.memory, device)
        volumes = self.chain.draws + WORKING_VOLUMES[settings.fusion]
        size = 4 * volumes * self.region.cut(preseg).numel()
        self.at_once = max(1, min(settings.member_batch, self._room // size))

    def draw(self, bar: tqdm, members: range) -> Iterator[torch.Tensor]:
        """Yield the probabilities of these members in the region, (K, box), in their order."""
        by_window = self.settings.fusion == "window"
        features: Features = self._encode
        if self.at_once < len(members) or not by_window:  # else each window is visited once
            features = FeatureStore(self._encode, self._room)
        for first in range(0, len(members), self.at_once):
            numbers = members[first : first + self.at_once]
            with self.watch("noise"):
                noise = [self._noise(numbers, draw) for draw in range(self.chain.draws)]
            yield from (self._by_window if by_window else self._by_step)(noise, features, bar)

    def _by_window(self, noise: list[torch.Tensor], features: Features, bar: tqdm) -> torch.Tensor:
        region, blended = self.region, torch.zeros_like(noise[0])
        for window, inside in region.windows:
            with autocast(self.device, self.settings.precision):
                with self.watch("encode"):
                    condition = features(window)
                with self.watch("chain"):
                    presegmentation = self._to_device(self.plan.cut(self.presegmentation, window))
                    fields = [self._to_device(self.plan.cut(field, inside)) for field in noise]
                    drawn = reverse_chain(self.network, presegmentation, condition, fields, self.chain)
            with self.watch("blend"):
                region.add(blended, inside, drawn)
            bar.update(len(drawn) * len(self.chain.time_steps))
        return region.finish(blended, region.cut(self.preseg))

    def _by_step(self, noise: list[torch.Tensor], features: Features, bar: tqdm) -> torch.Tensor:
        region, chain = self.region, self.chain
        x_pre, otherwise = (self.network.state(region.cut(p)) for p in (self.presegmentation, self.preseg))
        x_t = start_state(x_pre, noise[0], self.network.abar[chain.time_steps[0]].to(x_pre.device))
        x_0 = torch.zeros_like(x_t)
        for i in range(len(chain.time_steps)):
            x_0.zero_()
            for window, inside in region.windows:
                with autocast(self.device, self.settings.precision):
                    with self.watch("encode"):
                        condition = features(window)
                    with self.watch("chain"):
                        state = self._to_device(self.plan.cut(x_t, inside))
                        predicted = chain.predict(self.network, state, i, condition)
                with self.watch("blend"):
                    region.add(x_0, inside, predicted)
                bar.update(len(predicted))
            x_0 = region.finish(x_0, otherwise)
            if i + 1 < len(chain.time_steps):
                with self.watch("blend"):
                    x_t = chain.advance(self.network, x_t, x_0, x_pre, i, noise)
        return self.network.probabilities(x_0)

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
