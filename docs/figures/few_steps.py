"""Draw the picture of `docs/explanation/few-steps.md` and print its numbers: `python docs/figures/few_steps.py`.

It takes less than a minute on one core. The model is in `region.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from region import (
    ODE,
    SDE,
    Region,
    chain,
    evidence,
    exact_frequency,
    frequencies,
    frequency,
    normal_sample,
    probability,
    undecided,
)

from monai_pdddpm.schedulers import cumulative_schedule, reverse_step, signal_to_noise, uniform_steps

PICTURE = Path(__file__).resolve().parents[1] / "pictures" / "why_few_steps.png"
COLORS = ("#0072B2", "#D55E00", "#009E73")
AMPLITUDES = (1.0, 0.5, 0.25)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50, 70, 100)
TOLERANCE = 0.02  # in frequency


def enough(counts: Sequence[int], errors: Sequence[float]) -> int | None:
    """Return the smallest count from which on errors stay within the tolerance."""
    return next((n for i, n in enumerate(counts) if max(errors[i:]) <= TOLERANCE), None)


def evidence_table(abar: torch.Tensor) -> list[str]:
    """Return T' against SNR and nats per wrong voxel."""
    lines = ["| T' | SNR | 1 voxel, s = 1 | s = 0.5 | s = 0.25 | 50 voxels, s = 1 |", "|" + "---|" * 6]
    for start in (300, 500, 700, 800, 900, 950, 980):
        a = abar[start - 1]
        nats = [*(evidence(a, 2 * s) for s in AMPLITUDES), evidence(a, 2, 50)]
        lines.append(_row(str(start), *(f"{float(v):.3g}" for v in (signal_to_noise(a), *nats))))
    return lines


def equal_starts(abar: torch.Tensor, start: int = 300, amplitude: float = 0.5) -> list[int]:
    """Return, for each amplitude, the T' at which a wrong voxel counts as much as at ``start`` in {0, 1}."""
    wanted = evidence(abar[start - 1], 2 * amplitude)
    return [int((evidence(abar, 2 * s).log() - wanted.log()).abs().argmin()) + 1 for s in AMPLITUDES]


def decision_index(abar: torch.Tensor, voxels: int) -> int:
    """Return the index at which n s^2 SNR(t) is 1 for n voxels and s = 1."""
    return int((voxels * signal_to_noise(abar)).log().abs().argmin())


def start_table(abar: torch.Tensor) -> list[str]:
    """Return the frequencies of three and of many steps from T'."""
    heads = [f"{rule}, {head}" for rule in ("ODE", "SDE") for head in ("exact", "3 steps", f"to {TOLERANCE}")]
    lines = [_row("T'", "pre-segmentation", "nats", *heads), "|" + "---|" * 9]
    for start, presegmentation in ((1000, 0), (950, 1), (950, -1), (900, 1), (900, -1), (850, 1), (850, -1)):
        nats = evidence(abar[start - 1], 2 * Region().amplitude, Region().voxels).item()
        cells = [str(start), {0: "none", 1: "right", -1: "wrong"}[presegmentation], f"{nats:.2f}"]
        for rule in (ODE, SDE):
            limit = exact_frequency(rule, Region(), abar[start - 1], presegmentation)
            members = 20_000 if rule == ODE else 50_000
            found = frequencies(Region(), abar, rule, COUNTS, start, presegmentation, members)
            needed = enough(COUNTS, [abs(f - limit) for f in found])
            cells += [f"{limit:.2f}", f"{found[COUNTS.index(3)]:.2f}", str(needed)]
        lines.append(_row(*cells))
    return lines


