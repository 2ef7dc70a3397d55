"""Time and memory of the training of a new bundle, measured on a few batches of noise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset, MetaTensor
from monai.networks import one_hot
from monai.transforms import Compose

from monai_pdddpm.cli.memory import GIB
from monai_pdddpm.cli.preprocessing_rules import Choice
from monai_pdddpm.inferers import DenoisingInferer


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step: seconds, and the peak of the memory in bytes (of the GPU, or of this process)."""

    seconds: float
    peak: float


def expected_time(configs: Mapping[str, Any], values: Mapping[str, Any], cases: int) -> Choice:
    """Measure both stages of a new bundle on this computer.

    Args:
        configs: file name -> rendered configuration.
        values: of the plan.
        cases: number of training cases.

    Returns:
        The expected hours of all stages, with the peak of the memory without the cached cases.
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


def measure_step(config: Mapping[str, Any], shape: tuple[int, ...]) -> StepCost:
    """Let the trainer of a stage train three batches of scans of noise, with its own augmentation.

    Args:
        config: rendered ``train_segmenter.json`` or ``train.json``.
        shape: of a prepared scan, (C, X, Y, Z).
    """
    parser, batch = ConfigParser(dict(config)), int(config["batch_size"])
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
    _reset_peak(trainer.state.device)
    for steps in (most, most, least):  # the first is not counted
        if denoising:
            denoising.solver_steps = (steps,)
        start = time.perf_counter()
        trainer.run()
        seconds.append(time.perf_counter() - start)
    share = (sum(solver_steps) / len(solver_steps) - least) / (most - least) if most > least else 0.5
    return StepCost(seconds[2] + share * (seconds[1] - seconds[2]), _peak(trainer.state.device))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")  # Linux: forget the peak of the resident memory


def _peak(device: torch.device) -> float:
    """Return bytes; NaN where the system does not count them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), float("nan"))
