"""The contenders: each a function that gives, for a task, a network and the inferer that asks it.

All are asked through one pipeline, so that reading, windows, statistics and files are the same for everyone.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.nets import DiffusionModelUNet, UNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.trust import measuring
from monai_pdddpm.bundle import load_network
from monai_pdddpm.bundle.weights import load_segmenter
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.chain import Chain
from monai_pdddpm.inferers.statistics import EnsembleStatistics
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM, CompiledDenoiser
from monai_pdddpm.schedulers import DDIMRule, uniform_steps
from monai_pdddpm.schedulers.processes import DDPMProcess

PRESET = Path(__file__).resolve().parents[2] / "configs" / "presets" / "pd_ddpm_2022" / "inference.json"
BASELINE_CHANNELS, BASELINE_ATTENTION = (32, 64, 128), (False, False, True)
NOISE_STEPS = 1000
PASSES = 8


@dataclass(frozen=True)
class Task:
    """What all contenders share.

    Attributes:
        bundle: folder of the bundle.
        device: of the networks.
        members: of every ensemble; None takes the bundle's own number.
        weights: a contender's own, a state dict of its whole network; the bundle's contenders need none.
        overrides: further changes of the bundle's ``inference.json``.
    """

    bundle: Path
    device: str = "cpu"
    members: int | None = None
    weights: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_file(self) -> Path:
        """The bundle's own weights."""
        return self.bundle / "models" / "model.pt"

    def parser(self, overrides: Mapping[str, Any] | None = None) -> ConfigParser:
        """Read the bundle's ``inference.json`` and apply overrides, the task's own last."""
        parser = ConfigParser()
        parser.read_config(self.bundle / "configs" / "inference.json")
        members = {} if self.members is None else {"members": self.members}
        parser.update({"bundle_root": str(self.bundle), "device": self.device, **members, **(overrides or {})})
        parser.update(dict(self.overrides))
        return parser


@dataclass
class Entry:
    """A contender, ready to be asked.

    Attributes:
        network: what the inferer is given: a pair, or a list of them.
        inferer: gives (1, 3K + N K, ...) as :class:`PDDDPMInferer` does.
        trained: whether the answer means anything.
        passes: how often segmenters are asked in a window.
    """

    network: nn.Module
    inferer: Inferer
    trained: bool
    passes: int = 1

    @property
    def pair(self) -> PDDDPM:
        """The pair, or the first of them."""
        first = self.network[0] if isinstance(self.network, nn.ModuleList) else self.network
        assert isinstance(first, PDDDPM)
        return first

    @property
    def chain(self) -> Any:
        """The reverse chain, None of a contender without one."""
        chain = getattr(self.inferer, "chain", None)
        return chain if chain is not None and chain.time_steps else None


class Silent(nn.Module):
    """In the place of a segmenter, for chains that have none: all classes are alike everywhere."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_zeros(len(image), self.num_classes, *image.shape[2:])


class FromNoise(PDDDPM):
    """A pair whose chain starts from noise alone."""

    def start(self, proposal: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        return noise


class Concatenated(nn.Module):
    """A network that sees state and image side by side and looks at the time: ordinary conditional diffusion.

    Args:
        network: ``(x, timesteps) -> (B, K, ...)``.
        num_classes: K.
        divisor: what the input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 4) -> None:
        super().__init__()
        self.network, self.num_classes, self.divisor = network, num_classes, divisor

    def encode(self, image: torch.Tensor, proposal: torch.Tensor) -> list[torch.Tensor]:
        """Return the image as it is: nothing can be computed ahead."""
        return [image]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return what the network predicts."""
        x = torch.cat([x_t, features[0].expand(len(x_t), *features[0].shape[1:])], dim=1)
        return self.network(x, timesteps=t.expand(len(x_t)))


class Plain(nn.Module):
    """A plain network in the place of the denoiser: it sees state, image, proposal, and the time as a channel.

    Args:
        network: ``x -> (B, K, ...)`` of ``2K + C + 1`` channels.
        num_classes: K.
        divisor: what the input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 8) -> None:
        super().__init__()
        self.network, self.num_classes, self.divisor = network, num_classes, divisor

    def encode(self, image: torch.Tensor, proposal: torch.Tensor) -> list[torch.Tensor]:
        """Return image and proposal as they are: nothing can be computed ahead."""
        return [torch.cat([image, proposal], dim=1)]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return what the network predicts."""
        condition = features[0].expand(len(x_t), *features[0].shape[1:])
        time_channel = (t / NOISE_STEPS).view(-1, *[1] * (x_t.dim() - 1)).expand_as(x_t[:, :1])
        return self.network(torch.cat([x_t, condition, time_channel], dim=1))


@dataclass(frozen=True)
class SchedulerChain(Chain):
    """A chain of one of MONAI's schedulers, called as MONAI's own loop calls it.

    Args:
        scheduler: offers ``step(output, t, x_t)``.
    """

    scheduler: Any = None

    def predict(self, network: Any, x_t: torch.Tensor, i: int, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the state after the i-th step, the sample after the last."""
        t = self.time_steps[i]
        output = network.denoise(x_t, torch.full((1,), t, device=x_t.device), features)
        return self.scheduler.step(output.float(), t, x_t)[0]

    def advance(self, network: Any, x_t: Any, x_0: torch.Tensor, x_pre: Any, i: int, noise: Any) -> torch.Tensor:
        """Return what the scheduler gave."""
        return x_0