def early_table(abar: torch.Tensor, start: int = 950, early: int = 855) -> list[str]:
    """Return the result of three DDIM steps that end at index 0, and that end early."""
    lines = ["| steps | pre-segmentation | frequency | limit | mean probability | limit |", "|" + "---|" * 6]
    region, z = Region(), normal_sample(100_000)
    for end in (0, early):
        steps = uniform_steps(start, 3, end)
        for presegmentation, name in ((1, "right"), (-1, "wrong")):
            first = region.start(presegmentation, abar[start - 1], z)
            few, many = (chain(region, first, s, abar, ODE) for s in (steps, range(start - 1, end - 1, -1)))
            values = (frequency(few), frequency(many), probability(few, region), probability(many, region))
            lines.append(_row(", ".join(map(str, steps)), name, *(f"{v:.3f}" for v in values)))
    return lines


def amplitude_table(abar: torch.Tensor) -> list[str]:
    """Return where in the chain the decision falls for each amplitude, and the result of few steps of the ODE."""
    heads = ("s", "decided between", "of 10 steps there", "differ, 5 steps", "10", "20", "exact", f"to {TOLERANCE}")
    lines = [_row(*heads), "|" + "---|" * 8]
    for s in AMPLITUDES:
        region = Region(s)
        left_open = np.array([undecided(region, abar[t]) for t in range(0, len(abar), 2)])
        high, low = (int(2 * np.abs(left_open - part).argmin()) for part in (0.9, 0.1))
        inside = sum(low <= t <= high for t in uniform_steps(len(abar), 10))
        found = frequencies(region, abar, ODE, COUNTS)
        parts = [*(found[COUNTS.index(n)] for n in (5, 10, 20)), region.belief]
        needed = enough(COUNTS, [abs(f - region.belief) for f in found])
        cells = (str(inside), *(f"{2 * f * (1 - f):.2f}" for f in parts), str(needed))
        lines.append(_row(f"{s:g}", f"{high} and {low}", *cells))
    return lines


def gaussian_spread(abar: torch.Tensor, time_steps: Sequence[int], voxels: int, amplitude: float = 0.25) -> float:
    """Return the members' standard deviation, relative to the true one, along a direction with a Gaussian clean state.

    Its standard deviation is amplitude sqrt(voxels), and the perfect denoiser predicts the posterior mean
    sqrt(abar) S^2 y / (abar S^2 + 1 - abar), so every step of DDIM is linear in the start noise.
    """
    deviation = amplitude * voxels**0.5
    state, x_0 = (1 - abar[time_steps[0]]).sqrt(), torch.zeros(())
    for t, t_prev in zip(time_steps, [*time_steps[1:], None], strict=True):
        x_0 = abar[t].sqrt() * deviation**2 / (abar[t] * deviation**2 + 1 - abar[t]) * state
        if t_prev is not None:
            state = reverse_step(state, x_0, abar[t], abar[t_prev])
    return float(x_0 / deviation)


def spread_table(abar: torch.Tensor) -> list[str]:
    """Return the rows of the spread by list of time steps and voxels."""
    lists = [[899, 700], [949, 791, 400], [999, 950, 827, 642, 400], list(range(999, -1, -1))]
    names = [", ".join(map(str, steps)) if len(steps) < 1000 else "all 1000" for steps in lists]
    return [
        _row(name, *(f"{gaussian_spread(abar, steps, n):.2f}" for n in (10, 100, 1000, 10000)))
        for name, steps in zip(names, lists, strict=True)
    ]


