"""Tables and figure of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.volume.volume import table

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

OURS = "ours"
SHOWN = ("read", "preprocess", "segment", "encode", "chain", "statistics", "inverse", "write")
FOLDED = {"chain": ("noise", "chain", "blend")}  # in the table; the JSON has them apart


def ratios(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return how many times as long as ours a contender takes: the median over the cases that both have.

    Returns:
        of the networks' stages, and in total; None without ours.
    """
    found: dict[str, float | None] = {"networks": None, "total": None}
    common = [case for case in row["by_case"] if base and case in base["by_case"]]
    if base and common:
        for name in found:
            found[name] = float(np.median([row["by_case"][c][name] / base["by_case"][c][name] for c in common]))
    return found


def contenders_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of all contenders, {name: what was measured and ``times_ours``}."""
    head = ["contender", "members", "num_steps", "parameters M", "denoiser M", "GFLOP a call", "GFLOP a case"]
    head += ["denoiser evaluations", *(f"{stage} s" for stage in SHOWN), "networks s", "total s"]
    head += ["times ours: networks", "times ours: total", "peak MiB", "Dice"]
    lines = []
    for row in rows.values():
        seconds = {name: value["median"] for name, value in row["seconds"].items()}
        line = [row["title"] + ("" if row["timed_steps"] == row["num_steps"] else " (scaled)")]
        line += [row["members"], row["num_steps"] or "-"]
        line += [f"{row['parameters'][name] / 1e6:.2f}" for name in ("all", "denoiser")]
        line += [f"{row['flops'][name] / 1e9:.3g}" for name in ("call", "case")]
        line += [f"{row['denoiser_evaluations']:g}"]
        line += [number(sum(seconds[part] for part in FOLDED.get(stage, (stage,)))) for stage in SHOWN]
        line += [with_spread(row["seconds"]["networks"]), with_spread(row["seconds"]["total"])]
        line += ["-" if x is None else number(x) for x in row["times_ours"].values()]
        line += [memory(row), "-" if row["dice"] is None else f"{row['dice']:.4f}"]
        lines.append(line)
    return table(head, lines)


def number(value: float) -> str:
    """Return a number with three digits, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def with_spread(value: Mapping[str, float]) -> str:
    """Return a median with its quartiles."""
    return f"{number(value['median'])} [{number(value['low'])}, {number(value['high'])}]"


def memory(row: Mapping[str, Any]) -> str:
    """Return the peak: of the GPU's memory, or of the process with its share beyond what the imports took."""
    if row["gpu_peak_mib"] is not None:
        return f"{row['gpu_peak_mib']:.0f}"
    return f"{row['peak_mib']:.0f} (+{row['peak_mib'] - row['start_mib']:.0f})"


def steadiness(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence on how much the machine itself changed between the contenders."""
    found = [row["yardstick_seconds"] for row in rows.values()]
    return (
        f"One and the same convolution, timed after each measurement, took {1000 * min(found):.1f} to "
        f"{1000 * max(found):.1f} ms: ratios are good to a factor of {max(found) / min(found):.2f}."
    )


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw seconds, FLOPs and parameters of each contender, on logarithmic scales."""
    names = list(rows)[::-1]
    colours = ["tab:blue" if name.startswith(OURS) else "tab:gray" for name in names]
    panels = (
        ("networks, seconds a case", [rows[n]["seconds"]["networks"]["median"] for n in names], "{:.3g}"),
        ("GFLOP a case", [rows[n]["flops"]["case"] / 1e9 for n in names], "{:.3g}"),
        ("parameters, millions", [rows[n]["parameters"]["all"] / 1e6 for n in names], "{:.3g}"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(13, 1.2 + 0.34 * len(names)), sharey=True, layout="constrained")
    for axis, (title, values, form) in zip(axes, panels, strict=True):
        bars = axis.barh(range(len(names)), values, color=colours)
        axis.bar_label(bars, [form.format(v) for v in values], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlim(min(values) / 3, max(values) * 8)
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    titles = [rows[n]["title"] + ("" if rows[n]["timed_steps"] == rows[n]["num_steps"] else " (scaled)") for n in names]
    axes[0].set_yticks(range(len(names)), titles, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_growth(
    curves: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]], units: Mapping[str, str], path: Path
) -> None:
    """Draw seconds and memory over each curve, on logarithmic scales; the dashed line is linear growth.

    Args:
        curves: {name: [(amount, what was measured)]}, amounts rising.
        units: of the amounts.
        path: of the picture.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(3.6 * len(curves), 3.4), layout="constrained", squeeze=False)
    for axis, (name, points) in zip(axes[0], curves.items(), strict=True):
        amounts = [x for x, _ in points]
        seconds = [row["seconds"]["total"]["median"] for _, row in points]
        memories = [
            row["peak_mib"] - row["start_mib"] if row["gpu_peak_mib"] is None else row["gpu_peak_mib"]
            for _, row in points
        ]
        axis.plot(amounts, [seconds[-1] * x / amounts[-1] for x in amounts], "--", color="tab:gray", linewidth=1)
        axis.plot(amounts, seconds, "o-", color="tab:blue", markersize=4)
        other = axis.twinx()
        other.plot(amounts, memories, "s-", color="tab:orange", markersize=4)
        for each, label, colour in ((axis, "seconds", "tab:blue"), (other, "MiB", "tab:orange")):
            each.set_yscale("log")
            each.set_ylabel(label, color=colour)
            each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            each.yaxis.set_major_formatter("{x:g}")
            each.yaxis.set_minor_formatter(NullFormatter())
            each.tick_params(axis="y", labelcolor=colour, which="both", labelsize=8)
        other.set_ylim(min(memories) / 3, max(memories) * 3)  # so that what stays flat is seen to be flat
        axis.set_xscale("log")
        axis.set_xticks(amounts, [f"{x:.2g}" for x in amounts], fontsize=8)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(name)
        axis.set_xlabel(units[name])
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def without_folders(value: Any) -> Any:
    """Return content with the name alone of each file that it tells the place of: results go to other machines."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def write(part: str, content: Mapping[str, Any], text: str, folder: Path) -> None:
    """Print a part's table; keep it and the numbers as ``results_<part>.md`` and ``.json``."""
    print(f"{part}\n\n{text}\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{part}.json").write_text(
        json.dumps(without_folders(content), indent=1) + "\n", encoding="utf-8"
    )
    (folder / f"results_{part}.md").write_text(text + "\n", encoding="utf-8")
