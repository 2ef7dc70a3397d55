"""Time and memory of the training of a new bundle, measured on a few batches of noise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

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
    """Train three steps of a stage, with its own augmentation, on scans of noise.

    Args:
        config: rendered ``train_segmenter.json`` or ``train.json``.
        shape: of a prepared scan, (C, X, Y, Z).
    """
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    parser = ConfigParser(dict(config) | {"imports": ["$import monai_pdddpm"], "bundle_root": "."})
    network = parser.get_parsed_content("network_def").to(device)
    loss, batch = parser.get_parsed_content("loss"), int(config["batch_size"])
    augment, inferer = (parser.get_parsed_content(f"train::{key}") for key in ("random_transforms", "inferer"))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    solver_steps = inferer.solver_steps if isinstance(inferer, DenoisingInferer) else (0,)
    most, least = max(solver_steps), min(solver_steps)
    _reset_peak(device)
    seconds = []
    for steps in (most, most, least):  # the first is not counted
        given: dict[str, Any] = {}
        start = time.perf_counter()
        items = [_augmented(augment, shape) for _ in range(batch)]
        image, label = (torch.stack([item[key].as_tensor() for item in items]).to(device) for key in ("image", "label"))
        if isinstance(inferer, DenoisingInferer):
            inferer.solver_steps, given = (steps,), {"label": label}
        loss(inferer(image, network, **given), label).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    share = (sum(solver_steps) / len(solver_steps) - least) / (most - least) if most > least else 0.5
    return StepCost(seconds[2] + share * (seconds[1] - seconds[2]), _peak(device))


def _augmented(transforms: list[Any], shape: tuple[int, ...]) -> Any:
    """Return a window of a scan of noise, (C, X, Y, Z), with a cube as its label."""
    label = torch.zeros(1, *shape[1:])
    label[(slice(None), *(slice(size // 3, 1 + 2 * size // 3) for size in shape[1:]))] = 1
    item: Any = {"image": MetaTensor(torch.randn(*shape)), "label": MetaTensor(label)}
    for transform in transforms:
        item = transform(item)
        item = item[0] if isinstance(item, list) else item
    return item


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
