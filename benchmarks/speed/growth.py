"""How do time and memory of the inferer grow with members, steps, volume and windows?

    python benchmarks/speed/growth.py --bundle bundles/hippocampus_mri_segmentation
    python benchmarks/speed/growth.py --curves members windows

Images are noise, and no file is read or written. Each point runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.speed import rivals  # noqa: E402
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.inferers.stopwatch import Stopwatch  # noqa: E402
from monai_pdddpm.utils.errors import friendly_errors  # noqa: E402

STAGES = ("segment", "encode", "chain", "total")
MARK, MARK_SIDE = 1000.0, 2  # far above the noise, and with the dilation within one window
SURE = 100.0  # difference of logits of a certain background


@dataclass(frozen=True)
class Curve:
    """One growing quantity: values, a knee that separates lower and upper part, the unit of one more, its title."""

    title: str
    values: tuple[int, ...]
    knee: int
    unit: str


CURVES = {
    "members": Curve("members", (1, 2, 4, 8, 16, 32, 64), 8, "member"),
    "steps": Curve("steps", (1, 2, 3, 5, 10, 20), 5, "step"),
    "volume": Curve("edge of the cube, voxels", (32, 64, 128, 192, 256), 128, "million voxels"),
    "windows": Curve("windows", (1, 2, 4, 8, 16), 4, "window"),
}


class CertainElsewhere(nn.Module):
    """A segmenter that is undecided where the image is marked and certain of background elsewhere.

    Args:
        segmenter: runs as well, for its time.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, C, ...)."""
        logits = torch.zeros_like(self.segmenter(image))
        logits[:, 1:] = torch.where(image[:, :1] > MARK / 2, 0.0, -SURE)
        return logits


def size_of(curve: str, value: int, roi_size: Sequence[int], overlap: float) -> list[int]:
    """Return the size of a point's image: a cube, a row of windows along the first axis, or one window."""
    if curve == "volume":
        return [value] * len(roi_size)
    more = value - 1 if curve == "windows" else 0
    return [roi_size[0] + more * max(1, math.floor(roi_size[0] * (1 - overlap) + 1e-6)), *roi_size[1:]]