class FirstSteps:
    """The first steps of a chain, with all the noise that the whole of it draws.

    Args:
        chain: the whole.
        steps: how many to run.
    """

    def __init__(self, chain: Any, steps: int) -> None:
        self.chain = chain
        self.time_steps = list(chain.time_steps[:steps])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chain, name)


class Passes(Inferer):
    """Ask segmenters, each once for every flip, and put their answers together as members.

    Args:
        parser: of the bundle.
        flips: sets of axes.
    """

    def __init__(self, parser: ConfigParser, flips: Any = ((),)) -> None:
        super().__init__()
        self.parser, self.flips = parser, flips

    def __call__(self, inputs: torch.Tensor, network: nn.ModuleList) -> torch.Tensor:  # type: ignore[override]
        """Return what :class:`PDDDPMInferer` does for one image, (1, 3K + N K, ...)."""
        begin = _now(inputs.device)
        _, drawn = measuring.passes(self.parser, list(network), self.flips)(inputs.as_tensor())
        asked = _now(inputs.device)
        statistics = EnsembleStatistics()
        for member in drawn:
            statistics.add(member)
        output = torch.cat([*statistics.result(), drawn[0], drawn.flatten(0, 1)])[None]
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        seconds = {"segment": asked - begin, "statistics": _now(inputs.device) - asked}
        roi, size = self.parser["roi_size"], inputs.shape[2:]
        plan = WindowPlan([max(n, r) for n, r in zip(size, roi, strict=True)], roi, self.parser["overlap"])
        ran = {"members": len(drawn), "windows_run": 0, "windows_skipped": len(plan), "denoiser_evaluations": 0}
        wrapped.meta["inference"] = [json.dumps(ran | {"seconds": seconds})]
        return wrapped


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(task: Task, **overrides: Any) -> Entry:
    """Return the bundle as it is shipped, but for overrides."""
    parser = task.parser(overrides)
    network = measuring.pair_of(parser, task.weights or task.model_file).to(task.device)
    if parser["compile"]:
        network = network.with_denoiser(CompiledDenoiser(network.denoiser)).eval()
    return Entry(network, _inferer(parser), trained=True)


def with_solver(task: Task, solver: str, steps: int) -> Entry:
    """Return the bundle's networks with another solver in the ODE blocks."""
    return ours(task, **{"inferer::solver": solver, "inferer::solver_steps": steps})


def paper(task: Task) -> Entry:
    """Return the recipe of the preset: the noise predicted, every step from T' = 300, ancestral."""
    preset = json.loads(PRESET.read_text(encoding="utf-8"))
    members = task.parser()["members"]  # as many as everyone
    parser = task.parser({**preset, "members": members})
    return _with_bundles_segmenter(task, parser.get_parsed_content("network_def"), _inferer(parser))


