"""The contenders: each a function that gives, for a task, a network and the inferer that asks it.

All are asked through one pipeline, so that reading, windows, statistics and files are the same for everyone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.networks.nets import DiffusionModelUNet, UNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import nn

from benchmarks.speed.costs import count_flops, denoiser_flops, on_meta, parameters
from benchmarks.speed.rivals import NOISE_STEPS, Concatenated, FromNoise, Passes, Plain, SchedulerChain, Silent
from benchmarks.trust import measuring
from monai_pdddpm.bundle import load_network
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.chain import Chain
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import in_fast_layout, load_segmenter
from monai_pdddpm.schedulers import DDIMRule, uniform_steps
from monai_pdddpm.schedulers.processes import DDPMProcess

PRESET = Path(__file__).resolve().parents[2] / "configs" / "presets" / "pd_ddpm_2022" / "inference.json"
BASELINE_CHANNELS, BASELINE_ATTENTION = (32, 64, 128), (False, False, True)
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


def ours(task: Task, **overrides: Any) -> Entry:
    """Return the bundle as it is shipped, but for overrides."""
    parser = task.parser(overrides)
    network = measuring.pair_of(parser, task.weights or task.model_file, task.device)
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
    parser = task.parser({"windows": "all", "presegmentation_weight": 0.0, "calibrated": False})
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
    network = in_fast_layout(pair.to(task.device).eval(), task.device)
    return Entry(network, inferer, trained=task.weights is not None)


def _with_bundles_segmenter(task: Task, pair: PDDDPM, inferer: Inferer) -> Entry:
    load_segmenter(pair, [str(task.model_file)])  # which windows are run depends on what it says
    return _loaded(task, pair, inferer)


def flops(entry: Entry, parser: ConfigParser) -> dict[str, int]:
    """Return the FLOPs of a contender for one window: ``segment`` (all passes), ``encode``, ``call``."""
    pair, roi = entry.pair, parser["roi_size"]
    classes, channels = len(parser["labels"]), image_channels(parser)
    image = torch.zeros(1, channels, *roi, device="meta")
    asked = on_meta(pair.segmenter)
    found = {"segment": entry.passes * count_flops(lambda: asked(image)), "encode": 0, "call": 0}
    if entry.chain is None:
        return found
    chain, denoiser = entry.chain, pair.denoiser
    solver_steps = chain.solver_steps[0] if chain.solver_steps else 0  # the same at all times here
    return found | denoiser_flops(denoiser, channels, classes, roi, chain.solver, solver_steps)


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
    "ours_rk4": Contender("ours, rk4", partial(with_solver, solver="rk4", num_steps=1)),
    # one Euler step would never ask the network for an acceleration
    "ours_euler": Contender("ours, Euler (2 steps)", partial(with_solver, solver="euler", num_steps=2)),
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
