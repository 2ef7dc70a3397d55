"""What do whole volumes cost, and do their windows show in the answer?

    python benchmarks/volume/volume.py                                        # cost, memory, seams on a phantom
    python benchmarks/volume/volume.py --parts case --dataset_dir <data> --bundle <bundle>

`cost` compares active windows with all windows, `memory` ensembles of different sizes, `seams` measures traces of the
windows, `case` compares settings of the active windows on labeled scans.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.volume import seams as traces  # noqa: E402
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.data import labelled_cases  # noqa: E402
from monai_pdddpm.data.phantom_distribution import CLASS_MEANS, NOISE_SD, Phantom, make_phantom_scan  # noqa: E402
from monai_pdddpm.inferers.stopwatch import Stopwatch  # noqa: E402
from monai_pdddpm.inferers.windows import WindowPlan  # noqa: E402
from monai_pdddpm.metrics.calibration import masked_voxels, near_structure, voxel_metrics  # noqa: E402
from monai_pdddpm.networks import PDDDPM  # noqa: E402
from monai_pdddpm.transforms.case_summary import agreement  # noqa: E402
from monai_pdddpm.utils.errors import UserError, friendly_errors  # noqa: E402

PARTS = ("cost", "memory", "seams", "case")
SIZE, SEAM_SIZE = (256, 256, 192), (96, 112, 80)
PLACE = (0.2, 0.7, 0.6)  # of the scan, as a share of the free space
SEED = 9000  # far from the seeds of the bundle's own scans
THRESHOLD_SD = 40.0  # in units of the image; noise alone leaves no active voxel
ENSEMBLES = ((1, False), (8, False), (64, False), (8, True))  # members, returned
STAGES = ("segment", "noise", "encode", "chain", "blend", "statistics")
CASE_SETTINGS: tuple[dict[str, Any], ...] = (
    {"windows": "all"},
    *({"windows": "active", "uncertainty_threshold": threshold, "dilation": 2} for threshold in (0.01, 0.05, 0.2)),
    *({"windows": "active", "uncertainty_threshold": 0.05, "dilation": dilation} for dilation in (0, 6)),
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A phantom scan in a large field of background: float32 image (X, Y, Z), and the scan."""

    image: NDArray[Any]
    scan: Phantom

    def normalized(self, value: Any) -> Any:
        """Return intensities in units of the scan alone, as the networks were trained on."""
        return (value - float(self.scan.image.mean())) / float(self.scan.image.std())

    def tensor(self) -> torch.Tensor:
        """Return the input of a network, (1, 1, X, Y, Z)."""
        return torch.as_tensor(self.normalized(self.image), dtype=torch.float32)[None, None]


class Thresholds(nn.Module):
    """A segmenter that compares each voxel with the classes' means, certain in empty windows.

    The phantom bundle's own segmenter is uncertain in empty windows, so that hardly one could be skipped.

    Args:
        segmenter: runs as well, for its time.
        means: intensity of each class.
        sd: standard deviation of the intensities.
    """

    def __init__(self, segmenter: nn.Module, means: Sequence[float], sd: float) -> None:
        super().__init__()
        self.segmenter, self.means, self.sd = segmenter, list(means), sd

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, 1, ...)."""
        self.segmenter(image)
        return torch.cat([-(((image - mean) / self.sd) ** 2) / 2 for mean in self.means], dim=1)


def make_volume(size: Sequence[int], seed: int = SEED) -> Volume:
    """Make a field of background with one phantom scan in it.

    Raises:
        UserError: if the scan does not fit.
    """
    scan = make_phantom_scan(seed=seed)
    free = [n - s for n, s in zip(size, scan.image.shape, strict=True)]
    if min(free) < 0:
        raise UserError(f"size: found {list(size)}, expected at least {list(scan.image.shape)}; give a larger --size")
    corner = [round(share * r) for share, r in zip(PLACE, free, strict=True)]
    image = np.random.default_rng(seed).standard_normal(tuple(size), dtype=np.float32) * NOISE_SD + CLASS_MEANS[0]
    image[tuple(slice(c, c + n) for c, n in zip(corner, scan.image.shape, strict=True))] = scan.image
    return Volume(image.astype(np.float32), scan)


def phantom_pair(volume: Volume | None = None) -> PDDDPM:
    """Return the phantom bundle's networks, for a volume with `Thresholds` as segmenter."""
    network = common.load_pair(common.read_bundle(common.PHANTOM))
    if volume is not None:
        sd = THRESHOLD_SD / float(volume.scan.image.std())
        network.segmenter = Thresholds(network.segmenter, [volume.normalized(m) for m in CLASS_MEANS], sd)
    return network