def diffusion_unet(task: Task, chain: Callable[[], Chain]) -> Entry:
    """Return ordinary conditional diffusion: MONAI's network sees the image beside the noise, and no segmenter runs."""
    parser = task.parser({"active": "all", "segmenter_share": 0.0, "calibrated": False})
    classes, channels = len(parser["labels"]), image_channels(parser)
    network = DiffusionModelUNet(
        spatial_dims=parser["spatial_dims"],
        in_channels=classes + channels,
        out_channels=classes,
        channels=BASELINE_CHANNELS,
        num_res_blocks=(2,) * len(BASELINE_CHANNELS),
        attention_levels=BASELINE_ATTENTION,
    )
    pair = FromNoise(Silent(classes), Concatenated(network, classes), prediction="eps", schedule="linear_beta")
    inferer = _inferer(parser)
    inferer.chain = chain()
    return _loaded(task, pair, inferer)


def vanilla_chain() -> Chain:
    """Return DDPM's chain of 1000 steps, by MONAI's scheduler."""
    scheduler = DDPMScheduler(num_train_timesteps=NOISE_STEPS)
    return SchedulerChain(scheduler.timesteps.tolist(), DDIMRule(), DDPMProcess(), scheduler=scheduler)


def ddim_chain(steps: int = 50) -> Chain:
    """Return DDIM's chain, by MONAI's scheduler."""
    scheduler = DDIMScheduler(num_train_timesteps=NOISE_STEPS)
    scheduler.set_timesteps(steps)
    return SchedulerChain(scheduler.timesteps.tolist(), DDIMRule(), DDPMProcess(), scheduler=scheduler)


def fast_chain(steps: int = 10) -> Chain:
    """Return Fast-DDPM's chain: a short even list, DDIM with eta 0."""
    return Chain(uniform_steps(NOISE_STEPS, steps), DDIMRule(), DDPMProcess())


def plain(task: Task, match: str) -> Entry:
    """Return the bundle with a plain U-Net as denoiser.

    Args:
        task: what all share.
        match: ``"parameters"`` or ``"flops"``, what it has as much of as the bundle's denoiser.
    """
    parser = task.parser()
    pair = parser.get_parsed_content("network_def")
    classes, channels, roi = len(parser["labels"]), image_channels(parser), parser["roi_size"]

    def candidate(width: int) -> Plain:
        return Plain(plain_unet(parser["spatial_dims"], 2 * classes + channels + 1, classes, width), classes)

    def cost(denoiser: nn.Module) -> int:
        if match == "parameters":
            return parameters(denoiser)
        return denoiser_flops(denoiser, channels, classes, roi)["call"]

    with torch.device("meta"):  # tries of widths must not count as memory that was needed
        width = closest_width(cost(pair.denoiser), lambda w: cost(candidate(w)))
    pair.denoiser = candidate(width)
    return _with_bundles_segmenter(task, pair, _inferer(parser))


def plain_unet(spatial_dims: int, in_channels: int, out_channels: int, width: int) -> nn.Module:
    """Return MONAI's U-Net of four levels, each twice as wide as the one above it."""
    return UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=[width * 2**level for level in range(4)],
        strides=(2, 2, 2),
    )


def closest_width(wanted: int, cost: Callable[[int], int], most: int = 256) -> int:
    """Return the width from 1 to ``most`` whose cost, which rises with it, is closest to what is wanted."""
    low, high = 1, most
    while low < high:  # the first width that costs at least as much
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) >= wanted else (middle + 1, high)
    return min({max(1, low - 1), low}, key=lambda width: abs(cost(width) - wanted))


def segmenter(task: Task) -> Entry:
    """Return the bundle's segmenter alone."""
    entry = ours(task, time_steps=[], members=1)
    entry.pair.denoiser = nn.Identity()
    return entry


def segmenter_flips(task: Task) -> Entry:
    """Return the bundle's segmenter with every flip."""
    alone, parser = segmenter(task), task.parser()
    flips = measuring.all_flips(parser["spatial_dims"])
    return Entry(nn.ModuleList([alone.network]), Passes(parser, flips), alone.trained, passes=len(flips))


def segmenter_ensemble(task: Task, copies: int = PASSES) -> Entry:
    """Return networks of the segmenter's shape, of which one is trained: for their time."""
    alone = segmenter(task).network
    others = [_fresh(copy.deepcopy(alone)) for _ in range(copies - 1)]
    return Entry(nn.ModuleList([alone, *others]), Passes(task.parser()), trained=False, passes=copies)


