"""Time and memory of training and inference with a new bundle, measured on noise."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset, MetaTensor
from monai.networks import one_hot
from monai.transforms import Compose

from monai_pdddpm.cli.memory import GIB, LIBRARIES
from monai_pdddpm.cli.preprocessing_rules import Choice, by
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.inferers import DenoisingInferer, EnsembleConfig, PDDDPMInferer
from monai_pdddpm.inferers.device_memory import members_at_once
from monai_pdddpm.utils.memory import LARGEST_KEPT, forget_peak, keep_freed_memory, peak_memory


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step: seconds, and the peak of the memory in bytes (of the GPU, or of this process)."""

    seconds: float
    peak: float


def expected_time(configs: Mapping[str, Any], values: Mapping[str, Any], cases: int) -> Choice:
    """Return the hours of all stages on this computer, and the peak of the memory without the cached cases.

    ``configs`` are the rendered ones by file name, ``values`` those of the plan.
    """
    files = [file for file in ("train_segmenter.json", "train.json") if file in configs]
    shape = (int(values["channels"]), *(size + 8 for size in values["roi_size"]))
    costs = [measure_step(configs[file], shape) for file in files]
    steps = values["epochs"] * max(1, (values["epoch_windows"] or cases) // values["batch_size"])
    hours = [cost.seconds * steps / 3600 for cost in costs]
    peak = max(cost.peak for cost in costs) / GIB
    each = " + ".join(f"{cost.seconds:.2g} s" for cost in costs)
    text = f"about {sum(hours):.2g} hours on this computer, peak memory {peak:.2g} GiB and the cached cases"
    return Choice("time", round(sum(hours), 3), text, f"measured: {each} a step, {steps} steps in each stage")


def inference_memory(config: Mapping[str, Any], shape: Sequence[int], spacing: Sequence[float], frames: int) -> Choice:
    """Estimate the peak memory of inference on a scan that is uncertain everywhere.

    The networks are measured in one window; the arrays of the size of a volume are counted.

    Args:
        config: rendered ``inference.json``.
        shape: of the scan, (X, Y, Z).
        spacing: its voxel size in mm.
        frames: of a time series, else 1.
    """
    parser, voxels = ConfigParser(copy.deepcopy(dict(config))), math.prod(shape)
    resampled = voxels * math.prod(spacing) / math.prod(config.get("spacing") or spacing)
    settings: EnsembleConfig = parser.get_parsed_content("inferer").config
    device = torch.device(parser.get_parsed_content("device"))
    classes, channels = len(config["labels"]), config["scan"]["channels"]
    at_once = members_at_once(settings, round(12 * classes * resampled), device)
    peak = _window_peak(parser, replace(settings, members=at_once))
    held = frames * (channels * voxels + (2 * channels + 2 + classes * (4 + settings.members)) * resampled)
    drawing = (3 * classes + 5 + 3 * classes * at_once) * resampled  # statistics, weights, members in work
    maps = frames * (8 * classes + 2 + settings.members / 4) * voxels
    kept = 4 * classes * voxels <= LARGEST_KEPT  # freed arrays stay with the process, and saving needs new ones
    saving = frames * (4 * classes + 2) * voxels if kept else 0
    peak += 4 * (held + max(drawing, maps) + saving)
    text = f"peak memory {peak / GIB:.2g} GiB for the largest scan, {by(shape)} voxels"
    return Choice("inference", round(peak), text, f"the networks measured in a window, {at_once} members at once")


def _window_peak(parser: ConfigParser, settings: EnsembleConfig) -> float:
    """Return the peak memory in bytes when the parts of a bundle draw members in one window of noise."""
    parser.update({"cases": [], "data": [], "network": "$@network_def.to(@device).eval()"})
    evaluator: CaseEvaluator = parser.get_parsed_content("evaluator")
    network: Any = evaluator.network
    image = torch.randn(1, parser["scan"]["channels"], *settings.roi_size, device=evaluator.state.device)
    given = torch.eye(len(parser["labels"])).to(image)[:1, :, None, None, None].expand(1, -1, *settings.roi_size)
    keep_freed_memory()
    forget_peak(image.device)
    inferer = PDDDPMInferer(**vars(replace(settings, windows="all", fourth_dimension="channel")))
    inferer(image, network, presegmentation=given if parser["presegmentation_dir"] else None)
    return peak_memory(image.device) or LIBRARIES


def measure_step(config: Mapping[str, Any], shape: tuple[int, ...]) -> StepCost:
    """Let the trainer of a stage train three batches of prepared scans of noise, (C, X, Y, Z), with augmentation."""
    parser, batch = ConfigParser(copy.deepcopy(dict(config))), int(config["batch_size"])
    label = torch.zeros(1, *shape[1:])
    label[(slice(None), *(slice(size // 3, 1 + 2 * size // 3) for size in shape[1:]))] = 1
    item = {"image": MetaTensor(torch.randn(*shape)), "label": MetaTensor(label)}
    if config.get("presegmentation_dir"):
        item["presegmentation"] = MetaTensor(one_hot(label, len(config["labels"]), dim=0))
    augment = Compose(parser.get_parsed_content("train::random_transforms"))
    parser.update({"network": "$@network_def.to(@device)", "max_epochs": 1, "train::handlers": []})
    parser["train::dataset"] = Dataset([item] * batch, augment)
    parser["train::dataloader"] = {"_target_": "DataLoader", "dataset": "@train::dataset", "batch_size": batch}
    trainer = parser.get_parsed_content("train::trainer")
    denoising = trainer.inferer if isinstance(trainer.inferer, DenoisingInferer) else None
    solver_steps = denoising.solver_steps if denoising else (0,)
    most, least, seconds = max(solver_steps), min(solver_steps), []
    forget_peak(trainer.state.device)
    for steps in (most, most, least):  # the first is not counted
        if denoising:
            denoising.solver_steps = (steps,)
        start = time.perf_counter()
        trainer.run()
        seconds.append(time.perf_counter() - start)
    share = (sum(solver_steps) / len(solver_steps) - least) / (most - least) if most > least else 0.5
    return StepCost(seconds[2] + share * (seconds[1] - seconds[2]), peak_memory(trainer.state.device) or math.nan)
