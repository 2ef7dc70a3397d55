"""Reverse steps from t to t_prev, for any pair of times, and the chain that they make.

MONAI's ``DDPMScheduler.step`` always uses the coefficients of (t, t-1), and its ``DDIMScheduler.step`` those of
(t, t - T // n), although ``set_timesteps`` spaces the times differently. Here the pair is an argument;
``abar_prev = 1`` is the end of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from monai_pdddpm.utils.checks import check_choice, check_number


def implied_noise(x_t: torch.Tensor, x_0: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
    """Return the eps with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    return (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()


def reverse_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    noise: torch.Tensor | None = None,
    eta: float = 0.0,
    large_variance: bool = False,
) -> torch.Tensor:
    """Return x_prev by the rule of DDIM, which with eta 1 is the posterior q(x_prev | x_t, x_0) of DDPM.

    Args:
        x_t: the state, (B, K, ...).
        x_0: the prediction of the clean state.
        abar_t: scalar tensor.
        abar_prev: scalar tensor, larger than ``abar_t``.
        noise: standard normal field, required if eta > 0.
        eta: 0 is deterministic, 1 equals DDPM's rule.
        large_variance: scale the noise by DDPM's beta in place of the posterior's variance.

    Raises:
        ValueError: if noise is required and missing.

    Reference: Song et al. 2021 (DDIM), eq. 12 and 16; Ho et al. 2020 (DDPM), eq. 6 and 7.
    """
    if eta > 0 and noise is None:
        raise ValueError(f"noise: found None, expected a field of x_t's shape for eta = {eta}; draw one")
    beta = 1 - abar_t / abar_prev
    sigma = eta * ((1 - abar_prev) / (1 - abar_t) * beta).sqrt()
    direction = (1 - abar_prev - sigma**2).clamp(min=0.0).sqrt() * implied_noise(x_t, x_0, abar_t)
    x_prev = abar_prev.sqrt() * x_0 + direction
    if noise is not None:
        x_prev = x_prev + (beta.sqrt() * (abar_prev < 1) if large_variance else sigma) * noise
    return x_prev


class Chain(NamedTuple):
    """Time steps, reverse rule and solver of a chain, as plain values that TorchScript takes.

    Args:
        time_steps: strictly descending time indices; the prediction at the last one is the answer.
        solver_steps: solver steps of the ODE blocks at each time, 0 for the network's own.
        eta: as in :func:`reverse_step`.
        large_variance: likewise.
        solver: solver of the ODE blocks; empty uses the network's own.
    """

    time_steps: list[int]
    solver_steps: list[int]
    eta: float = 0.0
    large_variance: bool = False
    solver: str = ""

    @property
    def draws(self) -> int:
        """Return the number of noise fields of a member: the start, and each step of a stochastic rule."""
        return len(self.time_steps) if self.eta > 0 else 1


def chain_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    x_pre: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    noise: torch.Tensor | None,
    chain: Chain,
    residual: bool = False,
) -> torch.Tensor:
    """Return x_prev by the chain's rule; only the residual process uses ``x_pre``, the pre-segmentation's state.

    With R = x_pre - x_0, Resfusion's x_t - R is an ordinary diffusion of x_0 - R, so the rule is applied to that.

    Reference: Shi et al. 2024 (Resfusion), eq. 8.
    """
    if residual:
        r = x_pre - x_0
        return reverse_step(x_t - r, x_0 - r, abar_t, abar_prev, noise, chain.eta, chain.large_variance) + r
    return reverse_step(x_t, x_0, abar_t, abar_prev, noise, chain.eta, chain.large_variance)


@dataclass(frozen=True)
class DDIMRule:
    """The reverse rule of DDIM.

    Args:
        eta: 0 (deterministic: all noise of a member is in its start) to 1.

    Raises:
        UserError: if eta is out of range.
    """

    eta: float = 0.0
    large_variance = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", check_number("eta", self.eta, 0, 1))


@dataclass(frozen=True)
class AncestralRule:
    """The reverse rule of DDPM, for any pair of times.

    Args:
        variance: ``"fixed_small"``, that of the posterior, or ``"fixed_large"``, beta (the paper's choice).

    Raises:
        UserError: if the variance is another one.
    """

    variance: str = "fixed_small"
    eta = 1.0

    def __post_init__(self) -> None:
        check_choice("variance", self.variance, ("fixed_small", "fixed_large"))

    @property
    def large_variance(self) -> bool:
        """Return whether the noise has the variance beta."""
        return self.variance == "fixed_large"
