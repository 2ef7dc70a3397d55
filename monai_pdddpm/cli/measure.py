"""Time and memory of training and inference with a new bundle, measured on noise."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import Dataset, MetaTensor
from monai.networks import one_hot
from monai.transforms import Compose

from monai_pdddpm.cli.memory import GIB
from monai_pdddpm.cli.preprocessing_rules import Choice, by
from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.utils.errors import UserError

MEASURED_VOXELS = 1_000_000  # of a scan of noise, which takes half a minute on a CPU


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


def inference_memory(configs: Mapping[str, Any], shape: Sequence[int], spacing: Sequence[float]) -> Choice:
    """Measure the peak memory of inference on a scan of noise, by networks that are uncertain everywhere.

    It is linear in the number of voxels, so that of a large scan follows from two smaller ones. It grows a little over
    the first cases, so a small scan is segmented four times. The segmenter is not run: pre-segmentations are given.

    Args:
        configs: file name -> rendered configuration.
        shape: of a scan, (X, Y, Z).
        spacing: its voxel size in mm.
    """
    size, share = math.prod(shape), min(1.0, (MEASURED_VOXELS / math.prod(shape)) ** (1 / 3))
    shapes = [shape] * 4 if share == 1 else [[round(n * share * s) for n in shape] for s in (0.5 ** (1 / 3), 1)]
    peaks = measure_inference(configs, shapes, spacing)
    peak, reason = peaks[-1], "measured on noise, by networks that are uncertain everywhere"
    if share < 1:
        first, last = map(math.prod, shapes)
        peak += (peaks[1] - peaks[0]) / (last - first) * (size - last)
        reason += f"; extrapolated from scans of {by(shapes[0])} and {by(shapes[1])}"
    text = f"peak memory {peak / GIB:.2g} GiB for the largest scan, {by(shape)} voxels"
    return Choice("inference", round(peak), text, reason)


def measure_inference(
    configs: Mapping[str, Any], shapes: Sequence[Sequence[int]], spacing: Sequence[float]
) -> list[float]:
    """Return the peak memory in bytes of a process that segments scans of noise, after each of them.

    Args:
        configs: file name -> rendered configuration.
        shapes: of the scans, (X, Y, Z) each, the smallest first.
        spacing: their voxel size in mm.

    Raises:
        UserError: if the scans cannot be segmented.
    """
    config, noise = configs["inference.json"], np.random.default_rng(0)
    channels = () if config["scan"]["fourth_dimension"] == "time" else (config["scan"]["channels"],)
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        for folder in ("configs", "models", "scans", "presegmentations"):
            (root / folder).mkdir()
        for name, content in configs.items():
            (root / "configs" / name).write_text(json.dumps(content), encoding="utf-8")
        network = ConfigParser(dict(config)).get_parsed_content("network_def")
        zeros = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
        torch.save(zeros, root / "models" / "model.pt")  # every label is as likely in every voxel
        for number, shape in enumerate(shapes):
            scan = noise.normal(100, 20, (*shape, *channels)).astype(np.float32)
            classes = np.zeros(shape, dtype=int)
            for index in range(1, labels := len(config["labels"])):  # cubes, one inside the other
                box = tuple(slice(n // 4 + index * n // 2 // labels, n - n // 4) for n in shape)
                classes[box] = index
            likely = 0.5 * np.eye(labels, dtype=np.float32)[classes] + np.float32(0.5 / labels)
            drawn = {"scans": scan, "presegmentations": likely}
            for folder, voxels in drawn.items():
                image = nib.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
                nib.save(image, root / folder / f"scan_{number}.nii.gz")
        settings = {"bundle_root": root, "dataset_dir": root / "scans", "num_steps": 1, "inferer#overlap": 0.0}
        settings["presegmentation_dir"] = root / "presegmentations"
        words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        command = ["-m", "monai.bundle", "run", "inference", "--config_file", str(root / "configs" / "inference.json")]
        done = subprocess.run([sys.executable, *command, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"inference: found an error on noise, expected maps ({done.stderr.strip()[-300:]})")
        reports = [root / "output" / f"scan_{n}" / f"scan_{n}_report.json" for n in range(len(shapes))]
        return [json.loads(file.read_text(encoding="utf-8"))["peak_memory_mib"] * 2.0**20 for file in reports]


def measure_step(config: Mapping[str, Any], shape: tuple[int, ...]) -> StepCost:
    """Let the trainer of a stage train three batches of scans of noise, with its own augmentation.

    Args:
        config: rendered ``train_segmenter.json`` or ``train.json``.
        shape: of a prepared scan, (C, X, Y, Z).
    """
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
