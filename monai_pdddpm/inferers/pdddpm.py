"""The whole method on whole volumes, as an ordinary MONAI inferer."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from monai_pdddpm.errors import UserError
from monai_pdddpm.schedulers import AncestralRule, DDIMRule, check_steps, forward_process

from .autocast import autocast, check_precision
from .chain import Stopwatch, reverse_chain
from .noise import member_noise, member_seed
from .statistics import EnsembleStatistics
from .windows import WindowPlan, pad_to

logger = logging.getLogger(__name__)

_GLOBAL_GENERATORS = threading.Lock()  # torch's are one for all threads


class PDDDPMInferer(Inferer):
    """Draw members for a whole volume and return what they say together, as one tensor.

    The segmenter is asked once per window and its blended answer is the proposal. Then, per window, the condition is
    encoded once and the chain runs for a batch of members, whose noise is cut from one field per member for the whole
    volume. Each member's windows are blended in float32 before any statistic is taken, so a member is a sample of the
    whole volume; the statistics are running sums. Stateless: one object may serve several threads.

    A network that offers nothing but ``forward(image) -> probabilities``, as some exports do, is called once per member
    and window. Then there is no pre-segmentation (its channels are NaN), T', steps and rule are those of the export,
    and each window draws its own noise, so that where windows overlap the spread comes out too small.

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
        member_batch: members that run through the denoiser together.
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
        member_batch: int = 8,
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
        ):
            if not isinstance(whole, int) or whole < low:
                raise UserError(f"{name}: found {whole!r}, expected a whole number of at least {low}; mend --{name}")
        for name, share in (("overlap", overlap), ("segmenter_share", segmenter_share)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise UserError(f"{name}: found {share!r}, expected a number from 0 to below 1; mend --{name}")
        if mode not in ("gaussian", "constant"):
            raise UserError(
                f"mode: found {mode!r}, expected gaussian or constant; mend the inferer in the configuration"
            )
        if not isinstance(roi_size, Sequence) or any(not isinstance(r, int) or r < 1 for r in roi_size):
            raise UserError(f"roi_size: found {roi_size!r}, expected a list of whole numbers above 0; mend --roi_size")
        self.roi_size = tuple(roi_size)
        self.time_steps = list(time_steps)
        self.members = members
        self.seed = seed
        self.overlap = overlap
        self.mode = mode
        self.rule = rule or DDIMRule()
        self.process = forward_process(training_process)
        self.training_process = training_process
        self.segmenter_share = segmenter_share
        self.member_batch = member_batch
        self.return_members = return_members
        self.solver, self.solver_steps = solver, solver_steps
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
            (B, 3K [+ members K], X, Y[, Z]) float32. Channels: mean probabilities (K), mean of the members' entropies
            (1), variance over members of the foreground classes (K-1), pre-segmentation (K), members (members x K).
            A MetaTensor comes back as one; its ``meta["inference"]`` says what was run.
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
            results = [self._infer(image[None], network, watch) for image in images]
        output = torch.stack([volume for volume, _ in results])
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
        return {
            "members": self.members,
            "seed": self.seed,
            "time_steps": list(self.time_steps),
            "start_step": self.time_steps[0] + 1 if self.time_steps else 0,
            "rule": str(self.rule),
            "training_process": self.training_process,
            "solver": self.solver,
            "solver_steps": self.solver_steps,
            "roi_size": list(self.roi_size),
            "overlap": self.overlap,
            "mode": self.mode,
            "segmenter_share": self.segmenter_share,
            "precision": self.precision,
        }

    def _infer(self, image: torch.Tensor, network: Any, watch: Stopwatch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the output channels of one volume, (1, C, ...) -> (3K [+ members K], ...), and what was run."""
        padded, inner = pad_to(image, self.roi_size)
        plan = WindowPlan(padded.shape[2:], self.roi_size, self.overlap, self.mode, image.device)
        preseg = None
        steps = 1
        if _has_parts(network):
            with watch("segment"):
                preseg = self._segment(network, padded, plan)
            steps = len(self.time_steps)
        statistics, kept = EnsembleStatistics(), []
        total = self.members * len(plan) * steps
        with tqdm(total=total, desc="members", disable=not self.progress or None) as bar:
            for first in range(0, self.members, self.member_batch):
                numbers = range(first, min(first + self.member_batch, self.members))
                if preseg is None:
                    drawn = self._call_forward(network, padded, plan, numbers, watch, bar)
                else:
                    drawn = self._draw_members(network, padded, preseg, plan, numbers, watch, bar)
                with watch("statistics"):
                    for member in drawn:
                        member = plan.cut(member, inner)
                        statistics.add(member, (1 - self.segmenter_share) / self.members)
                        if self.return_members:
                            kept.append(member)
        if preseg is not None:
            preseg = plan.cut(preseg[0], inner)
            if self.segmenter_share > 0:
                statistics.add(preseg, self.segmenter_share)
        mean, entropy, variance = statistics.result()
        ran = {
            "windows_run": len(plan),
            "windows_skipped": 0,
            "denoiser_evaluations": None if preseg is None else total,
        }
        preseg = torch.full_like(mean, torch.nan) if preseg is None else preseg
        return torch.cat([mean, entropy, variance, preseg, *kept]), ran

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
        check_steps(self.time_steps, len(network.abar))

    def _segment(self, network: Any, image: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
        """Return the segmenter's probabilities blended over the volume, (1, K, ...)."""
        blended: torch.Tensor | None = None
        for window in plan.windows:
            with autocast(image.device, self.precision):
                probabilities = network.segment(plan.cut(image, window)).float()
            if blended is None:
                blended = torch.zeros(*probabilities.shape[:2], *plan.size, device=image.device)
            plan.add(blended, window, probabilities)
        assert blended is not None  # a plan has at least one window
        return plan.finish(blended)

    def _draw_members(
        self,
        network: Any,
        image: torch.Tensor,
        preseg: torch.Tensor,
        plan: WindowPlan,
        numbers: range,
        watch: Stopwatch,
        bar: tqdm,
    ) -> torch.Tensor:
        """Return some members' probabilities on the volume, (members, K, ...)."""
        if not self.time_steps:
            return preseg.expand(len(numbers), *preseg.shape[1:])
        proposal = network.propose(preseg)
        draws = len(self.time_steps) if self.rule.stochastic else 1
        with watch("noise"):
            noise = [self._noise(numbers, draw, preseg.shape[1:], image.device) for draw in range(draws)]
        blended = torch.zeros(len(numbers), *preseg.shape[1:], device=image.device)
        for window in plan.windows:
            with autocast(image.device, self.precision):
                with watch("encode"):
                    proposal_w = plan.cut(proposal, window)
                    features = network.encode(plan.cut(image, window), proposal_w)
                with watch("chain"):
                    drawn = reverse_chain(
                        network,
                        proposal_w,
                        features,
                        [plan.cut(field, window) for field in noise],
                        self.time_steps,
                        self.rule,
                        self.process,
                        self.solver,
                        self.solver_steps,
                    )
            with watch("blend"):
                plan.add(blended, window, drawn)
            bar.update(len(numbers) * len(self.time_steps))
        return plan.finish(blended)

    def _call_forward(
        self, network: Any, image: torch.Tensor, plan: WindowPlan, numbers: range, watch: Stopwatch, bar: tqdm
    ) -> torch.Tensor:
        """Return some members of a network that only has ``forward``, (members, K, ...)."""
        blended: torch.Tensor | None = None
        for w, window in enumerate(plan.windows):
            part = plan.cut(image, window)
            with watch("chain"), autocast(image.device, self.precision):
                drawn = torch.cat([_seeded(network, part, member_seed(self.seed, m, w)) for m in numbers])
            if blended is None:
                blended = torch.zeros(*drawn.shape[:2], *plan.size, device=image.device)
            plan.add(blended, window, drawn)
            bar.update(len(numbers))
        assert blended is not None  # a plan has at least one window
        return plan.finish(blended)

    def _noise(self, numbers: range, draw: int, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        return torch.stack([member_noise(self.seed, member, draw, shape) for member in numbers]).to(device)


def _has_parts(network: Any) -> bool:
    return hasattr(network, "denoise")


def _seeded(network: Any, image: torch.Tensor, seed: int) -> torch.Tensor:
    """Return ``network(image)`` as float32, with torch's own generators seeded for this call only."""
    with _GLOBAL_GENERATORS, torch.random.fork_rng([image.device] if image.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return network(image).float()
