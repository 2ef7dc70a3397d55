"""Draw the picture of `docs/explanation/few-steps.md` and print its numbers: `python docs/make_why_few_steps.py`.

It takes less than a minute on one core. A region of n voxels is all structure (+s) or all background (-s), and the
image says with which probability. Only the state's coordinate along (1, ..., 1) / sqrt(n) decides, so the whole chain
happens on a line, with a = s sqrt(n), a clean state of -a or +a, and a denoiser known in closed form. Rules, schedule
and lists of steps are the package's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.optimize import brentq

from monai_pdddpm.schedulers import (
    AncestralRule,
    DDIMRule,
    cumulative_schedule,
    early_end,
    signal_to_noise,
    start_state,
    uniform_steps,
)

PICTURE = Path(__file__).parent / "pictures" / "why_few_steps.png"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
AMPLITUDES = (1.0, 0.5, 0.25)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50, 70, 100)
CORRECTED = (10, 20, 40)  # steps of the SDE that are done with Heun's correction as well
TOLERANCE = 0.02  # in frequency
ODE, SDE = DDIMRule(0.0), AncestralRule("fixed_small")

Rule = Callable[..., torch.Tensor]
Noise = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Region:
    """Voxels that are all structure or all background.

    Args:
        amplitude: s of the labels' code {-s, s}.
        voxels: n.
        belief: probability of structure, given the image.
    """

    amplitude: float = 1.0
    voxels: int = 50
    belief: float = 0.7

    @property
    def distance(self) -> float:
        """Return a = s sqrt(n): the clean states are -a and +a."""
        return self.amplitude * math.sqrt(self.voxels)

    def log_odds(self, y: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
        """Return the log odds of structure given a state: Bayes' rule for q(x_t | x_0), DDPM's eq. 4."""
        prior = math.log(self.belief / (1 - self.belief))
        return prior + 2 * self.distance * abar_t.sqrt() * y / (1 - abar_t)

    def denoise(self, y: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t], the perfect denoiser's prediction."""
        return self.distance * torch.tanh(self.log_odds(y, abar_t) / 2)

    def start(self, presegmentation: float, abar_t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the noised presegmentation: +1 says structure, -1 background, 0 nothing (pure noise)."""
        if presegmentation == 0:
            return noise.clone()
        return start_state(torch.tensor(presegmentation * self.distance, dtype=noise.dtype), noise, abar_t)


def evidence(abar_t: torch.Tensor, difference: float, voxels: int = 1) -> torch.Tensor:
    """Return KL(q(x_t | x_pre) || q(x_t | x_0)) in nats: two Gaussians of one variance and other means."""
    return signal_to_noise(abar_t) / 2 * difference**2 * voxels


def chain(
    region: Region,
    y: torch.Tensor,
    steps: Sequence[int],
    abar: torch.Tensor,
    rule: Rule,
    noise: Noise | None = None,
    heun: bool = False,
) -> torch.Tensor:
    """Go down a list of time steps and return the prediction at the last one, as the package's inferer does.

    Args:
        region: what the denoiser knows.
        y: starts.
        steps: descending indices.
        abar: schedule.
        rule: reverse step.
        noise: standard normal numbers for a step (t, t_prev), for a stochastic rule.
        heun: repeat each step with the mean of the predictions at both its ends, which is Heun's method in the
            variables of :func:`clocks`.
    """
    for t, t_prev in pairwise(steps):
        x_0, z = region.denoise(y, abar[t]), noise(t, t_prev) if noise else None
        if heun:
            ahead = rule(y, x_0, abar[t], abar[t_prev], z)
            x_0 = (x_0 + region.denoise(ahead, abar[t_prev])) / 2
        y = rule(y, x_0, abar[t], abar[t_prev], z)
    return region.denoise(y, abar[steps[-1]])


def clocks(y: torch.Tensor, abar_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the variables in which the rules are Euler's method.

    DDIM (eta 0) adds x_0 times the step of sqrt(SNR) to y / sqrt(1 - abar) (Song et al. 2021, eq. 13, in other
    variables). The ancestral rule adds x_0 times the step of SNR, and a Brownian increment over it, to
    sqrt(abar) y / (1 - abar) (stochastic localization, Montanari 2023).
    """
    return y / (1 - abar_t).sqrt(), abar_t.sqrt() * y / (1 - abar_t)


def normal_sample(count: int, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers, one from the middle of each of ``count`` equally likely intervals, shuffled."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(middles)[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


def fresh_noise(count: int, seed: int = 0) -> Noise:
    """Return new normal numbers for every step."""
    generator = torch.Generator().manual_seed(seed)
    return lambda t, t_prev: torch.randn(count, generator=generator, dtype=torch.float64)


def common_noise(abar: torch.Tensor, count: int, seed: int) -> Noise:
    """Return normal numbers that are increments of one Brownian motion over SNR, so all lists feel the same noise."""
    snr = signal_to_noise(abar).flip(0)
    normal = torch.randn(len(abar) - 1, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    motion = torch.cat([torch.zeros(1, count), (snr.diff().sqrt()[:, None] * normal).cumsum(0)])
    top = len(abar) - 1
    return lambda t, t_prev: (motion[top - t_prev] - motion[top - t]) / (snr[top - t_prev] - snr[top - t]).sqrt()


def frequency(x_0: torch.Tensor) -> float:
    """Return the share of members that say structure."""
    return (x_0 > 0).double().mean().item()


def probability(x_0: torch.Tensor, region: Region) -> float:
    """Return the members' mean probability of structure."""
    return ((x_0 / region.distance + 1) / 2).mean().item()


def exact_frequency_sde(region: Region, abar_t: torch.Tensor, presegmentation: float) -> float:
    """Return how often the reverse SDE ends at structure: the mean of the posterior over starts."""
    start = region.start(presegmentation, abar_t, normal_sample(100_000))
    return region.log_odds(start, abar_t).sigmoid().mean().item()


def exact_frequency_ode(region: Region, abar_t: torch.Tensor, presegmentation: float) -> float:
    """Return how often the probability-flow ODE ends at structure.

    On a line the flow keeps the order of states and the marginal distributions, so it takes the upper ``belief`` of
    the noised truth's distribution to structure and all below to background.
    """
    radius = region.distance * signal_to_noise(abar_t).sqrt().item()

    def below(v: float) -> float:
        return region.belief * _phi(v - radius) + (1 - region.belief) * _phi(v + radius)

    threshold = brentq(lambda v: below(v) - (1 - region.belief), -radius - 40, radius + 40)
    return 1 - _phi(threshold - presegmentation * radius)


def undecided(region: Region, abar_t: torch.Tensor) -> float:
    """Return the share of the region's variance that a state of the noised truth leaves open."""
    z, open_variance = normal_sample(20_001), 0.0
    for truth, weight in ((1, region.belief), (-1, 1 - region.belief)):
        p = region.log_odds(region.start(truth, abar_t, z), abar_t).sigmoid()
        open_variance += weight * (p * (1 - p)).mean().item()
    return open_variance / (region.belief * (1 - region.belief))


def frequency_ode(region: Region, abar: torch.Tensor, count: int, heun: bool = False) -> float:
    """Return the frequency of structure after ``count`` steps of the ODE from pure noise."""
    return frequency(chain(region, normal_sample(100_000), uniform_steps(len(abar), count), abar, ODE, heun=heun))


def errors_sde(
    region: Region, abar: torch.Tensor, runs: Sequence[tuple[int, bool]], batches: int = 3, paths: int = 20_000
) -> list[tuple[float, float]]:
    """Return errors of the SDE from pure noise, with the help of a fine run that feels the same noise.

    The fine run takes every index, with Heun's correction. Its own frequency is right but for chance, so what chance
    did to it is taken off the others' (a control variate).

    Args:
        region: what the denoiser knows.
        abar: schedule.
        runs: number of steps, and whether with Heun's correction.
        batches: of paths.
        paths: in a batch.

    Returns:
        For each run the error of its frequency, and the share of paths that end otherwise than in the fine run.
    """
    parts = []
    for batch in range(batches):
        start, noise = normal_sample(paths, batch), common_noise(abar, paths, batch)
        lists = [(range(len(abar) - 1, -1, -1), True), *((uniform_steps(len(abar), n), heun) for n, heun in runs)]
        parts.append([(chain(region, start, steps, abar, SDE, noise, heun) > 0).numpy() for steps, heun in lists])
    fine, *others = np.concatenate(parts, axis=1).astype(float)
    errors = []
    for ends in others:
        covariance = np.cov(ends, fine)
        chance = covariance[0, 1] / covariance[1, 1] * (fine.mean() - region.belief)
        errors.append((abs(ends.mean() - chance - region.belief), (ends != fine).mean()))
    return errors


def slope(counts: Sequence[int], errors: Sequence[float], least: int = 20) -> float:
    """Return the slope of log error over log count, fitted where the count is ``least`` or more."""
    x, y = zip(*((math.log(n), math.log(e)) for n, e in zip(counts, errors, strict=True) if n >= least), strict=True)
    return float(np.polyfit(x, y, 1)[0])


def enough(counts: Sequence[int], errors: Sequence[float]) -> int | None:
    """Return the least count from which on errors stay within the tolerance."""
    within = [n for i, n in enumerate(counts) if max(errors[i:]) <= TOLERANCE]
    return within[0] if within else None


def evidence_table(abar: torch.Tensor) -> list[str]:
    """Return T' against SNR and nats per wrong voxel."""
    lines = ["| T' | SNR | 1 voxel, s = 1 | s = 0.5 | s = 0.25 | 50 voxels, s = 1 |", "|" + "---|" * 6]
    for start in (300, 500, 700, 800, 900, 950, 980):
        a = abar[start - 1]
        nats = [*(evidence(a, 2 * s) for s in AMPLITUDES), evidence(a, 2, 50)]
        lines.append(_row(str(start), *(f"{float(v):.3g}" for v in (signal_to_noise(a), *nats))))
    return lines


def equal_starts(abar: torch.Tensor, start: int = 300, amplitude: float = 0.5) -> list[int]:
    """Return, for each amplitude, the T' at which a wrong voxel weighs what it does at ``start`` in {0, 1}."""
    wanted = evidence(abar[start - 1], 2 * amplitude)
    return [int((evidence(abar, 2 * s).log() - wanted.log()).abs().argmin()) + 1 for s in AMPLITUDES]


def decision_index(abar: torch.Tensor, voxels: int) -> int:
    """Return the index at which a region's SNR n s^2 SNR(t) is 1, for s = 1."""
    return int((voxels * signal_to_noise(abar)).log().abs().argmin())


def start_table(abar: torch.Tensor) -> list[str]:
    """Return what few steps make of a start, against what infinitely many do."""
    heads = [f"{rule}, {head}" for rule in ("ODE", "SDE") for head in ("exact", "3 steps", f"to {TOLERANCE}")]
    lines = [_row("T'", "presegmentation", "nats", *heads), "|" + "---|" * 9]
    for start, presegmentation in ((1000, 0), (950, 1), (950, -1), (900, 1), (900, -1), (850, 1), (850, -1)):
        nats = evidence(abar[start - 1], 2 * Region().amplitude, Region().voxels).item()
        cells = [str(start), {0: "none", 1: "right", -1: "wrong"}[presegmentation], f"{nats:.2f}"]
        for rule, exact in ((ODE, exact_frequency_ode), (SDE, exact_frequency_sde)):
            limit = exact(Region(), abar[start - 1], presegmentation)
            found = frequencies(Region(), abar, start, presegmentation, rule, COUNTS)
            needed = enough(COUNTS, [abs(f - limit) for f in found])
            cells += [f"{limit:.2f}", f"{found[COUNTS.index(3)]:.2f}", str(needed)]
        lines.append(_row(*cells))
    return lines


def frequencies(
    region: Region, abar: torch.Tensor, start: int, presegmentation: float, rule: Rule, counts: Sequence[int]
) -> list[float]:
    """Return the frequency of structure after each number of steps from T' = ``start`` down to index 0."""
    z = normal_sample(20_000 if rule is ODE else 50_000)
    first, noise = region.start(presegmentation, abar[start - 1], z), None if rule is ODE else fresh_noise(len(z))
    return [frequency(chain(region, first, uniform_steps(start, n), abar, rule, noise)) for n in counts]


def early_table(abar: torch.Tensor, start: int = 950, share: float = 0.9) -> list[str]:
    """Return what three DDIM steps make of a start when the list ends at index 0, and when it ends early."""
    lines = ["| steps | presegmentation | frequency | limit | mean probability | limit |", "|" + "---|" * 6]
    region, z = Region(), normal_sample(100_000)
    for end in (0, early_end(start, share)):
        steps = uniform_steps(start, 3, end)
        for presegmentation in (1, -1):
            first = region.start(presegmentation, abar[start - 1], z)
            few, many = (chain(region, first, s, abar, ODE) for s in (steps, range(start - 1, end - 1, -1)))
            values = (frequency(few), frequency(many), probability(few, region), probability(many, region))
            name = "right" if presegmentation > 0 else "wrong"
            lines.append(_row(", ".join(map(str, steps)), name, *(f"{v:.3f}" for v in values)))
    return lines


def amplitude_table(abar: torch.Tensor) -> list[str]:
    """Return where in the chain the decision falls, and what few steps of the ODE make of it, for each amplitude."""
    lines = [
        f"| s | decided between | of 10 steps there | differ, 5 steps | 10 | 20 | exact | to {TOLERANCE} |",
        "|" + "---|" * 8,
    ]
    for s in AMPLITUDES:
        region = Region(s)
        high, low = decision_range(region, abar)
        inside = sum(low <= t <= high for t in uniform_steps(len(abar), 10))
        found = [frequency_ode(region, abar, n) for n in COUNTS]
        shares = [*(found[COUNTS.index(n)] for n in (5, 10, 20)), region.belief]
        needed = enough(COUNTS, [abs(f - region.belief) for f in found])
        cells = (str(inside), *(f"{2 * f * (1 - f):.2f}" for f in shares), str(needed))
        lines.append(_row(f"{s:g}", f"{high} and {low}", *cells))
    return lines


def decision_range(region: Region, abar: torch.Tensor) -> tuple[int, int]:
    """Return the indices at which 90 % and 10 % of the region's variance are still open."""
    share = np.array([undecided(region, abar[t]) for t in range(0, len(abar), 2)])
    return int(2 * np.abs(share - 0.9).argmin()), int(2 * np.abs(share - 0.1).argmin())


@dataclass(frozen=True)
class Errors:
    """Errors after each of ``COUNTS`` steps from pure noise; of the SDE with Heun's correction, of ``CORRECTED``."""

    ddim: Sequence[float]
    heun: Sequence[float]
    ancestral: Sequence[float]
    paths: Sequence[float]
    ancestral_heun: Sequence[float]
    paths_heun: Sequence[float]

    @classmethod
    def of(cls, region: Region, abar: torch.Tensor) -> Errors:
        """Measure them."""
        ddim, heun = ([abs(frequency_ode(region, abar, n, h) - region.belief) for n in COUNTS] for h in (False, True))
        runs = [*((n, False) for n in COUNTS), *((n, True) for n in CORRECTED)]
        bias, paths = zip(*errors_sde(region, abar, runs), strict=True)
        split = len(COUNTS)
        return cls(ddim, heun, bias[:split], paths[:split], bias[split:], paths[split:])

    def lines(self) -> list[str]:
        """Return a line per kind: its slope, and its values by number of steps."""
        found = []
        for name, errors in vars(self).items():
            counts, least = (COUNTS, 20) if len(errors) == len(COUNTS) else (CORRECTED, 0)
            values = ", ".join(f"{n}: {e:.4f}" for n, e in zip(counts, errors, strict=True))
            found.append(f"  {name:15} slope {slope(counts, errors, least):.2f} | {values}")
        return found


def main() -> None:
    """Print the page's numbers and draw its picture."""
    torch.set_num_threads(1)
    abar = cumulative_schedule().double()
    for table in (evidence_table, start_table, early_table, amplitude_table):
        print(*table(abar), "", sep="\n")
    print(f"T' at which a voxel weighs as at 300 in {{0, 1}}, for s = {AMPLITUDES}: {equal_starts(abar)}")
    print(f"n SNR = 1 for n = 1, 50, 5000 at index {[decision_index(abar, n) for n in (1, 50, 5000)]}")
    data = {s: Errors.of(Region(s), abar) for s in AMPLITUDES}
    for s, errors in data.items():
        print(f"s = {s:g}", *errors.lines(), sep="\n")
    draw(abar, data).savefig(PICTURE, dpi=250)
    print(PICTURE)


def draw(abar: torch.Tensor, data: dict[float, Errors]) -> Figure:
    """Draw the page's picture from its errors, by amplitude."""
    figure = Figure(figsize=(7.2, 6.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    (a, b), (c, d) = figure.subplots(2, 2)
    _draw_orders(a, data[1.0])
    _draw_amplitudes(b, data)
    _draw_decision(c, abar)
    _draw_starts(d, abar)
    for axes in (a, b, c, d):
        axes.tick_params(labelsize=7.5)
        axes.grid(color="#E5E5E5", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_orders(axes: Axes, errors: Errors) -> None:
    axes.plot(COUNTS, errors.paths, ":", color=COLOURS[1], label="SDE, ancestral: paths")
    axes.plot(COUNTS, errors.ancestral, "-", color=COLOURS[1], label="SDE, ancestral: frequency")
    axes.plot(COUNTS, errors.ddim, "-", color=COLOURS[0], label="ODE, DDIM: frequency")
    evaluations = [2 * n - 1 for n in COUNTS]
    axes.plot(evaluations, errors.heun, "-", color=COLOURS[2], label="ODE, Heun: frequency")
    for power, level, side in ((1, 0.028, 1), (2, 0.0004, -1)):
        x = np.array([25.0, 100.0])
        axes.plot(x, level * (100 / x) ** power, color="#999999", linewidth=0.8)
        axes.annotate(
            f"slope −{power}",
            (50, level * 2**power),
            (4 * side, 2 * side),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="bottom" if side > 0 else "top",
            fontsize=7,
            color="#666666",
        )
    _log_log(axes, "evaluations of the denoiser", "error")
    _title(axes, "A  Noise to decision, s = 1")


def _draw_amplitudes(axes: Axes, data: dict[float, Errors]) -> None:
    for colour, (s, errors) in zip(COLOURS, data.items(), strict=False):
        axes.plot(COUNTS, errors.ddim, "-", color=colour, label=f"s = {s:g}, ODE")
        axes.plot(COUNTS, errors.ancestral, "--", color=colour, label=f"s = {s:g}, SDE")
    axes.axhline(TOLERANCE, color="#999999", linewidth=0.8)
    _log_log(axes, "num_steps", "error of the frequency")
    _title(axes, "B  Larger labels need more steps")


def _draw_decision(axes: Axes, abar: torch.Tensor) -> None:
    indices = range(0, len(abar), 4)
    for colour, s in zip(COLOURS, AMPLITUDES, strict=False):
        axes.plot(indices, [undecided(Region(s), abar[t]) for t in indices], color=colour, label=f"s = {s:g}")
    axes.plot(
        indices, [undecided(Region(1.0, 1), abar[t]) for t in indices], ":", color="black", label="s = 1, 1 voxel"
    )
    list_of_ten = uniform_steps(len(abar), 10)
    axes.plot(list_of_ten, [0] * 10, "|", color="black", markersize=9, clip_on=False, label="uniform list of 10")
    axes.set_xlim(1000, 0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time index t: the chain runs to the right", fontsize=8)
    axes.set_ylabel("share of the variance still open", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper right")
    _title(axes, "C  Where the decision falls")


def _draw_starts(axes: Axes, abar: torch.Tensor) -> None:
    region = Region()
    starts, marked = list(range(1000, 699, -4)), range(1000, 699, -25)
    for presegmentation in (1, -1):
        for rule, exact, colour, name in (
            (ODE, exact_frequency_ode, COLOURS[0], "ODE"),
            (SDE, exact_frequency_sde, COLOURS[1], "SDE"),
        ):
            line = [exact(region, abar[t - 1], presegmentation) for t in starts]
            axes.plot(starts, line, color=colour, label=f"{name}, exact" if presegmentation > 0 else None)
            dots = [frequencies(region, abar, t, presegmentation, rule, (3,))[0] for t in marked]
            mark, label = "o" if rule is ODE else "x", f"{name}, 3 steps" if presegmentation > 0 else None
            axes.plot(marked, dots, mark, color=colour, markersize=4, markerfacecolor="none", label=label)
    axes.axhline(region.belief, color="#999999", linewidth=0.8)
    axes.text(702, region.belief - 0.015, "what the image says", ha="right", va="top", fontsize=7, color="#666666")
    axes.text(705, 0.95, "presegmentation right", ha="right", va="top", fontsize=7.5)
    axes.text(705, 0.05, "presegmentation wrong", ha="right", va="bottom", fontsize=7.5)
    axes.set_xlim(1005, 695)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("T'", fontsize=8)
    axes.set_ylabel("members that say structure", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(0.45, 0.42))
    _title(axes, "D  Started from a noised presegmentation, s = 1")


def _log_log(axes: Axes, x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, 220)
    axes.set_ylim(1e-4, 0.6)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="lower left")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, weight="bold", loc="left")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _phi(v: float) -> float:
    """Return the standard normal distribution function."""
    return 0.5 * math.erfc(-v / math.sqrt(2))


if __name__ == "__main__":
    main()
