"""How time and memory of our inferer grow, with one thing after the other: members, steps, volume, windows.

Images are noise, and no case is read or written. Each point is measured in a process of its own, so that its peak of
memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn
from tqdm import tqdm

from benchmarks.speed import report
from benchmarks.speed.contenders import Task, image_channels, ours
from benchmarks.speed.jobs import kept, machine, machine_line, measured, when
from benchmarks.speed.measure import spread, yardstick
from benchmarks.speed.rivals import FirstSteps
from benchmarks.volume.volume import peak_mib, status_mib, table
from monai_pdddpm.bundle import keep_freed_memory
from monai_pdddpm.inferers.chain import Stopwatch

STAGES = ("segment", "encode", "chain", "total")
MARK, MARK_SIDE = 1000.0, 2  # far above the noise; with the margin it has to fit into one window
SURE = 100.0  # logits by which background is ahead


@dataclass(frozen=True)
class Curve:
    """What grows, while all else stays as it is.

    Attributes:
        title: what the values are.
        values: those measured, rising.
        knee: one of them; growth behind it is compared with growth before it.
        unit: of which one more is said to cost something.
    """

    title: str
    values: tuple[int, ...]
    knee: int
    unit: str


CURVES = {
    "members": Curve("members", (1, 2, 4, 8, 16, 32, 64), 8, "member"),
    "num_steps": Curve("num_steps", (1, 2, 3, 5, 10, 20), 5, "step"),
    "volume": Curve("edge of the cube, voxels", (32, 64, 128, 192, 256), 128, "million voxels"),
    "windows": Curve("windows", (1, 2, 4, 8, 16), 4, "window"),
}


class SureElsewhere(nn.Module):
    """A segmenter that is in doubt where the image is marked, and sure of background elsewhere.

    Args:
        segmenter: is run all the same, for its time.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, C, ...)."""
        logits = torch.zeros_like(self.segmenter(image))
        logits[:, 1:] = torch.where(image[:, :1] > MARK / 2, 0.0, -SURE)
        return logits


def settings_of(curve: str, value: int) -> dict[str, Any]:
    """Return the changes of ``inference.json`` that a point is made of; its image comes from :func:`size_of`."""
    # members on the volume would be output, which grows by definition
    settings = {"active": "presegmentation" if curve == "volume" else "all", "write_members": False}
    return settings | ({curve: value} if curve in ("members", "num_steps") else {})


def size_of(curve: str, value: int, roi_size: Sequence[int], overlap: float) -> list[int]:
    """Return the size of a point's image: one window, but for a cube, and for windows in a row along the first axis."""
    if curve == "volume":
        return [value] * len(roi_size)
    more = value - 1 if curve == "windows" else 0
    return [roi_size[0] + more * max(1, math.floor(roi_size[0] * (1 - overlap) + 1e-6)), *roi_size[1:]]


