"""The whole method on whole volumes, as an ordinary MONAI inferer."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from monai_pdddpm.data.scan_spec import FOURTH_DIMENSIONS
from monai_pdddpm.schedulers import AncestralRule, DDIMRule, check_steps, forward_process
from monai_pdddpm.utils.errors import UserError

from .autocast import check_precision
from .chain import Chain, Stopwatch
from .ensemble import EnsembleRun, has_parts
from .members import FUSIONS

logger = logging.getLogger(__name__)

WINDOWS = ("active", "all")


class PDDDPMInferer(Inferer):
    """Draw members for a whole volume and return what they say together, as one tensor.

    The segmenter is asked in every window, and its blended answer is the pre-segmentation. The chain runs in the
    windows where that leaves something to decide (:func:`monai_pdddpm.inferers.active_voxels.active_voxels`); elsewhere the
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
        presegmentation_weight: weight, 0 to below 1, of the segmenter's probabilities beside the members', in the mean as in
            variance and entropy.
        fusion: ``"window"`` runs the whole chain window by window, ``"step"`` blends the prediction of every step on
            the volume before the next.
        windows: ``"active"`` runs the windows with active voxels, ``"all"`` every window.
        uncertainty_threshold: probability beside the likeliest class from which on a voxel is active.
        dilation: of voxels around active ones that are active too.
        fourth_dimension: ``"channel"``: the channels of an image are its modalities; ``"time"``: they are frames, each
            an image of one channel, and all have the same members' noise.
        presegmentation_smoothing: standard deviation, in frames, of a Gaussian over the presegmentations of neighbouring frames; 0
            smooths nothing.
        member_batch: most members that run through the denoiser together.
        memory: MiB for the members in work, and as much for features; 0 takes 256 on the CPU, where more features go to
            a temporary file, and on a GPU an eighth of what is free.
        return_members: append every member's probabilities to the output.
        solver: of the ODE blocks, the network's own when empty.
        solver_steps: its steps, the network's own when 0; a list has one number for each time step.
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
        presegmentation_weight: float = 0.0,
        fusion: str = "window",
        windows: str = "active",
        uncertainty_threshold: float = 0.05,
        dilation: int = 2,
        fourth_dimension: str = "channel",
        presegmentation_smoothing: float = 0.0,
        member_batch: int = 8,
        memory: int = 0,
        return_members: bool = False,
        solver: str = "",
        solver_steps: int | Sequence[int] = 0,
        precision: str = "bfloat16",
        progress: bool = True,
    ) -> None:
        super().__init__()
        for name, whole, low in (
            ("members", members, 1),
            ("member_batch", member_batch, 1),
            ("seed", seed, 0),
            ("dilation", dilation, 0),
            ("memory", memory, 0),
        ):
            if not isinstance(whole, int) or whole < low:
                raise UserError(f"{name}: found {whole!r}, expected a whole number of at least {low}; fix --{name}")
        listed = list(solver_steps) if isinstance(solver_steps, Sequence) else [solver_steps]
        if len(listed) not in (1, len(time_steps)) or any(not isinstance(n, int) or n < 0 for n in listed):
            raise UserError(
                f"solver_steps: found {solver_steps!r}, expected a whole number of at least 0, or one for each of the "
                f"{len(time_steps)} time steps; fix --solver_steps"
            )
        for name, share in (
            ("overlap", overlap),
            ("presegmentation_weight", presegmentation_weight),
            ("uncertainty_threshold", uncertainty_threshold),
        ):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise UserError(f"{name}: found {share!r}, expected a number from 0 to below 1; fix --{name}")
        for name, word, words in (
            ("fusion", fusion, FUSIONS),
            ("windows", windows, WINDOWS),
            ("fourth_dimension", fourth_dimension, FOURTH_DIMENSIONS),
        ):
            if word not in words:
                raise UserError(f"{name}: found {word!r}, expected {' or '.join(words)}; fix --{name}")
        if not isinstance(presegmentation_smoothing, (int, float)) or not 0 <= presegmentation_smoothing < float("inf"):
            raise UserError(
                f"presegmentation_smoothing: found {presegmentation_smoothing!r}, expected a number of frames of at least 0; fix "
                "--presegmentation_smoothing"
            )
        if mode not in ("gaussian", "constant"):
            raise UserError(
                f"mode: found {mode!r}, expected gaussian or constant; fix the inferer in the configuration"
            )
        if not isinstance(roi_size, Sequence) or any(not isinstance(r, int) or r < 1 for r in roi_size):
            raise UserError(f"roi_size: found {roi_size!r}, expected a list of whole numbers above 0; fix --roi_size")
        self.roi_size = tuple(roi_size)
        self.members = members
        self.seed = seed
        self.overlap = overlap
        self.mode = mode
        each = listed * len(time_steps) if len(listed) == 1 else listed
        self.chain = Chain(list(time_steps), rule or DDIMRule(), forward_process(training_process), solver, each)
        self.training_process = training_process
        self.presegmentation_weight = presegmentation_weight
        self.fusion = fusion
        self.windows, self.uncertainty_threshold, self.dilation = windows, uncertainty_threshold, dilation
        self.fourth_dimension = fourth_dimension
        self.presegmentation_smoothing = presegmentation_smoothing
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
        if not has_parts(network):
            logger.warning(
                "the network offers forward(image) only: no pre-segmentation, time steps and rule are its own, and the "
                "spread comes out too small where windows overlap"
            )
        watch = Stopwatch(images.device)
        with torch.no_grad():
            done = [self._volume(network, image, watch) for image in images]
        volumes = [volume for volume, _ in done]
        output = torch.stack(volumes) if len(volumes) > 1 else volumes[0][None]
        if not isinstance(inputs, MetaTensor):
            return output
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        wrapped.is_batch = inputs.is_batch
        # text, one per case: MONAI would take a dictionary apart when it decollates the batch
        wrapped.meta["inference"] = [
            json.dumps(self.describe() | ran | {"seconds": dict(watch.seconds)}) for _, ran in done
        ]
        return wrapped

    def _volume(self, network: Any, image: torch.Tensor, watch: Stopwatch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the output channels of one image, (C, X, Y[, Z]), and what was run."""
        run = EnsembleRun(self, network, image, watch)
        return run.run(), run.ran

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
            "solver_steps": list(self.chain.solver_steps),
            "roi_size": list(self.roi_size),
            "overlap": self.overlap,
            "mode": self.mode,
            "presegmentation_weight": self.presegmentation_weight,
            "fusion": self.fusion,
            "windows": self.windows,
            "uncertainty_threshold": self.uncertainty_threshold,
            "dilation": self.dilation,
            "presegmentation_smoothing": self.presegmentation_smoothing,
            "precision": self.precision,
        }

    def _check(self, images: torch.Tensor, network: Any) -> None:
        """Raise an error when the settings do not fit the images or the network."""
        if len(self.roi_size) != images.dim() - 2:
            raise UserError(
                f"roi_size: found {list(self.roi_size)} for images with {images.dim() - 2} spatial axes, expected one "
                "number for each; fix --roi_size"
            )
        if not has_parts(network):
            return
        divisor = getattr(getattr(network, "denoiser", None), "divisor", 1)
        if any(r % divisor for r in self.roi_size):
            raise UserError(
                f"roi_size: found {list(self.roi_size)}, expected multiples of {divisor}, which the denoiser needs; "
                "fix --roi_size"
            )
        check_steps(self.chain.time_steps, len(network.abar))