def run(bundle: Path, network: nn.Module, image: torch.Tensor, overrides: Mapping[str, Any]) -> tuple[Any, dict]:
    """Return the parts of a bundle's output for an image, and its run with the total seconds."""
    inferer = common.make_inferer(common.read_bundle(bundle, {"inferer::return_members": False, **overrides}))
    watch = Stopwatch(image.device)
    with watch("total"):
        parts, info = common.run_inferer(inferer, network, image)
    report = info.as_report()
    return parts, report | {"seconds": {**dict.fromkeys(STAGES, 0.0), **report["seconds"], **watch.seconds}}


def cost(size: Sequence[int], members: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Compare active windows with all windows: seconds of each stage, and the difference of the answers."""
    volume = make_volume(size)
    image, network, lines = volume.tensor(), phantom_pair(volume), []
    reference = torch.empty(0)
    for windows in ("all", "active"):
        parts, info = run(common.PHANTOM, network, image, {"members": members, "num_steps": steps, "windows": windows})
        mean = parts["pred"].clone()
        reference = reference if lines else mean
        lines.append(
            {
                "windows": windows,
                "windows_run": info["windows_run"],
                "windows_skipped": info["windows_skipped"],
                "seconds": info["seconds"],
                "largest_difference": float((mean - reference).abs().max()),
                "dice": agreement(mean.argmax(0)[None], reference.argmax(0), range(1, len(mean))),
            }
        )
    head = ["windows", "run", "skipped", *(f"{s} s" for s in STAGES), "total s", "times faster", "largest difference"]
    rows = [
        [x["windows"], x["windows_run"], x["windows_skipped"]]
        + [f"{x['seconds'][s]:.2f}" for s in (*STAGES, "total")]
        + [f"{lines[0]['seconds']['total'] / x['seconds']['total']:.2f}"]
        + [f"{x['largest_difference']:.3g}", f"{x['dice']:.4f}"]
        for x in lines
    ]
    text = common.table([*head, "Dice"], rows)
    text += f"\n\n{members} members, {steps} steps, {' x '.join(map(str, size))} voxels."
    common.write_results(folder, "results_cost", {"size": list(size), "rows": lines, **common.stamp()}, text)
    return lines


def memory_job(size: Sequence[int], members: int, steps: int, returned: bool, device: str = "cpu") -> dict[str, Any]:
    """Segment the volume in this process and return its memory in MiB."""
    volume = make_volume(size)
    image, network = volume.tensor(), phantom_pair(volume)
    start_mib = common.status_mib("VmRSS") or common.peak_mib()
    parts, info = run(
        common.PHANTOM, network, image, {"members": members, "num_steps": steps, "inferer::return_members": returned}
    )
    output = sum(part.numel() * part.element_size() for part in parts.values()) / 2**20
    figures = common.memory_of(start_mib, torch.device(device))
    return figures | {"output_mib": output, "windows_run": info["windows_run"], "seconds": info["seconds"]["total"]}


def memory(size: Sequence[int], steps: int, folder: Path, work: Path) -> list[dict[str, Any]]:
    """Measure the memory of ensembles, each in a process of its own."""
    lines = []
    for members, returned in ENSEMBLES:
        job = {"size": list(size), "members": members, "steps": steps, "returned": returned, "device": "cpu"}
        name = f"memory_{members}{'_returned' if returned else ''}"
        lines.append(job | common.measured(Path(__file__), name, job, work))
    head = ["members", "returned", "peak MiB (growth)", "output MiB", "s"]
    rows = [
        [
            x["members"],
            "yes" if x["returned"] else "no",
            common.memory_cell(x),
            f"{x['output_mib']:.0f}",
            f"{x['seconds']:.1f}",
        ]
        for x in lines
    ]
    text = f"{common.table(head, rows)}\n\n{steps} steps, {' x '.join(map(str, size))} voxels."
    common.write_results(folder, "results_memory", {"rows": lines}, text)
    return lines


def seams(size: Sequence[int], overrides: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Measure traces of windows in mean and variance, beside answers without windows and with known traces."""
    scan = make_phantom_scan(seed=SEED, size=tuple(size))
    image = torch.as_tensor((scan.image - scan.image.mean()) / scan.image.std())[None, None]
    known = torch.as_tensor(scan.probability)
    label, law, network = known.argmax(0), (known * (1 - known))[1:], phantom_pair()
    settings = {**overrides, "windows": "all"}
    one, _ = run(common.PHANTOM, network, image, {**settings, "roi_size": list(size)})
    shared, _ = run(common.PHANTOM, network, image, settings)
    config = common.make_inferer(common.read_bundle(common.PHANTOM, settings)).config
    own = {
        mode: traces.with_own_noise(config, network, image, shared["preseg"], mode) for mode in ("gaussian", "constant")
    }
    answers = {
        "one field of noise": (shared["pred"], shared["variance"]),
        "own noise in each window": own["gaussian"],
        "own noise, constant weights": own["constant"],
        "one window": (one["pred"], one["variance"]),
        "true distribution": (known, law),
    }
    plan = WindowPlan(tuple(size), config.roi_size, config.overlap, config.blend_mode)
    borders, region = traces.window_borders(plan), near_structure(label)
    lines = [
        {
            "name": name,
            "variance": traces.seam_energy(variance.sum(0), borders, region),
            "mean": traces.seam_energy(mean, borders, region),
            "spread_kept": traces.spread_kept(variance.sum(0), law.sum(0), plan, region),
            "dice": agreement(mean.argmax(0)[None], label, range(1, len(known))),
        }
        for name, (mean, variance) in answers.items()
    ]
    head = ["answer", "seam energy of the variance", "of the mean", "spread kept", "Dice"]
    rows = [[x["name"], *(f"{x[k]:.3f}" for k in ("variance", "mean", "spread_kept", "dice"))] for x in lines]
    text = f"{common.table(head, rows)}\n\n{config.members} members, {' x '.join(map(str, size))} voxels."
    common.write_results(folder, "results_seams", {"size": list(size), "borders": borders, "rows": lines}, text)
    shown = {name: answers[name][1].sum(0) for name in itertools.islice(answers, 2)}
    traces.draw_slices(shown, borders, folder / "results_seams.png")
    return lines


def case(args: argparse.Namespace, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare settings of the active windows on labeled scans."""
    parser = common.read_bundle(args.bundle, overrides)
    network = common.load_pair(parser, args.model_file)
    items = common.load_items(parser, labelled_cases(args.dataset_dir, args.section)[: args.cases])
    lines: list[dict[str, Any]] = []
    for settings in CASE_SETTINGS:
        found = {}
        for item in items:
            parts, info = run(args.bundle, network, item["image"], {**overrides, **settings})
            mean, label = parts["pred"], item["label"]
            measured = voxel_metrics(*masked_voxels(mean, label, near_structure(label)))
            found[item["case"]] = {
                "dice": agreement(mean.argmax(0)[None], label, range(1, len(mean))),
                **{name: measured[name] for name in ("ece", "nll")},
                **{name: info[name] for name in ("windows_run", "windows_skipped")},
                "seconds": info["seconds"]["total"],
            }
        means = {name: float(np.mean([f[name] for f in found.values()])) for name in next(iter(found.values()))}
        lines.append({"settings": settings, "cases": found, "mean": means})
    columns = ("dice", "ece", "nll", "seconds", "windows_run", "windows_skipped")
    keys = ("windows", "uncertainty_threshold", "dilation")
    rows = [[x["settings"].get(key, "-") for key in keys] + [f"{x['mean'][c]:.4g}" for c in columns] for x in lines]
    text = f"{common.table([*keys, *columns], rows)}\n\n{args.bundle.name}, means over {len(items)} cases."
    common.write_results(args.output_dir, "results_case", {"bundle": args.bundle.name, "rows": lines}, text)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the requested parts."""
    friendly_errors(force=True)
    keep_freed_memory()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3])
    options.add_argument("--size", type=int, nargs=3, default=SIZE, help="volume of cost and memory, voxels")
    options.add_argument("--members", type=int, default=2, help="members of cost")
    options.add_argument("--num_steps", type=int, default=2, help="steps of cost and memory")
    options.add_argument("--dataset_dir", type=Path, help="labeled scans of case")
    options.add_argument("--bundle", type=Path, default=common.PHANTOM, help="bundle of case")
    options.add_argument("--model_file", type=Path, help="weights of case, by default the bundle's")
    options.add_argument("--section", default="validation", help="section of the data set of case")
    options.add_argument("--cases", type=int, default=1, help="number of scans of case")
    options.add_argument("--overrides", type=json.loads, default={}, help="changes of inference.json, JSON")
    options.add_argument("--work", type=Path, default=common.ROOT / "runs" / "volume", help="folder of measurements")
    options.add_argument("--output_dir", type=Path, default=HERE, help="folder of results")
    options.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options.add_argument("--job_file", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.job:
        common.write_json(args.job_file, memory_job(**args.job))
        return
    if "case" in args.parts and not args.dataset_dir:
        raise UserError("dataset_dir: found none, expected a folder of labeled scans for case; give --dataset_dir")
    if "cost" in args.parts:
        cost(args.size, args.members, args.num_steps, args.output_dir)
    if "memory" in args.parts:
        memory(args.size, args.num_steps, args.output_dir, args.work)
    if "seams" in args.parts:
        seams(SEAM_SIZE, args.overrides, args.output_dir)
    if "case" in args.parts:
        case(args, args.overrides)


if __name__ == "__main__":
    main()
