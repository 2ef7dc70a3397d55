"""The whole method on whole volumes, as an ordinary MONAI inferer."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from monai_pdddpm.data.checks import FOURTH_DIMENSIONS
from monai_pdddpm.errors import UserError
from monai_pdddpm.metrics.uncertainty import predictive_entropy
from monai_pdddpm.schedulers import AncestralRule, DDIMRule, check_steps, forward_process

from .active import active_voxels
from .autocast import autocast, check_precision
from .chain import Chain, Stopwatch
from .frames import smoothed_over_frames
from .members import FUSIONS, MemberDrawer, home_of_volumes, working_memory
from .noise import member_seed
from .scratch import scratch_tensor
from .statistics import EnsembleStatistics
from .windows import WindowPlan, pad_to

logger = logging.getLogger(__name__)

ACTIVE = ("proposal", "all")
_GLOBAL_GENERATORS = threading.Lock()  # torch's are one for all threads


class PDDDPMInferer(Inferer):
    """Draw members for a whole volume and return what they say together, as one tensor.

    The segmenter is asked in every window, and its blended answer is the pre-segmentation. The chain runs in the
    windows where that leaves something to decide (:func:`monai_pdddpm.inferers.active.active_voxels`); elsewhere the
    pre-segmentation is every member's answer. A member's noise is cut from one field for the whole volume, and its
    windows are blended in float32 before any statistic is taken, so a member is a sample of the whole volume; the
    statistics are running sums. Stateless: one object may serve several threads.

    A network that offers nothing but ``forward(image) -> probabilities``, as some exports do, is called once per member
    and window. Then there is no pre-segmentation (its channels are NaN), T', steps and rule are those of the export,
    every window is run, and each window draws its own noise, so that where windows overlap the spread comes out too
    small.

    Args:
        roi_size: window, in voxels, one number for each spatial axis; a multiple of what the networks need.
        time_steps: descending indices of the chain; empty returns the pre-segmentation.
        members: number of members, 1 or more.
        seed: of the members' noise.
        overlap: least share that neighbouring windows have in common.
        mode: ``"gaussian"`` or ``"constant"`` blending.
        rule: reverse step, DDIM with eta 0 by default.
        training_process: the one that the network was trained with.
        segmenter_share: weight, 0 to below 1, of the segmenter's probabilities beside the members', in the mean as in
            variance and entropy.
        fusion: ``"window"`` runs the whole chain window by window, ``"step"`` blends the prediction of every step on
            the volume before the next.
        active: ``"proposal"`` runs the windows with active voxels, ``"all"`` every window.
        doubt: probability beside the likeliest class from which on a voxel is active.
        margin: of voxels around active ones that are active too.
        fourth_dimension: ``"channel"``: the channels of an image are its modalities; ``"time"``: they are frames, each
            an image of one channel, and all have the same members' noise.
        proposal_smoothing: standard deviation, in frames, of a Gaussian over the proposals of neighbouring frames; 0
            smooths nothing.
        member_batch: most members that run through the denoiser together.
        memory: MiB for the members in work, and as much for features; 0 takes 256 on the CPU, on a GPU an eighth of
            what is free.
        return_members: append every member's probabilities to the output.
        solver: of the ODE blocks, the network's own when empty.
        solver_steps: its steps, the network's own when 0.
        precision: of the networks' arithmetic; states, sums and statistics are float32.
        progress: show a bar on a terminal.

    Raises:
        UserError: when an argument is out of range; on a call, when roi_size or time_steps do not fit the network.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        time_steps: Sequence[int],
        members: int = 8,
        seed: int = 0,
        overlap: float = 0.5,
        mode: str = "gaussian",
        rule: DDIMRule | AncestralRule | None = None,
        training_process: str = "ddpm",
        segmenter_share: float = 0.0,
        fusion: str = "window",
        active: str = "proposal",
        doubt: float = 0.05,
        margin: int = 2,
        fourth_dimension: str = "channel",
        proposal_smoothing: float = 0.0,
        member_batch: int = 8,
        memory: int = 0,
        return_members: bool = False,
        solver: str = "",
        solver_steps: int = 0,
        precision: str = "bfloat16",
        progress: bool = True,
    ) -> None:
        super().__init__()
        for name, whole, low in (
            ("members", members, 1),
            ("member_batch", member_batch, 1),
            ("seed", seed, 0),
            ("solver_steps", solver_steps, 0),
            ("margin", margin, 0),
            ("memory", memory, 0),
        ):
            if not isinstance(whole, int) or whole < low:
                raise UserError(f"{name}: found {whole!r}, expected a whole number of at least {low}; mend --{name}")
        for name, share in (("overlap", overlap), ("segmenter_share", segmenter_share), ("doubt", doubt)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise UserError(f"{name}: found {share!r}, expected a number from 0 to below 1; mend --{name}")
        for name, word, words in (
            ("fusion", fusion, FUSIONS),
            ("active", active, ACTIVE),
            ("fourth_dimension", fourth_dimension, FOURTH_DIMENSIONS),
        ):
            if word not in words:
                raise UserError(f"{name}: found {word!r}, expected {' or '.join(words)}; mend --{name}")
        if not isinstance(proposal_smoothing, (int, float)) or not 0 <= proposal_smoothing < float("inf"):
            raise UserError(
                f"proposal_smoothing: found {proposal_smoothing!r}, expected a number of frames of at least 0; mend "
                "--proposal_smoothing"
            )
        if mode not in ("gaussian", "constant"):
            raise UserError(
                f"mode: found {mode!r}, expected gaussian or constant; mend the inferer in the configuration"
            )
        if not isinstance(roi_size, Sequence) or any(not isinstance(r, int) or r < 1 for r in roi_size):
            raise UserError(f"roi_size: found {roi_size!r}, expected a list of whole numbers above 0; mend --roi_size")
        self.roi_size = tuple(roi_size)
        self.members = members
        self.seed = seed
        self.overlap = overlap
        self.mode = mode
        self.chain = Chain(
            list(time_steps), rule or DDIMRule(), forward_process(training_process), solver, solver_steps
        )
        self.training_process = training_process
        self.segmenter_share = segmenter_share
        self.fusion = fusion
        self.active, self.doubt, self.margin = active, doubt, margin
        self.fourth_dimension = fourth_dimension
        self.proposal_smoothing = proposal_smoothing
        self.member_batch = member_batch
        self.memory = memory
        self.return_members = return_members
        self.precision = check_precision(precision)
        self.progress = progress

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return mean, spread and pre-segmentation of a batch of volumes.

        Args:
            inputs: (B, C, X, Y[, Z]).
            network: :class:`monai_pdddpm.networks.PDDDPM`, eager or as TorchScript, or any image -> probabilities.
            args: not used.
            kwargs: not used.

        Returns:
            (B, T x (3K [+ members K]), X, Y[, Z]) float32, where T is the number of frames, 1 without a time axis. For
            each frame: mean probabilities (K), mean of the members' entropies (1), variance over members of the
            foreground classes (K-1), pre-segmentation (K), members (members x K). A MetaTensor comes back as one; its
            ``meta["inference"]`` says what was run. Members that take more than 256 MiB lie in a file without a name,
            which goes when they do.
        """
        network = getattr(network, "module", network)
        images = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()
        self._check(images, network)
        if not _has_parts(network):
            logger.warning(
                "the network offers forward(image) only: no pre-segmentation, time steps and rule are its own, and the "
                "spread comes out too small where windows overlap"
            )
        watch = Stopwatch(images.device)
        with torch.no_grad():
            results = [self._infer(image, network, watch) for image in images]
        volumes = [volume for volume, _ in results]
        output = torch.stack(volumes) if len(volumes) > 1 else volumes[0][None]
        if not isinstance(inputs, MetaTensor):
            return output
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        wrapped.is_batch = inputs.is_batch
        # text, one per case: MONAI would take a dictionary apart when it decollates the batch
        wrapped.meta["inference"] = [
            json.dumps(self.describe() | ran | {"seconds": dict(watch.seconds)}) for _, ran in results
        ]
        return wrapped

    def describe(self) -> dict[str, Any]:
        """Return the settings that a report should carry."""
        steps = self.chain.time_steps
        return {
            "members": self.members,
            "seed": self.seed,
            "time_steps": list(steps),
            "start_step": steps[0] + 1 if steps else 0,
            "rule": str(self.chain.rule),
            "training_process": self.training_process,
            "solver": self.chain.solver,
            "solver_steps": self.chain.solver_steps,
            "roi_size": list(self.roi_size),
            "overlap": self.overlap,
            "mode": self.mode,
            "segmenter_share": self.segmenter_share,
            "fusion": self.fusion,
            "active": self.active,
            "doubt": self.doubt,
            "margin": self.margin,
            "proposal_smoothing": self.proposal_smoothing,
            "precision": self.precision,
        }

    def _infer(self, image: torch.Tensor, network: Any, watch: Stopwatch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the output channels of one image, (C, ...) -> (T x (3K [+ members K]), ...), and what was run."""
        frames = image[:, None] if self.fourth_dimension == "time" else image[None]
        classes = getattr(getattr(network, "denoiser", None), "num_classes", 2)
        home = home_of_volumes(4 * self._channels(classes) * frames[:, 0].numel(), image.device)
        padded, inner = pad_to(frames.to(home), self.roi_size)
        plan = WindowPlan(padded.shape[2:], self.roi_size, self.overlap, self.mode, home)
        ran = {"frames": len(frames), "windows_run": 0, "windows_skipped": 0, "denoiser_evaluations": 0}
        output: torch.Tensor | None = None
        with tqdm(total=0, desc="members", disable=not self.progress or None) as bar:
            run = _Run(network, plan, inner, image.device, watch, bar, ran)
            for f, (preseg, proposed) in enumerate(self._proposals(run, padded)):
                frame = padded[f : f + 1]
                if output is None:
                    classes = self._classes(run, frame) if preseg is None else preseg.shape[1]
                    size = [s.stop - s.start for s in inner]
                    output = scratch_tensor((len(frames), self._channels(classes), *size), home)
                self._fill(output[f], run, preseg, proposed)
                box, drawn = self._members(run, frame, proposed)
                self._gather(output[f], run, proposed, box, drawn)
        assert output is not None  # an image has at least one frame
        return output.flatten(0, 1), ran

    def _channels(self, classes: int) -> int:
        """Return how many channels a frame's output has."""
        return classes * (3 + self.return_members * self.members)

    def _classes(self, run: _Run, frame: torch.Tensor) -> int:
        """Return the number of classes of a network that only shows it in its answer."""
        part = run.plan.cut(frame, run.plan.windows[0]).to(run.device)
        with autocast(run.device, self.precision):
            return _seeded(run.network, part, self.seed).shape[1]

    def _proposals(self, run: _Run, frames: torch.Tensor) -> Iterator[tuple[Any, Any]]:
        """Yield each frame's pre-segmentation and what is proposed, (1, K, ...); None of a network without parts."""
        if not _has_parts(run.network):
            yield from [(None, None)] * len(frames)
            return
        if self.proposal_smoothing == 0 or len(frames) == 1:
            for frame in frames.split(1):
                preseg = self._segment(run, frame)
                yield preseg, preseg
            return
        presegs = torch.cat([self._segment(run, frame) for frame in frames.split(1)])
        smoothed = smoothed_over_frames(presegs, self.proposal_smoothing)
        yield from zip(presegs.split(1), smoothed.split(1), strict=True)

    def _members(
        self, run: _Run, frame: torch.Tensor, proposed: torch.Tensor | None
    ) -> tuple[tuple[slice, ...], Iterator[torch.Tensor]]:
        """Return the part of a frame that is run, and its members there, each (K, box), one after the other."""
        plan, everywhere = run.plan, tuple(slice(0, n) for n in run.plan.size)
        if proposed is None:
            run.count(len(plan), None)
            return everywhere, self._call_forward(run, frame)
        windows = self._active_windows(plan, proposed[0])
        steps = len(self.chain.time_steps)
        run.count(len(windows), self.members * len(windows) * steps)
        if not windows:
            return everywhere, iter(())
        drawer = MemberDrawer(
            run.network,
            self.chain,
            plan,
            windows,
            frame,
            proposed,
            self.seed,
            self.fusion,
            self.precision,
            run.device,
            self.member_batch,
            working_memory(self.memory, run.device),
            run.watch,
        )
        return drawer.region.box, drawer.draw(self.members, run.bar)

    def _active_windows(self, plan: WindowPlan, preseg: torch.Tensor) -> list[tuple[slice, ...]]:
        if not self.chain.time_steps:
            return []
        if self.active == "all":
            return plan.windows
        voxels = active_voxels(preseg, self.doubt, self.margin)
        return [window for window in plan.windows if voxels[window].any()]

    def _fill(self, output: torch.Tensor, run: _Run, preseg: Any, proposed: Any) -> None:
        """Fill a frame's output, (3K [+ members K], ...), as if all members were what is proposed, (1, K, ...)."""
        if preseg is None:
            output[:] = torch.nan
            return
        classes = preseg.shape[1]
        inside = run.plan.cut(proposed[0], run.inner)
        output[:classes] = inside
        output[classes] = predictive_entropy(inside, dim=0)
        output[classes + 1 : 2 * classes] = 0
        output[2 * classes : 3 * classes] = run.plan.cut(preseg[0], run.inner)
        if self.return_members:
            output[3 * classes :].unflatten(0, (self.members, classes))[:] = inside

    def _gather(
        self,
        output: torch.Tensor,
        run: _Run,
        proposed: torch.Tensor | None,
        box: tuple[slice, ...],
        drawn: Iterable[torch.Tensor],
    ) -> None:
        """Put the members, each (K, box), and their statistics into a frame's output."""
        statistics = EnsembleStatistics()
        for number, member in enumerate(drawn):
            with run.watch("statistics"):
                statistics.add(member, (1 - self.segmenter_share) / self.members)
                if self.return_members:
                    start = len(member) * (3 + number)
                    _paste(output[start : start + len(member)], member, box, run.inner)
        if not statistics.weight:
            return
        if proposed is not None and self.segmenter_share > 0:
            statistics.add(run.plan.cut(proposed[0], box), self.segmenter_share)
        maps = torch.cat(statistics.result())
        _paste(output[: len(maps)], maps, box, run.inner)

    def _check(self, images: torch.Tensor, network: Any) -> None:
        """Raise an error when the settings do not fit the images or the network."""
        if len(self.roi_size) != images.dim() - 2:
            raise UserError(
                f"roi_size: found {list(self.roi_size)} for images with {images.dim() - 2} spatial axes, expected one "
                "number for each; mend --roi_size"
            )
        if not _has_parts(network):
            return
        divisor = getattr(getattr(network, "denoiser", None), "divisor", 1)
        if any(r % divisor for r in self.roi_size):
            raise UserError(
                f"roi_size: found {list(self.roi_size)}, expected multiples of {divisor}, which the denoiser needs; "
                "mend --roi_size"
            )
        check_steps(self.chain.time_steps, len(network.abar))

    def _segment(self, run: _Run, frame: torch.Tensor) -> torch.Tensor:
        """Return the segmenter's probabilities blended over the volume, (1, K, ...)."""
        blended: torch.Tensor | None = None
        for window in run.plan.windows:
            with run.watch("segment"), autocast(run.device, self.precision):
                probabilities = run.network.segment(run.plan.cut(frame, window).to(run.device)).float()
                if blended is None:
                    blended = torch.zeros(*probabilities.shape[:2], *run.plan.size, device=frame.device)
                run.plan.add(blended, window, probabilities)
        assert blended is not None  # a plan has at least one window
        return run.plan.finish(blended)

    def _call_forward(self, run: _Run, frame: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the members of a network that only has ``forward``, (K, ...)."""
        for member in range(self.members):
            blended: torch.Tensor | None = None
            for w, window in enumerate(run.plan.windows):
                part = run.plan.cut(frame, window).to(run.device)
                with run.watch("chain"), autocast(run.device, self.precision):
                    drawn = _seeded(run.network, part, member_seed(self.seed, member, w))[0]
                if blended is None:
                    blended = torch.zeros(len(drawn), *run.plan.size, device=frame.device)
                run.plan.add(blended, window, drawn)
            assert blended is not None  # a plan has at least one window
            yield run.plan.finish(blended)


@dataclass
class _Run:
    """What all frames of an image share."""

    network: Any
    plan: WindowPlan
    inner: tuple[slice, ...]
    device: torch.device
    watch: Stopwatch
    bar: tqdm
    ran: dict[str, Any]

    def count(self, windows: int, evaluations: int | None) -> None:
        """Add a frame to the report; None when nobody knows what a network does."""
        self.ran["windows_run"] += windows
        self.ran["windows_skipped"] += len(self.plan) - windows
        if evaluations is None:
            self.ran["denoiser_evaluations"] = None
        else:
            self.ran["denoiser_evaluations"] += evaluations
            self.bar.total += evaluations
            self.bar.refresh()


def _paste(target: torch.Tensor, values: torch.Tensor, box: tuple[slice, ...], inner: tuple[slice, ...]) -> None:
    """Copy values of a box, (C, box), to the part of a volume that lies within ``inner``, (C, inner)."""
    to: list[Any] = [...]
    source: list[Any] = [...]
    for b, i in zip(box, inner, strict=True):
        low, high = max(b.start, i.start), max(min(b.stop, i.stop), max(b.start, i.start))
        to.append(slice(low - i.start, high - i.start))
        source.append(slice(low - b.start, high - b.start))
    target[tuple(to)] = values[tuple(source)]


def _has_parts(network: Any) -> bool:
    return hasattr(network, "denoise")


def _seeded(network: Any, image: torch.Tensor, seed: int) -> torch.Tensor:
    """Return ``network(image)`` as float32, with torch's own generators seeded for this call only."""
    with _GLOBAL_GENERATORS, torch.random.fork_rng([image.device] if image.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return network(image).float()