def _fresh(network: nn.Module) -> nn.Module:
    """Draw a network's weights anew."""
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


def image_channels(parser: ConfigParser) -> int:
    """Return the channels that the networks are given."""
    return parser.get_parsed_content("network_def").denoiser.image_channels


def _inferer(parser: ConfigParser) -> PDDDPMInferer:
    inferer = parser.get_parsed_content("inferer")
    assert isinstance(inferer, PDDDPMInferer)
    inferer.progress = False
    return inferer


def _loaded(task: Task, pair: PDDDPM, inferer: Inferer) -> Entry:
    if task.weights:
        load_network(pair, task.weights, task.device)
    return Entry(pair.to(task.device).eval(), inferer, trained=task.weights is not None)


def _with_bundles_segmenter(task: Task, pair: PDDDPM, inferer: Inferer) -> Entry:
    load_segmenter(pair, [str(task.model_file)])  # which windows are run depends on what it says
    return _loaded(task, pair, inferer)


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating point operations of convolutions and matrix products, two for a multiplication and sum."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def denoiser_flops(
    denoiser: nn.Module, channels: int, classes: int, roi: Any, solver: str = "", solver_steps: int = 0
) -> dict[str, int]:
    """Return what a denoiser needs for one window: ``encode``, once, and ``call``, for each member and step."""
    denoiser = _on_meta(denoiser)
    image, state = (torch.zeros(1, n, *roi, device="meta") for n in (channels, classes))
    t = torch.zeros(1, device="meta")
    features: list[torch.Tensor] = []
    encode = count_flops(lambda: features.extend(denoiser.encode(image, state)))
    return {"encode": encode, "call": count_flops(lambda: denoiser.denoise(state, t, features, solver, solver_steps))}


def flops(entry: Entry, parser: ConfigParser) -> dict[str, int]:
    """Return the FLOPs of a contender for one window: ``segment`` (all passes), ``encode``, ``call``."""
    pair, roi = entry.pair, parser["roi_size"]
    classes, channels = len(parser["labels"]), image_channels(parser)
    image = torch.zeros(1, channels, *roi, device="meta")
    asked = _on_meta(pair.segmenter)
    found = {"segment": entry.passes * count_flops(lambda: asked(image)), "encode": 0, "call": 0}
    if entry.chain is None:
        return found
    chain, denoiser = entry.chain, pair.denoiser
    own = denoiser.denoiser if isinstance(denoiser, CompiledDenoiser) else denoiser
    solver_steps = chain.solver_steps[0] if chain.solver_steps else 0  # the same at all times here
    return found | denoiser_flops(own, channels, classes, roi, chain.solver, solver_steps)


def _on_meta(network: nn.Module) -> Any:
    return copy.deepcopy(network).to("meta").eval()


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        title: what it is.
        build: makes it.
        timed_steps: steps of its chain that are timed, over all cases together; 0 times the whole chain.
    """

    title: str
    build: Callable[[Task], Entry]
    timed_steps: int = 0


CONTENDERS = {
    "ours": Contender("ours", ours),
    "ours_one": Contender("ours, 1 member", partial(ours, members=1)),
    "ours_rk4": Contender("ours, rk4", partial(with_solver, solver="rk4", steps=1)),
    # one Euler step would never ask the network for an acceleration
    "ours_euler": Contender("ours, Euler (2 steps)", partial(with_solver, solver="euler", steps=2)),
    "plain_parameters": Contender("plain U-Net, as many parameters", partial(plain, match="parameters")),
    "plain_flops": Contender("plain U-Net, as many FLOPs", partial(plain, match="flops")),
    "segmenter": Contender("segmenter", segmenter),
    "segmenter_flips": Contender("segmenter, all flips", segmenter_flips),
    "segmenter_ensemble": Contender(f"ensemble of {PASSES} segmenters", segmenter_ensemble),
    "fast_ddpm": Contender("Fast-DDPM, 10 steps", partial(diffusion_unet, chain=fast_chain), 10),
    "ddim": Contender("DDIM, 50 steps", partial(diffusion_unet, chain=ddim_chain), 10),
    "paper": Contender("PD-DDPM's recipe, 300 steps", paper, 20),
    "ddpm": Contender("DDPM, 1000 steps", partial(diffusion_unet, chain=vanilla_chain), 20),
}
