"""One image through the whole method: pre-segmentation, windows that matter, members, statistics."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from monai_pdddpm.metrics.uncertainty import predictive_entropy

from .active_voxels import active_voxels
from .autocast import autocast
from .chain import Chain, Stopwatch
from .config import EnsembleConfig
from .members import MemberSampler, volume_device
from .noise import member_seed
from .run_info import EnsembleRunInfo
from .scratch import scratch_tensor
from .statistics import EnsembleStatistics
from .windows import Region, Window, WindowPlan, covering_windows, margin_of, pad_to

_GLOBAL_GENERATORS = threading.Lock()  # torch's are one for all threads


class EnsembleRun:
    """The ensemble of one image, frame by frame.

    Args:
        settings: what the user chose.
        network: :class:`monai_pdddpm.networks.PDDDPM`, eager or as TorchScript, or any image -> probabilities.
        image: (C, X, Y[, Z]), or (T, X, Y[, Z]) where the fourth dimension is time; windows are computed on its device.
        watch: takes the seconds.
    """

    def __init__(
        self, settings: EnsembleConfig, chain: Chain, network: Any, image: torch.Tensor, watch: Stopwatch
    ) -> None:
        self.settings, self.chain, self.network, self.watch = settings, chain, network, watch
        self.device = image.device
        self.numbers = range(settings.members)  # of the members that are drawn here
        frames = image[:, None] if settings.fourth_dimension == "time" else image[None]
        expected = getattr(getattr(network, "denoiser", None), "num_classes", 2)
        self.home = volume_device(4 * self._channels(expected) * frames[:, 0].numel(), image.device)
        self.frames, self.inner = pad_to(frames.to(self.home), settings.roi_size)
        size = self.frames.shape[2:]
        self.plan = WindowPlan(size, settings.roi_size, settings.overlap, settings.blend_mode, self.home)
        self.processes = 1
        self.windows_run = self.windows_skipped = self.denoiser_evaluations = 0

    def run(self) -> torch.Tensor:
        """Return the output channels, (T x (3K [+ members K]), X, Y[, Z])."""
        output: torch.Tensor | None = None
        with tqdm(total=0, desc="members", leave=False, disable=not self.settings.progress or None) as bar:
            for f, (preseg, proposed) in enumerate(self._presegmentations()):
                frame = self.frames[f : f + 1]
                if output is None:
                    classes = self._classes(frame) if preseg is None else preseg.shape[1]
                    size = [s.stop - s.start for s in self.inner]
                    output = scratch_tensor((len(self.frames), self._channels(classes), *size), self.home)
                self._fill(output[f], preseg, proposed)
                self._gather(output[f], proposed, *self._members(frame, proposed, bar))
        assert output is not None  # an image has at least one frame
        return output.flatten(0, 1)

    def info(self) -> EnsembleRunInfo:
        """Return what was run."""
        return EnsembleRunInfo(
            config=self.settings,
            frames=len(self.frames),
            windows_run=self.windows_run,
            windows_skipped=self.windows_skipped,
            denoiser_evaluations=self.denoiser_evaluations,
            processes=self.processes,
            seconds=dict(self.watch.seconds),
        )

    def _channels(self, classes: int) -> int:
        """Return how many channels a frame's output has."""
        return classes * (3 + self.settings.return_members * self.settings.members)

    def _classes(self, frame: torch.Tensor) -> int:
        """Return the number of classes of a network that only shows it in its answer."""
        part = self.plan.cut(frame, self.plan.windows[0]).to(self.device)
        with autocast(self.device, self.settings.precision):
            return _seeded(self.network, part, self.settings.seed).shape[1]

    def _presegmentations(self) -> Iterator[tuple[Any, Any]]:
        """Yield each frame's pre-segmentation and what is proposed, (1, K, ...); None of a network without parts."""
        if not has_parts(self.network):
            yield from [(None, None)] * len(self.frames)
            return
        for frame in self.frames.split(1):
            preseg = self._segment(frame)
            yield preseg, preseg

    def _segment(self, frame: torch.Tensor) -> torch.Tensor:
        """Return the segmenter's probabilities blended over the volume, (1, K, ...)."""
        blended: torch.Tensor | None = None
        for window in self.plan.windows:
            with self.watch("segment"), autocast(self.device, self.settings.precision):
                probabilities = self.network.segment(self.plan.cut(frame, window).to(self.device)).float()
                if blended is None:
                    blended = torch.zeros(*probabilities.shape[:2], *self.plan.size, device=frame.device)
                self.plan.add(blended, window, probabilities)
        assert blended is not None  # a plan has at least one window
        return self.plan.finish(blended)

    def _members(
        self, frame: torch.Tensor, proposed: torch.Tensor | None, bar: tqdm
    ) -> tuple[Window, Iterable[torch.Tensor]]:
        """Return the part of a frame that is run, and its members there, each (K, box), one after the other."""
        everywhere = tuple(slice(0, n) for n in self.plan.size)
        if proposed is None:
            self._count(len(self.plan), None, bar)
            return everywhere, self._call_forward(frame)
        region = self._active_region(proposed[0])
        windows = len(region.windows) if region else 0
        self._count(windows, self.settings.members * windows * len(self.chain.time_steps), bar)
        if region is None:
            return everywhere, ()
        drawer = MemberSampler(
            self.settings, self.chain, self.network, self.plan, region, frame, proposed, self.device, self.watch
        )
        return region.box, drawer.draw(bar, self.numbers)

    def _active_region(self, proposed: torch.Tensor) -> Region | None:
        """Return the windows to run, None for none: even ones, or fewer that are placed around the active voxels."""
        settings, plan = self.settings, self.plan
        if not self.chain.time_steps:
            return None
        if settings.windows == "all":
            return Region(plan, plan.windows)
        voxels = active_voxels(proposed, settings.uncertainty_threshold, settings.dilation)
        even = [window for window in plan.windows if voxels[window].any()]
        rim = margin_of(plan.roi_size, settings.overlap)
        placed = covering_windows(voxels, plan.roi_size, rim)
        if len(placed) < len(even):
            return Region(plan, placed, rim)
        return Region(plan, even) if even else None

    def _call_forward(self, frame: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the members of a network that only has ``forward``, (K, ...)."""
        for member in self.numbers:
            blended: torch.Tensor | None = None
            for w, window in enumerate(self.plan.windows):
                part = self.plan.cut(frame, window).to(self.device)
                with self.watch("chain"), autocast(self.device, self.settings.precision):
                    drawn = _seeded(self.network, part, member_seed(self.settings.seed, member, w))[0]
                if blended is None:
                    blended = torch.zeros(len(drawn), *self.plan.size, device=frame.device)
                self.plan.add(blended, window, drawn)
            assert blended is not None  # a plan has at least one window
            yield self.plan.finish(blended)

    def _fill(self, output: torch.Tensor, preseg: torch.Tensor | None, proposed: torch.Tensor | None) -> None:
        """Fill a frame's output, (3K [+ members K], ...), as if all members were what is proposed, (1, K, ...)."""
        if preseg is None or proposed is None:
            output[:] = torch.nan
            return
        classes = preseg.shape[1]
        inside = self.plan.cut(proposed[0], self.inner)
        output[:classes] = inside
        output[classes] = predictive_entropy(inside, dim=0)
        output[classes + 1 : 2 * classes] = 0
        output[2 * classes : 3 * classes] = self.plan.cut(preseg[0], self.inner)
        if self.settings.return_members:
            output[3 * classes :].unflatten(0, (self.settings.members, classes))[:] = inside

    def _gather(
        self, output: torch.Tensor, proposed: torch.Tensor | None, box: Window, drawn: Iterable[torch.Tensor]
    ) -> None:
        """Put the members, each (K, box), and their statistics into a frame's output."""
        statistics, share = self._collect(output, box, drawn), self.settings.presegmentation_weight
        if not statistics.weight:
            return
        if proposed is not None and share > 0:
            statistics.add(self.plan.cut(proposed[0], box), share)
        first = 0
        for values in statistics.result():
            self._paste(output[first : first + len(values)], values, box)
            first += len(values)

    def _collect(self, output: torch.Tensor, box: Window, drawn: Iterable[torch.Tensor]) -> EnsembleStatistics:
        """Put the members into a frame's output where they are wanted, and return their statistics."""
        statistics, weight = EnsembleStatistics(), (1 - self.settings.presegmentation_weight) / self.settings.members
        for number, member in zip(self.numbers, drawn, strict=False):  # there may be none to draw
            with self.watch("statistics"):
                statistics.add(member, weight)
                if self.settings.return_members:
                    start = len(member) * (3 + number)
                    self._paste(output[start : start + len(member)], member, box)
        return statistics

    def _paste(self, target: torch.Tensor, values: torch.Tensor, box: Window) -> None:
        """Copy values of a box, (C, box), to a target without the padding, (C, inner)."""
        to: list[Any] = [...]
        source: list[Any] = [...]
        for b, i in zip(box, self.inner, strict=True):
            low, high = max(b.start, i.start), max(min(b.stop, i.stop), max(b.start, i.start))
            to.append(slice(low - i.start, high - i.start))
            source.append(slice(low - b.start, high - b.start))
        target[tuple(to)] = values[tuple(source)]

    def _count(self, windows: int, evaluations: int | None, bar: tqdm) -> None:
        """Add a frame to the report; None when nobody knows what a network does."""
        self.windows_run += windows
        self.windows_skipped += len(self.plan) - windows
        if evaluations is not None:
            self.denoiser_evaluations += evaluations
            bar.total += evaluations * len(self.numbers) // self.settings.members
            bar.refresh()


def has_parts(network: Any) -> bool:
    """Return whether a network shows the parts that the chain needs, and not ``forward`` alone."""
    return hasattr(network, "denoise")


def _seeded(network: Any, image: torch.Tensor, seed: int) -> torch.Tensor:
    """Return ``network(image)`` as float32, with torch's own generators seeded for this call only."""
    with _GLOBAL_GENERATORS, torch.random.fork_rng([image.device] if image.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return network(image).float()
