"""A chain of few steps on an example that can be solved; the model behind `few_steps.py`.

A region of n voxels is all structure (+s) or all background (-s), and the image gives the probability of structure.
Only the state's coordinate along (1, ..., 1) / sqrt(n) decides, so the chain is one-dimensional, with clean states a
and -a, a = s sqrt(n), and a denoiser in closed form. Rules, schedule and lists of steps are the package's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.optimize import brentq
from scipy.stats import norm

from monai_pdddpm.schedulers import reverse_step, signal_to_noise, start_state, uniform_steps

ODE, SDE = 0.0, 1.0  # eta of the rules of DDIM and DDPM


@dataclass(frozen=True)
class Region:
    """Voxels that are all structure or all background.

    Args:
        amplitude: s of the label code {-s, s}.
        voxels: n.
        belief: probability of structure, given the image.
    """

    amplitude: float = 1.0
    voxels: int = 50
    belief: float = 0.7

    @property
    def distance(self) -> float:
        """Return a = s sqrt(n): the clean states are -a and a."""
        return self.amplitude * math.sqrt(self.voxels)

    def log_odds(self, y: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
        """Return the log odds of structure given a state: Bayes' rule for q(x_t | x_0), DDPM's eq. 4."""
        prior = math.log(self.belief / (1 - self.belief))
        return prior + 2 * self.distance * abar_t.sqrt() * y / (1 - abar_t)

    def denoise(self, y: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t], the prediction of a perfect denoiser."""
        return self.distance * torch.tanh(self.log_odds(y, abar_t) / 2)

    def start(self, presegmentation: float, abar_t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the noised pre-segmentation: 1 for structure, -1 for background, 0 for pure noise."""
        if presegmentation == 0:
            return noise.clone()
        return start_state(torch.tensor(presegmentation * self.distance, dtype=noise.dtype), noise, abar_t)


def evidence(abar_t: torch.Tensor, difference: float, voxels: int = 1) -> torch.Tensor:
    """Return KL(q(x_t | x_pre) || q(x_t | x_0)) in nats, of two Gaussians with the same variance."""
    return signal_to_noise(abar_t) / 2 * difference**2 * voxels


def chain(
    region: Region,
    y: torch.Tensor,
    steps: Sequence[int],
    abar: torch.Tensor,
    eta: float,
    generator: torch.Generator | None = None,
    heun: bool = False,
) -> torch.Tensor:
    """Run a list of descending time steps from states ``y`` and return the prediction at the last one.

    A stochastic rule takes its noise from ``generator``. With ``heun`` each step uses the mean of the predictions at
    both its ends (Karras et al. 2022).
    """
    for t, t_prev in pairwise(steps):
        x_0 = region.denoise(y, abar[t])
        z = None if generator is None else torch.randn(len(y), generator=generator, dtype=torch.float64)
        if heun:
            ahead = reverse_step(y, x_0, abar[t], abar[t_prev], z, eta)
            x_0 = (x_0 + region.denoise(ahead, abar[t_prev])) / 2
        y = reverse_step(y, x_0, abar[t], abar[t_prev], z, eta)
    return region.denoise(y, abar[steps[-1]])


def normal_sample(count: int, seed: int = 0) -> torch.Tensor:
    """Return the standard normal quantiles of ``count`` equally likely intervals, shuffled."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(middles)[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


def frequency(x_0: torch.Tensor) -> float:
    """Return the fraction of members that are structure."""
    return (x_0 > 0).double().mean().item()


def probability(x_0: torch.Tensor, region: Region) -> float:
    """Return the members' mean probability of structure."""
    return ((x_0 / region.distance + 1) / 2).mean().item()


def exact_frequency(eta: float, region: Region, abar_t: torch.Tensor, presegmentation: float) -> float:
    """Return how often infinitely many steps end at structure.

    The SDE samples the posterior of its start. The ODE keeps the order of states and their marginal distribution, so
    the upper ``belief`` of the noised truth's distribution goes to structure.
    """
    if eta == SDE:
        start = region.start(presegmentation, abar_t, normal_sample(100_000))
        return region.log_odds(start, abar_t).sigmoid().mean().item()
    radius = region.distance * signal_to_noise(abar_t).sqrt().item()
    threshold = brentq(
        lambda v: region.belief * norm.cdf(v - radius) + (1 - region.belief) * (norm.cdf(v + radius) - 1),
        -radius - 40,
        radius + 40,
    )
    return float(norm.sf(threshold - presegmentation * radius))


def undecided(region: Region, abar_t: torch.Tensor) -> float:
    """Return the fraction of the region's variance that a state of the noised truth leaves open."""
    z, open_variance = normal_sample(20_001), 0.0
    for truth, weight in ((1, region.belief), (-1, 1 - region.belief)):
        p = region.log_odds(region.start(truth, abar_t, z), abar_t).sigmoid()
        open_variance += weight * (p * (1 - p)).mean().item()
    return open_variance / (region.belief * (1 - region.belief))


def frequencies(
    region: Region,
    abar: torch.Tensor,
    eta: float,
    counts: Iterable[int],
    start: int = 1000,
    presegmentation: float = 0,
    members: int = 100_000,
    heun: bool = False,
) -> list[float]:
    """Return the frequency of structure after each number of steps from T' = ``start`` to index 0."""
    first = region.start(presegmentation, abar[start - 1], normal_sample(members))
    generator = torch.Generator().manual_seed(0) if eta == SDE else None
    runs = (chain(region, first, uniform_steps(start, n), abar, eta, generator, heun) for n in counts)
    return [frequency(x_0) for x_0 in runs]
