"""One image through the whole method: pre-segmentation, active windows, members, statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
from tqdm import tqdm

from monai_pdddpm.networks import Pair
from monai_pdddpm.schedulers import Chain
from monai_pdddpm.utils.probabilities import predictive_entropy
from monai_pdddpm.utils.scratch import scratch_tensor

from .active_voxels import SLAB, active_voxels
from .autocast import autocast
from .communicator import Communicator
from .config import EnsembleConfig
from .device_memory import members_at_once, reverse_chain, volume_device
from .noise import MemberNoise
from .output import EnsembleOutput
from .run_info import EnsembleRunInfo, Stopwatch
from .statistics import EnsembleStatistics
from .windows import Window, WindowPlan, WindowRegion, content_box, covering_windows, crop, margin_of, pad_to


class EnsembleRun:
    """The ensemble of one image, frame by frame.

    Args:
        config: settings.
        chain: time steps, rule and process.
        network: segmenter and denoiser, eager or as TorchScript.
        image: (C, X, Y[, Z]), or (T, X, Y[, Z]) if the fourth dimension is time; windows run on its device.
        communicator: divides the members between processes.
        case: name of the case; the members' noise depends on it, so the cases of a run have different noise.
        presegmentation: probabilities in place of the segmenter's, (K, X, Y[, Z]), for an image without frames.
    """

    def __init__(
        self,
        config: EnsembleConfig,
        chain: Chain,
        network: Pair,
        image: torch.Tensor,
        communicator: Communicator,
        case: str = "",
        presegmentation: torch.Tensor | None = None,
    ) -> None:
        self.config, self.chain, self.network, self.communicator = config, chain, network, communicator
        self.case, self.presegmentation = case, presegmentation
        self.device = image.device
        self.timer = Stopwatch(image.device)
        self.layout = EnsembleOutput(network.num_classes, config.members if config.return_members else 0)
        frames = image[:, None] if config.fourth_dimension == "time" else image[None]
        self.home = volume_device(4 * self.layout.channels * frames[:, 0].numel(), image.device)
        self.frames, self.inner = pad_to(frames.to(self.home), config.roi_size)
        size = self.frames.shape[2:]
        box = content_box(frames, self.inner, size, config.roi_size)
        self.plan = WindowPlan(size, config.roi_size, config.overlap, self.home, box)
        self.windows_run = 0

    def run(self) -> torch.Tensor:
        """Return the output, (T x channels, X, Y[, Z]), see :class:`monai_pdddpm.inferers.EnsembleOutput`."""
        size = [s.stop - s.start for s in self.inner]
        output = scratch_tensor((len(self.frames), self.layout.channels, *size), self.home)
        with tqdm(total=0, desc="members", leave=False, disable=not self.config.progress or None) as bar:
            for frame, target in zip(self.frames.split(1), output, strict=True):
                whole = target[self.layout.slices()["preseg"]][None]
                own = self._segment(frame, whole) if self.communicator.is_first else None
                probabilities = self.communicator.broadcast(own).to(self.home)
                region = self._active_region(probabilities[0])  # before the output takes its memory
                self._fill(target, probabilities)
                if region is not None:
                    self._draw(target, frame, probabilities, region, bar)
        return output.flatten(0, 1)

    def info(self) -> EnsembleRunInfo:
        """Return what was run."""
        return EnsembleRunInfo(
            config=self.config,
            frames=len(self.frames),
            windows_run=self.windows_run,
            windows_skipped=len(self.frames) * len(self.plan) - self.windows_run,
            denoiser_evaluations=self.config.members * self.windows_run * len(self.chain.time_steps),
            processes=self.communicator.processes,
            seconds=dict(self.timer.seconds),
        )

    def _segment(self, frame: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the given probabilities, or the segmenter's blended over the volume, (1, K, X, Y[, Z]).

        They lie in ``target``, the output's pre-segmentation, unless the volume is padded.
        """
        if self.presegmentation is not None:
            given = self.presegmentation.to(frame.device, copy=True)
            found = pad_to(given[None], self.config.roi_size)[0]
        else:
            padded = target.shape[2:] != self.plan.size
            found = target.new_zeros(*target.shape[:2], *self.plan.size) if padded else target.zero_()
            for window in self.plan.windows:
                with self.timer("segment"), autocast(self.device, self.config.precision):
                    probabilities = self.network.segment(crop(frame, window).to(self.device))
                    self.plan.add(found, window, probabilities)
            self.plan.finish(found)
        found[:, 0][found.sum(dim=1) == 0] = 1  # background outside of the image and of its content
        return found

    def _active_region(self, probabilities: torch.Tensor) -> WindowRegion | None:
        """Return the windows to run: even ones, or fewer that are placed around active voxels; None for none."""
        config, plan = self.config, self.plan
        if not self.chain.time_steps:
            return None
        if config.windows == "all":
            return WindowRegion(plan, plan.windows)
        voxels = active_voxels(probabilities, config.uncertainty_threshold, config.dilation)
        even = [window for window in plan.windows if voxels[window].any()]
        margin = margin_of(plan.roi_size, config.overlap)
        placed = covering_windows(voxels, plan.roi_size, margin)
        if len(placed) < len(even):
            return WindowRegion(plan, placed, margin)
        return WindowRegion(plan, even) if even else None

    def _fill(self, target: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Fill a frame's output, (channels, X, Y[, Z]), as if every member were the pre-segmentation."""
        inside = crop(probabilities[0], self.inner)
        parts = self.layout.slices()
        target[parts["pred"]] = target[parts["member_mean"]] = target[parts["preseg"]] = inside
        entropy = target[parts["member_entropy"]][0]
        for slab, p in zip(entropy.split(SLAB), inside.split(SLAB, dim=1), strict=True):
            slab[:] = predictive_entropy(p, dim=0)
        target[parts["variance"]] = 0
        for member in self._members(target):
            member[:] = inside

    def _draw(
        self, target: torch.Tensor, frame: torch.Tensor, probabilities: torch.Tensor, region: WindowRegion, bar: tqdm
    ) -> None:
        """Put the members of a frame and their statistics into its output."""
        windows, own = len(region.windows), self.communicator.share(self.config.members)
        self.windows_run += windows
        bar.total += len(own) * windows * len(self.chain.time_steps)
        members, statistics = self._members(target), EnsembleStatistics()
        # the start, and the blended sums of the first and the last prediction; the noise of the steps, in one window
        numbers_held = 3 * crop(probabilities, region.box).numel()
        numbers_held += (self.chain.draws - 1) * self.layout.num_classes * math.prod(self.plan.roi_size)
        at_once = members_at_once(self.config, 4 * numbers_held, self.device)
        for begin in range(0, len(own), at_once):
            numbers = own[begin : begin + at_once]
            drawn = self._batch(numbers, frame, probabilities, region, bar)
            for number, first, member in zip(numbers, *drawn, strict=True):
                with self.timer("statistics"):
                    statistics.add(first, member)
                    if members:
                        self._paste(members[number], member, region.box)
            del drawn, first, member  # before the next batch takes its memory
        statistics = self.communicator.gather_statistics(statistics)
        self.communicator.gather_members(members)
        if not self.communicator.is_first:
            return
        weight = self.config.presegmentation_weight
        found = statistics.result()
        found["pred"] = (1 - weight) * found["pred"] + weight * crop(probabilities[0], region.box)
        for name, values in found.items():
            self._paste(target[self.layout.slices()[name]], values, region.box)

    def _batch(
        self, numbers: range, frame: torch.Tensor, probabilities: torch.Tensor, region: WindowRegion, bar: tqdm
    ) -> list[torch.Tensor]:
        """Return first predictions and ends of the chains of some members, each (members, K, box).

        The whole chain runs in a window before the next window begins, so the condition is encoded once per window.
        """
        with self.timer("noise"):
            start = self._noise(numbers, 0, probabilities, region.box)
        blended = [torch.zeros_like(start) for _ in range(2)]
        for window, inside in region.windows:
            with autocast(self.device, self.config.precision):
                image, p = (crop(volume, window).to(self.device) for volume in (frame, probabilities))
                presegmentation = self.network.prepare_presegmentation(p)
                with self.timer("encode"):
                    features = self.network.encode(image, presegmentation)
                with self.timer("noise"):
                    steps = range(1, self.chain.draws)
                    noise = [crop(start, inside)] + [self._noise(numbers, i, probabilities, window) for i in steps]
                with self.timer("chain"):
                    fields = [field.to(self.device) for field in noise]
                    drawn = reverse_chain(self.network, presegmentation, features, fields, self.chain)
            with self.timer("blend"):
                for sums, values in zip(blended, drawn, strict=True):
                    self.plan.add(sums, inside, values)
            bar.update(len(numbers) * len(self.chain.time_steps))
        fallback = crop(probabilities, region.box)
        return [region.finish(sums, fallback) for sums in blended]

    def _noise(self, numbers: range, draw: int, probabilities: torch.Tensor, box: Window) -> torch.Tensor:
        """Return a noise field of some members in a box of the volume, (members, K, box)."""
        config, shape = self.config, probabilities.shape[1:]
        noise = probabilities.new_empty(len(numbers), shape[0], *[span.stop - span.start for span in box])
        for field, member in zip(noise, numbers, strict=True):
            own = MemberNoise(config.seed, member, shape, box, self.case)
            field[:] = own.white(draw) if draw else own.start(config.large_scale_noise, config.noise_length)
        return noise

    def _members(self, target: torch.Tensor) -> list[torch.Tensor]:
        """Return views of the members in a frame's output, each (K, X, Y[, Z])."""
        return list(target[4 * self.layout.num_classes :].unflatten(0, (-1, self.layout.num_classes)))

    def _paste(self, target: torch.Tensor, values: torch.Tensor, box: Window) -> None:
        """Copy values of a box, (C, box), to a target without the padding, (C, X, Y[, Z])."""
        to: list[Any] = [...]
        source: list[Any] = [...]
        for b, i in zip(box, self.inner, strict=True):
            low, high = max(b.start, i.start), min(b.stop, i.stop)
            to.append(slice(low - i.start, high - i.start))
            source.append(slice(low - b.start, high - b.start))
        target[tuple(to)] = values[tuple(source)]
