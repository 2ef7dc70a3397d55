"""The contenders of the speed table: for each a network and the inferer that runs it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from torch import nn

from benchmarks import common
from benchmarks.speed import rivals
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import in_fast_layout, load_segmenter

PRESET = common.ROOT / "configs" / "presets" / "pd_ddpm_2022" / "inference.json"
PASSES = 8


@dataclass(frozen=True)
class Task:
    """Settings that all contenders share: bundle, device, and overrides of its `inference.json`."""

    bundle: Path
    device: str = "cpu"
    overrides: Mapping[str, Any] | None = None

    def parser(self, **overrides: Any) -> ConfigParser:
        """Read the bundle with overrides, the task's own last."""
        return common.read_bundle(self.bundle, {**overrides, **(self.overrides or {})}, self.device)


@dataclass
class Entry:
    """A contender that is ready to run: network, inferer, whether it is trained, segmenter calls per window."""

    network: nn.Module
    inferer: Inferer
    trained: bool = True
    passes: int = 1

    @property
    def pair(self) -> PDDDPM:
        """The pair, or the first of several."""
        first = self.network[0] if isinstance(self.network, nn.ModuleList) else self.network
        assert isinstance(first, PDDDPM)
        return first

    @property
    def chain(self) -> Any:
        """The reverse chain, None if there is none."""
        chain = self.inferer.chain if isinstance(self.inferer, PDDDPMInferer) else None
        return chain if chain is not None and chain.time_steps else None


def ours(task: Task, **overrides: Any) -> Entry:
    """Build the bundle as it is shipped, with overrides."""
    parser = task.parser(**overrides)
    return Entry(common.load_pair(parser), common.make_inferer(parser))


def paper(task: Task) -> Entry:
    """Build the recipe of the PD-DDPM paper: every step from T' = 300, noise predicted, untrained here."""
    preset = json.loads(PRESET.read_text(encoding="utf-8"))
    parser = task.parser(**{**preset, "members": task.parser()["members"]})
    return _untrained(task, parser.get_parsed_content("network_def"), common.make_inferer(parser))


def diffusion(task: Task, chain: Callable[[], Any]) -> Entry:
    """Build ordinary conditional diffusion with MONAI's network, which sees the image and no pre-segmentation."""
    parser = task.parser(windows="all", presegmentation_weight=0.0)
    classes, channels = len(parser["labels"]), common.image_channels(parser)
    pair, inferer = rivals.diffusion_unet(len(parser["roi_size"]), channels, classes), common.make_inferer(parser)
    inferer.chain, pair.scheduler = chain()
    return Entry(in_fast_layout(pair.to(task.device).eval(), task.device), inferer, trained=False)


def segmenter(task: Task) -> Entry:
    """Build the bundle's segmenter in the bundle's own windows."""
    entry = ours(task, time_steps=[], members=1)
    entry.pair.denoiser = nn.Identity()
    return entry


def passes(task: Task, passes: int = 1, flips: bool = False, copies: int = 1, dropout: bool = False) -> Entry:
    """Build the segmenter in MONAI's windows: once, with all flips or dropout, or copies for an ensemble's time."""
    alone = segmenter(task).pair
    networks = nn.ModuleList([copy.deepcopy(alone) for _ in range(copies)])
    for module in networks[1:].modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.reset_parameters()
    if dropout:
        rivals.with_dropout(networks[0])  # type: ignore[arg-type]
    axes = rivals.all_flips(len(task.parser()["roi_size"])) if flips else [()] * passes
    inferer = rivals.SegmenterPasses(common.make_inferer(task.parser()).config, axes)
    return Entry(networks, inferer, trained=copies == 1, passes=copies * len(axes))


def _untrained(task: Task, pair: PDDDPM, inferer: Inferer) -> Entry:
    # The segmenter decides which windows run, so it has its weights.
    load_segmenter(pair, [str(task.bundle / "models" / "model.pt")])
    return Entry(in_fast_layout(pair.to(task.device).eval(), task.device), inferer, trained=False)


@dataclass(frozen=True)
class Contender:
    """A row of the table: title, builder, steps of the chain timed over all cases together (0 for all)."""

    title: str
    build: Callable[[Task], Entry]
    timed_steps: int = 0


CONTENDERS = {
    "ours": Contender("ours", ours),
    "ours_float32": Contender("ours, float32", partial(ours, precision="float32")),
    "ours_one": Contender("ours, 1 member", partial(ours, members=1)),
    "segmenter": Contender("segmenter", segmenter),
    "monai_windows": Contender("segmenter, MONAI's SlidingWindowInferer", passes),
    "segmenter_flips": Contender("segmenter, all flips", partial(passes, flips=True)),
    "mc_dropout": Contender(f"segmenter, MC dropout, {PASSES} passes", partial(passes, passes=PASSES, dropout=True)),
    "segmenter_ensemble": Contender(f"deep ensemble of {PASSES} segmenters", partial(passes, copies=PASSES)),
    "fast_ddpm": Contender("Fast-DDPM, 10 steps", partial(diffusion, chain=rivals.fast_chain), 5),
    "paper": Contender("PD-DDPM's recipe, 300 steps", paper, 20),
    "ddpm": Contender("DDPM, 1000 steps", partial(diffusion, chain=rivals.vanilla_chain), 5),
}


def flops(entry: Entry, parser: ConfigParser) -> dict[str, int]:
    """Return the FLOPs for one window: `segment` (all passes), `encode`, `call`."""
    roi, classes, channels = parser["roi_size"], len(parser["labels"]), common.image_channels(parser)
    image, network = torch.zeros(1, channels, *roi, device="meta"), rivals.on_meta(entry.pair.segmenter)
    found = {"segment": entry.passes * rivals.count_flops(lambda: network(image)), "encode": 0, "call": 0}
    if entry.chain is None:
        return found
    solver_steps = entry.chain.solver_steps[0] if entry.chain.solver_steps else 0
    return found | rivals.denoiser_flops(entry.pair.denoiser, channels, classes, roi, entry.chain.solver, solver_steps)
