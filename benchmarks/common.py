"""Helpers of all benchmarks: bundles, labeled scans, processes of their own, tables and results."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage, ResampleToMatch

from monai_pdddpm.bundle import keep_freed_memory, pick_device
from monai_pdddpm.data import case_name
from monai_pdddpm.data.case import Case
from monai_pdddpm.inferers import EnsembleConfig, EnsembleOutput, EnsembleRunInfo, PDDDPMInferer
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import load_network

ROOT = Path(__file__).resolve().parents[1]
PHANTOM, HIPPOCAMPUS = (ROOT / "bundles" / f"{name}_segmentation" for name in ("phantom", "hippocampus_mri"))
Item = dict[str, Any]


def read_bundle(bundle: Path, overrides: Mapping[str, Any] | None = None, device: str = "cpu") -> ConfigParser:
    """Read a bundle's `inference.json` with overrides, without a progress bar.

    An override of a field of `EnsembleConfig` that is no key of the configuration changes the inferer.
    """
    parser, known = ConfigParser(), {field.name for field in fields(EnsembleConfig)}
    parser.read_config(bundle / "configs" / "inference.json")
    changes = {"bundle_root": str(bundle), "device": device, "progress": False, **(overrides or {})}
    for key, value in changes.items():
        name = key.partition("::")[0]
        parser[f"inferer::{key}" if name in known and name not in parser else key] = value
    return parser


def load_pair(parser: ConfigParser, model_file: Path | None = None) -> PDDDPM:
    """Build the segmenter and denoiser of a bundle and load their weights, by default the bundle's own."""
    file = model_file or Path(parser["bundle_root"]) / "models" / "model.pt"
    network = load_network(parser.get_parsed_content("network_def"), file, parser["device"])
    assert isinstance(network, PDDDPM)
    return network


def make_inferer(parser: ConfigParser) -> PDDDPMInferer:
    """Build the inferer of a bundle."""
    inferer = parser.get_parsed_content("inferer")
    assert isinstance(inferer, PDDDPMInferer)
    return inferer