def noise_image(channels: int, size: Sequence[int], marked: bool, device: torch.device) -> MetaTensor:
    """Return an image of noise, (1, C, X, Y[, Z]), marked in its middle if requested."""
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    if marked:
        image[(..., *(slice(n // 2, n // 2 + MARK_SIDE) for n in size))] = MARK
    return MetaTensor(image.to(device))


def run_point(
    curve: str, value: int, bundle: str, device: str, overrides: Mapping[str, Any], repeats: int, seconds: float
) -> dict[str, Any]:
    """Measure one point in this process: up to `repeats` runs, none that would probably end after `seconds`."""
    keep_freed_memory()
    start_mib, on = common.status_mib("VmRSS") or common.peak_mib(), torch.device(device)
    # Returned members would grow with their number by definition.
    changes = {"windows": "active" if curve == "volume" else "all", "inferer::return_members": False}
    changes |= {"members": value} if curve == "members" else {"num_steps": value} if curve == "steps" else {}
    parser = common.read_bundle(Path(bundle), {**overrides, **changes}, device)
    network, inferer = common.load_pair(parser), common.make_inferer(parser)
    if curve == "volume":
        network.segmenter, network.logits = CertainElsewhere(network.segmenter), True
    channels, roi, whole = common.image_channels(parser), parser["roi_size"], inferer.chain
    inferer.chain = rivals.first_steps(whole, 1)  # warm-up
    inferer(noise_image(channels, roi, True, on), network)
    inferer.chain = whole
    image = noise_image(channels, size_of(curve, value, roi, inferer.config.overlap), curve == "volume", on)
    runs: list[dict[str, Any]] = []
    taken: list[float] = []
    while len(runs) < repeats and (not runs or sum(taken) + max(taken) <= seconds):
        watch = Stopwatch(on)
        with watch("total"):
            output = inferer(image, network)
        run = output.meta["ensemble_run"][0].as_report()  # type: ignore[attr-defined]
        runs.append(run | {"seconds": {**dict.fromkeys(STAGES, 0.0), **run["seconds"], **watch.seconds}})
        taken.append(watch.seconds["total"])
        del output
    return {
        "curve": curve,
        "value": value,
        "size": list(image.shape[2:]),
        "members": runs[0]["members"],
        "steps": len(runs[0]["time_steps"]),
        **{name: runs[0][name] for name in ("windows_run", "windows_skipped", "denoiser_evaluations")},
        "runs": len(runs),
        "seconds": {stage: common.quartiles([run["seconds"][stage] for run in runs]) for stage in STAGES},
        **common.memory_of(start_mib, on),
        "yardstick_seconds": common.yardstick(on),
    }


def amount(row: Mapping[str, Any]) -> float:
    """Return how many units of its curve a point has."""
    return math.prod(row["size"]) / 1e6 if row["curve"] == "volume" else row["value"]


def slopes(points: Mapping[int, tuple[float, float]], knee: int) -> dict[str, float] | None:
    """Return the seconds of one more unit above and below the knee and their ratio, None for a short curve.

    Args:
        points: {value: (amount, seconds)}, amounts rising.
        knee: one of the values.
    """
    first, last = next(iter(points)), list(points)[-1]
    if knee not in points or knee in (first, last):
        return None
    above, below = (
        (points[high][1] - points[low][1]) / (points[high][0] - points[low][0])
        for low, high in ((knee, last), (first, knee))
    )
    return {"behind": above, "before": below, "ratio": above / below}


def slopes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return the `slopes` of a curve's rows."""
    points = {row["value"]: (amount(row), row["seconds"]["total"]["median"]) for row in rows}
    return slopes(points, CURVES[rows[0]["curve"]].knee)


def curve_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a curve's title, table and slopes."""
    name, found = rows[0]["curve"], slopes_of(rows)
    curve = CURVES[name]
    head = [curve.title, "windows run", "denoiser evaluations", "runs", *(f"{stage} s" for stage in STAGES), "peak MiB"]
    lines = [
        [
            row["value"],
            f"{row['windows_run']} of {row['windows_run'] + row['windows_skipped']}",
            row["denoiser_evaluations"],
            row["runs"],
            *(common.number(row["seconds"][stage]["median"]) for stage in STAGES[:-1]),
            common.with_quartiles(row["seconds"]["total"]),
            common.memory_cell(row),
        ]
        for row in rows
    ]
    text = f"### {name.capitalize()}\n\n{common.table(head, lines)}"
    if found:
        text += (
            f"\n\nOne more {curve.unit} costs {found['behind']:.3g} s from {curve.knee} to {rows[-1]['value']} and "
            f"{found['before']:.3g} s from {rows[0]['value']} to {curve.knee}: {found['ratio']:.2f} times as much."
        )
    return text


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw seconds and memory of each curve on logarithmic scales; the dashed line is linear growth."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(3.6 * len(curves), 3.4), layout="constrained", squeeze=False)
    for axis, (name, rows) in zip(axes[0], curves.items(), strict=True):
        amounts = [amount(row) for row in rows]
        seconds = [row["seconds"]["total"]["median"] for row in rows]
        memory = [row["gpu_peak_mib"] or row["peak_mib"] - row["start_mib"] for row in rows]
        axis.plot(amounts, [seconds[-1] * x / amounts[-1] for x in amounts], "--", color="tab:gray", linewidth=1)
        other = axis.twinx()
        for each, values, label, color in (
            (axis, seconds, "seconds", "tab:blue"),
            (other, memory, "MiB", "tab:orange"),
        ):
            each.plot(amounts, values, "o-", color=color, markersize=4)
            each.set_yscale("log")
            each.set_ylabel(label, color=color)
        other.set_ylim(min(memory) / 3, max(memory) * 3)
        axis.set_xscale("log")
        axis.set_title(name)
        axis.set_xlabel(CURVES[name].unit + ("" if name == "volume" else "s"))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the curves and write tables and figure."""
    friendly_errors(force=True)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, default=common.HIPPOCAMPUS)
    options.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    options.add_argument("--device", default=common.default_device())
    options.add_argument("--repeats", type=int, default=3, help="most runs of a point")
    options.add_argument("--seconds", type=float, default=30, help="a curve ends after a run that takes longer")
    options.add_argument("--overrides", type=json.loads, default={}, help="changes of inference.json, JSON")
    options.add_argument("--work", type=Path, default=common.ROOT / "runs" / "speed", help="folder of measurements")
    options.add_argument("--output_dir", type=Path, default=HERE, help="folder of tables and figure")
    options.add_argument("--again", action="store_true", help="ignore earlier measurements")
    options.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options.add_argument("--job_file", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.job:
        common.write_json(args.job_file, run_point(**args.job))
        return
    curves: dict[str, list[dict[str, Any]]] = {}
    job = {"bundle": str(args.bundle.resolve()), "device": args.device, "overrides": args.overrides}
    for curve in args.curves:
        rows = curves.setdefault(curve, [])
        for value in tqdm(CURVES[curve].values, desc=curve, disable=None):
            point = {"curve": curve, "value": value, **job, "repeats": args.repeats, "seconds": args.seconds}
            name = f"growth_{curve}_{value}"
            rows.append(common.measured(Path(__file__), name, point, args.work, args.again))
            if rows[-1]["seconds"]["total"]["median"] > args.seconds:
                break
    everything = [row for rows in curves.values() for row in rows]
    text = "\n\n".join(curve_section(rows) for rows in curves.values()) + (
        f"\n\n{args.bundle.name}, an image of noise, {json.dumps(common.machine(args.device))}. Seconds are medians, "
        f"in brackets the quartiles; memory in brackets is above the imports. {common.steadiness(everything)}"
    )
    part = f"results_growth_{torch.device(args.device).type}"
    content = {"bundle": args.bundle.name, "machine": common.machine(args.device), "curves": curves}
    content["slopes"] = {name: slopes_of(rows) for name, rows in curves.items()}
    common.write_results(args.output_dir, part, content, text)
    draw(curves, args.output_dir / f"{part}.png")


if __name__ == "__main__":
    main()