def noise_image(channels: int, size: Sequence[int], marked: bool, device: torch.device) -> MetaTensor:
    """Return an image of noise, (1, C, X, Y[, Z]), marked in its middle if asked."""
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    if marked:
        image[(..., *(slice(n // 2, n // 2 + MARK_SIDE) for n in size))] = MARK
    return MetaTensor(image.to(device))


def run_point(
    curve: str,
    value: int,
    bundle: str,
    device: str,
    overrides: Mapping[str, Any],
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure one point in this process, which has done nothing else.

    Args:
        curve: a name of ``CURVES``.
        value: of it.
        bundle: folder whose networks and settings are taken.
        device: of the networks.
        overrides: further changes of ``inference.json``, below those of the point.
        repeats: most runs, after one of one window and one step that is not counted.
        seconds: a run that would likely end later is not begun; the first always is.

    Returns:
        what was run, ``seconds`` {stage: median and quartiles over the runs}, memory in MiB.
    """
    keep_freed_memory()  # as the bundles do
    start_mib = status_mib("VmRSS") or peak_mib()
    task = Task(Path(bundle), device, overrides={**overrides, **settings_of(curve, value)})
    parser, entry, on = task.parser(), ours(task), torch.device(device)
    if curve == "volume":
        entry.pair.segmenter, entry.pair.logits = SureElsewhere(entry.pair.segmenter), True
    size = size_of(curve, value, parser["roi_size"], parser["overlap"])
    image = noise_image(image_channels(parser), size, curve == "volume", on)
    warm_up(entry.inferer, entry.network, parser, on)
    runs: list[dict[str, Any]] = []
    while len(runs) < repeats and (not runs or sum(taken(runs)) + max(taken(runs)) <= seconds):
        watch = Stopwatch(on)
        with watch("total"):
            output = entry.inferer(image, entry.network)
        ran = output.meta["ensemble_run"][0].as_report()  # type: ignore[attr-defined]
        runs.append(ran | {"seconds": {**dict.fromkeys(STAGES, 0.0), **ran["seconds"], **watch.seconds}})
        del output
    return {
        "curve": curve,
        "value": value,
        "size": size,
        "members": runs[0]["members"],
        "num_steps": len(runs[0]["time_steps"]),
        **{name: runs[0][name] for name in ("windows_run", "windows_skipped", "denoiser_evaluations")},
        "runs": len(runs),
        "seconds": {stage: spread([run["seconds"][stage] for run in runs]) for stage in STAGES},
        "start_mib": start_mib,
        "peak_mib": peak_mib(),
        "gpu_peak_mib": torch.cuda.max_memory_allocated(on) / 2**20 if on.type == "cuda" else None,
        "yardstick_seconds": yardstick(on),
    }


def warm_up(inferer: Any, network: nn.Module, parser: ConfigParser, device: torch.device) -> None:
    """Ask for one step in one window, in the batches of the runs to come."""
    whole, config = inferer.chain, inferer.config
    inferer.chain = FirstSteps(whole, 1)
    inferer.config = replace(config, members=min(config.members, config.member_batch))
    inferer(noise_image(image_channels(parser), parser["roi_size"], True, device), network)
    inferer.chain, inferer.config = whole, config


def taken(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds that each run took."""
    return [run["seconds"]["total"] for run in runs]


def amount(row: Mapping[str, Any]) -> float:
    """Return how much of a curve's unit a point has."""
    return math.prod(row["size"]) / 1e6 if row["curve"] == "volume" else row["value"]


def marginal(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Return what one more costs between two points (amount, seconds)."""
    return (high[1] - low[1]) / (high[0] - low[0])


def slopes(points: Mapping[int, tuple[float, float]], knee: int) -> tuple[float, float] | None:
    """Return what one more costs behind the knee, and before it.

    Args:
        points: {value: (amount, seconds)}, amounts rising.
        knee: a value.

    Returns:
        both slopes, from the knee to the last point and from the first to the knee; None where one has no points.
    """
    first, last = next(iter(points)), list(points)[-1]
    if knee not in points or knee in (first, last):
        return None
    return marginal(points[knee], points[last]), marginal(points[first], points[knee])


def job_of(curve: str, value: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of :func:`run_point`."""
    members = {} if args.members is None else {"members": args.members}
    return {
        "curve": curve,
        "value": value,
        "bundle": str(args.bundle),
        "device": args.device,
        "overrides": {**members, **args.overrides},
        "repeats": args.repeats,
        "seconds": args.seconds,
    }


def points_of(curve: str, args: argparse.Namespace, measure: bool) -> list[dict[str, Any]]:
    """Return a curve's points: measured, or as far as they are kept; it ends behind one whose run took too long."""
    rows: list[dict[str, Any]] = []
    for value in tqdm(CURVES[curve].values, desc=curve, disable=None):
        name, job = f"growth_{curve}_{value}", job_of(curve, value, args)
        row = measured(name, job, args) if measure else kept(name, job, args)
        if row is None:
            break
        rows.append(row)
        if row["seconds"]["total"]["median"] > args.seconds:
            break
    return rows


def grow(names: Sequence[str], args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Measure the named curves; write tables and figure, with the curves of an earlier command.

    Args:
        names: of ``CURVES``.
        args: of the command line.
    """
    found = {name: points_of(name, args, name in names) for name in CURVES}
    found = {name: rows for name, rows in found.items() if rows}
    parts = [
        f"### {name.capitalize()}\n\n{curve_table(rows)}\n\n{sentence(rows, args)}" for name, rows in found.items()
    ]
    everything = [row for rows in found.values() for row in rows]
    part = f"growth_{torch.device(args.device).type}"
    note = (
        f"{args.bundle.name}, an image of noise, no files; {machine_line(args)} {when(everything)} Networks in "
        f"{Task(args.bundle, args.device, overrides=args.overrides).parser()['precision']}. Seconds of the inferer: "
        "medians over the runs, in brackets the quartiles; warm-up apart. One more: against the line before. Peak "
        + ("on the GPU." if everything[0]["gpu_peak_mib"] is not None else "of the process (above its imports).")
        + " Members themselves are not returned. "
        + report.steadiness({str(i): row for i, row in enumerate(everything)})
    )
    content = {"bundle": args.bundle.name, "machine": machine(args.device), "slopes": {}, "curves": found}
    for name, rows in found.items():
        content["slopes"][name] = slopes_of(rows)
    report.write(part, content, "\n\n".join([*parts, note]), args.output_dir)
    report.draw_growth(
        {name: [(amount(row), row) for row in rows] for name, rows in found.items()},
        {name: curve.unit + ("" if name == "volume" else "s") for name, curve in CURVES.items()},
        args.output_dir / f"results_{part}.png",
    )
    return found


def slopes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return seconds of one more behind and before a curve's knee and their ratio, None of a curve too short."""
    points = {row["value"]: (amount(row), row["seconds"]["total"]["median"]) for row in rows}
    both = slopes(points, CURVES[rows[0]["curve"]].knee)
    return both and {"behind": both[0], "before": both[1], "ratio": both[0] / both[1]}


def curve_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a curve's table."""
    curve = CURVES[rows[0]["curve"]]
    head = [curve.title, "windows run", "denoiser evaluations", "runs", *(f"{stage} s" for stage in STAGES)]
    lines, before = [], None
    for row in rows:
        point = (amount(row), row["seconds"]["total"]["median"])
        lines.append(
            [
                row["value"],
                f"{row['windows_run']} of {row['windows_run'] + row['windows_skipped']}",
                row["denoiser_evaluations"],
                row["runs"],
                *(report.number(row["seconds"][stage]["median"]) for stage in STAGES[:-1]),
                report.with_spread(row["seconds"]["total"]),
                "-" if before is None else f"{marginal(before, point):.3g}",
                report.memory(row),
            ]
        )
        before = point
    return table([*head, f"one more {curve.unit} s", "peak MiB"], lines)


def sentence(rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> str:
    """Return what is held fixed in a curve, how it bends at the knee, and what was left out."""
    name, last = rows[0]["curve"], rows[-1]
    curve, found = CURVES[name], slopes_of(rows)
    fixed = [f"{last[what]} {what}" for what in ("members", "num_steps") if what != name]
    if name == "volume":
        fixed.append(f"the presegmentation undecided in {MARK_SIDE} voxels each way, the segmenter run everywhere")
    else:
        fixed.append("every window" if name == "windows" else f"one window of {' x '.join(map(str, last['size']))}")
    text = f"{'; '.join(fixed)}."
    if found:
        text += (
            f" From {curve.knee} to {last['value']} one more {curve.unit} costs {found['behind']:.3g} s, from "
            f"{rows[0]['value']} to {curve.knee} {found['before']:.3g} s: {found['ratio']:.2f} times as much (1 or "
            "less: growth is linear or better)."
        )
    if left := [value for value in curve.values if value > last["value"]]:
        text += (
            f" Left out: {', '.join(map(str, left))}, since a run before took more than {args.seconds:g} s (--seconds)."
        )
    return text