def run_inferer(
    inferer: PDDDPMInferer, network: torch.nn.Module, image: torch.Tensor, presegmentation: torch.Tensor | None = None
) -> tuple[dict[str, torch.Tensor], EnsembleRunInfo]:
    """Return the parts of the output for an image (1, C, ...) and its run; `members` is (N, K, ...) if returned.

    The case is named after the image's voxels, so that different images have different noise, as cases in use have.
    """
    name = hashlib.sha256(image.flatten()[:: max(1, image.numel() // 2**16)].cpu().numpy().tobytes()).hexdigest()
    output = inferer(MetaTensor(image, meta={"case": Case(name, ())}), network, presegmentation=presegmentation)
    assert isinstance(output, MetaTensor)
    members = inferer.config.members if inferer.config.return_members else 0
    classes = output.shape[1] // (4 + members)
    parts = EnsembleOutput(classes, members).split(output.as_tensor()[0])
    if members:
        parts["members"] = parts["members"].unflatten(0, (-1, classes))
    return parts, output.meta["ensemble_run"][0]


def image_channels(parser: ConfigParser) -> int:
    """Return the number of image channels that the networks take."""
    return parser.get_parsed_content("network_def").denoiser.image_channels


def read_truth(case: Mapping[str, Any]) -> torch.Tensor:
    """Read a true label map (1, X, Y, Z) with its affine."""
    return LoadImage(image_only=True, ensure_channel_first=True)(case["label"])


def load_items(parser: ConfigParser, cases: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Read and preprocess labeled cases.

    Each has `case`, `image` (1, C, ...), `label` (...) on its grid, `voxel_ml`, and `presegmentation` (1, K, ...), None
    without the bundle's `presegmentation_dir`.
    """
    preprocessing, items = parser.get_parsed_content("preprocessing"), []
    for case in cases:
        read = preprocessing({"image": case["image"]})
        image, given = read["image"], read.get("presegmentation")
        label = ResampleToMatch(mode="nearest", padding_mode="zeros")(read_truth(case), img_dst=image)
        items.append(
            {
                "case": case_name(case["image"]),
                "image": image.as_tensor()[None].float().to(parser["device"]),
                "presegmentation": None if given is None else given[None].to(parser["device"]),
                "label": label.as_tensor()[0].round().long(),
                "voxel_ml": float(np.abs(np.linalg.det(np.asarray(image.affine)[:3, :3]))) / 1000,
            }
        )
    return items


def measured(
    measure: Callable[..., dict[str, Any]], name: str, job: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Return `measure(**job)` and memory, of a process of its own, or as kept from the same job on the same machine."""
    path, asked = args.work / f"{name}.json", {**job, "machine": machine(job["device"])}
    if path.is_file() and not args.again:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            return kept
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        row = process.submit(_with_memory, measure, job).result()
    write_json(path, {"asked": asked, **stamp(), **row})
    return json.loads(path.read_text(encoding="utf-8"))


def _with_memory(measure: Callable[..., dict[str, Any]], job: Mapping[str, Any]) -> dict[str, Any]:
    keep_freed_memory()
    torch.manual_seed(0)
    start_mib = status_mib("VmRSS") or peak_mib()
    row = measure(**job)
    return memory_of(start_mib, torch.device(job["device"])) | row


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine that a measurement depends on."""
    chosen = torch.device(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU",
        "processor": f"{next(named, None) or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def stamp() -> dict[str, Any]:
    """Return the time and the repository's commit, None outside of a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return {"at": time.strftime("%Y-%m-%d %H:%M"), "commit": None}
    return {"at": time.strftime("%Y-%m-%d %H:%M"), "commit": done.stdout.strip() or None}


def status_mib(name: str) -> float | None:
    """Return a line of the process's own status in MiB, None if the system has none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def peak_mib() -> float:
    """Return the largest memory of this process in MiB."""
    # On Linux ru_maxrss of a child starts at the peak of its parent, so the status comes first.
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return status_mib("VmHWM") or largest / (2**20 if sys.platform == "darwin" else 2**10)


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def number(value: float) -> str:
    """Format a number with three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def with_quartiles(value: Mapping[str, float]) -> str:
    """Format a median with its quartiles."""
    return f"{number(value['median'])} [{number(value['low'])}, {number(value['high'])}]"


def memory_cell(row: Mapping[str, Any]) -> str:
    """Format the peak memory: of the GPU, or of the process with its growth since the imports."""
    if row["gpu_peak_mib"] is not None:
        return f"{row['gpu_peak_mib']:.0f}"
    return f"{row['peak_mib']:.0f} (+{row['peak_mib'] - row['start_mib']:.0f})"


def memory_of(start_mib: float, device: torch.device) -> dict[str, Any]:
    """Return the memory figures of this process in MiB."""
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"start_mib": start_mib, "peak_mib": peak_mib(), "gpu_peak_mib": gpu}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_results(folder: Path, name: str, content: Any, text: str) -> None:
    """Print a table; write it as `<name>.md` and the numbers as `<name>.json`."""
    print(f"{text}\n", flush=True)
    write_json(folder / f"{name}.json", content)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")


@contextmanager
def figure(path: Path, *shape: int, **options: Any) -> Iterator[Any]:
    """Yield a figure and its axes, which is written at the end."""
    from matplotlib import pyplot as plt

    drawn, axes = plt.subplots(*shape, layout="constrained", **options)
    yield drawn, axes
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def script_options(script: str, doc: str | None, work: str = "speed") -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts share."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default=str(pick_device()))
    options.add_argument("--work", type=Path, default=ROOT / "runs" / work, help="folder of what is kept")
    options.add_argument("--output_dir", type=Path, default=Path(script).resolve().parent, help="of tables and figures")
    return options


def measuring_options(script: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts with :func:`measured` share."""
    options = script_options(script, doc)
    options.add_argument("--overrides", type=json.loads, default={}, help="changes of inference.json, JSON")
    options.add_argument("--again", action="store_true", help="ignore earlier measurements")
    return options