def draw(abar: torch.Tensor) -> Figure:
    """Draw the picture of the page."""
    figure = Figure(figsize=(7.2, 6.4), layout="constrained", facecolor="white")
    panels = figure.subplot_mosaic("AB;CD")
    indices, ten, region = range(0, len(abar), 4), uniform_steps(len(abar), 10), Region()
    for color, s in zip(COLORS, AMPLITUDES, strict=True):
        panels["B"].plot(COUNTS, _errors(Region(s), abar, ODE), color=color, label=f"s = {s:g}")
        panels["C"].plot(indices, [undecided(Region(s), abar[t]) for t in indices], color=color, label=f"s = {s:g}")
    sde, heun = _errors(region, abar, SDE, members=400_000), _errors(region, abar, ODE, heun=True)
    panels["A"].plot(COUNTS, sde, color=COLORS[1], label="SDE, ancestral")
    panels["A"].plot(COUNTS, _errors(region, abar, ODE), color=COLORS[0], label="ODE, DDIM")
    panels["A"].plot([2 * n - 1 for n in COUNTS], heun, color=COLORS[2], label="ODE, Heun")
    for power, level in ((1, 0.028), (2, 0.0004)):
        x = np.array([25.0, 100.0])
        panels["A"].plot(x, level * (100 / x) ** power, color="#999999", linewidth=0.8)
        panels["A"].text(55, level * 2**power, f"slope -{power}", fontsize=7, color="#666666")
    voxel = [undecided(Region(1.0, 1), abar[t]) for t in indices]
    panels["C"].plot(indices, voxel, ":", color="black", label="s = 1, 1 voxel")
    panels["C"].plot(ten, [0] * 10, "|", color="black", markersize=9, clip_on=False, label="list of 10 steps")
    for rule, color, name, marker in ((ODE, COLORS[0], "ODE", "o"), (SDE, COLORS[1], "SDE", "x")):
        for presegmentation in (1, -1):
            starts, marked = range(1000, 699, -4), range(1000, 699, -25)
            line = [exact_frequency(rule, region, abar[t - 1], presegmentation) for t in starts]
            dots = [frequencies(region, abar, rule, (3,), t, presegmentation)[0] for t in marked]
            labels = (f"{name}, exact", f"{name}, 3 steps") if presegmentation > 0 else (None, None)
            panels["D"].plot(starts, line, color=color, label=labels[0])
            panels["D"].plot(marked, dots, marker, color=color, markersize=4, markerfacecolor="none", label=labels[1])
    for height, text in ((0.95, "right pre-segmentation"), (0.68, "the image alone"), (0.12, "wrong pre-segmentation")):
        panels["D"].text(702, height, text, ha="right", va="top" if height > 0.1 else "bottom", fontsize=7.5)
    for level, axes in ((TOLERANCE, panels["B"]), (region.belief, panels["D"])):
        axes.axhline(level, color="#999999", linewidth=0.8)
    log = {"xscale": "log", "yscale": "log", "xlim": (0.9, 220), "ylim": (1e-4, 0.6)}
    _finish(panels["A"], "A  From noise, s = 1", "calls of the denoiser", "error of the frequency", **log)
    _finish(panels["B"], "B  ODE: larger labels need more steps", "steps", "error of the frequency", **log)
    _finish(
        panels["C"],
        "C  Where the decision falls",
        "t, from start to end",
        "open fraction of the variance",
        xlim=(1000, 0),
    )
    _finish(
        panels["D"],
        "D  From a noised pre-segmentation, s = 1",
        "T'",
        "fraction of members with structure",
        xlim=(1005, 695),
    )
    return figure


def main() -> None:
    """Print the numbers of the page and draw its picture."""
    abar = cumulative_schedule().double()
    for table in (evidence_table, start_table, early_table, amplitude_table, spread_table):
        print(*table(abar), "", sep="\n")
    print(f"T' that equals 300 in {{0, 1}}, for s = {AMPLITUDES}: {equal_starts(abar)}")
    print(f"n SNR = 1 for n = 1, 50, 5000 at index {[decision_index(abar, n) for n in (1, 50, 5000)]}")
    draw(abar).savefig(PICTURE, dpi=250)


def _errors(region: Region, abar: torch.Tensor, eta: float, **options: Any) -> list[float]:
    return [abs(found - region.belief) for found in frequencies(region, abar, eta, COUNTS, **options)]


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str, **options: Any) -> None:
    axes.set(axisbelow=True, **options)
    axes.set_title(title, fontsize=9, weight="bold", loc="left")
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    place = "lower left" if axes.get_yscale() == "log" else (0.62, 0.35)
    axes.legend(fontsize=7, frameon=False, loc=place)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
