"""Reverse steps from t to t_prev, for any pair of times.

MONAI's ``DDPMScheduler.step`` takes the coefficients of (t, t-1) whatever list it was given, and its
``DDIMScheduler.step`` those of (t, t - T // n) while ``set_timesteps`` spaces otherwise; here the pair is explicit.
``abar_prev = 1`` stands for the end of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


def implied_noise(x_t: torch.Tensor, x_0: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
    """Return the eps with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    return (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()


def ddim_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return x_prev by DDIM's rule (Song et al. 2021, eq. 12 and 16).

    Args:
        x_t: the state, (B, K, ...).
        x_0: the prediction of the clean state.
        abar_t: scalar tensor.
        abar_prev: scalar tensor, larger than ``abar_t``.
        eta: 0 is deterministic, 1 as random as the ancestral rule.
        noise: needed when eta > 0.

    Raises:
        ValueError: when it is needed and not given.
    """
    if eta > 0 and noise is None:
        raise ValueError(f"noise: None was found, a field of x_t's shape is expected when eta = {eta} > 0")
    sigma = eta * ((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev)).sqrt()
    direction = (1 - abar_prev - sigma**2).clamp(min=0.0).sqrt() * implied_noise(x_t, x_0, abar_t)
    x_prev = abar_prev.sqrt() * x_0 + direction
    if noise is not None:
        x_prev = x_prev + sigma * noise
    return x_prev


def ancestral_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    noise: torch.Tensor,
    variance: str = "fixed_small",
) -> torch.Tensor:
    """Return x_prev from the posterior q(x_prev | x_t, x_0) (DDPM, eq. 6 and 7, for a pair of times).

    Args:
        x_t: the state, (B, K, ...).
        x_0: the prediction of the clean state.
        abar_t: scalar tensor.
        abar_prev: scalar tensor, larger than ``abar_t``.
        noise: of x_t's shape or one that broadcasts.
        variance: ``"fixed_small"``, the posterior's, or ``"fixed_large"``, beta (the paper's choice).
    """
    alpha = abar_t / abar_prev
    beta = 1 - alpha
    mean = (abar_prev.sqrt() * beta * x_0 + alpha.sqrt() * (1 - abar_prev) * x_t) / (1 - abar_t)
    scale = (1 - abar_prev) / (1 - abar_t) if variance == "fixed_small" else (abar_prev < 1).float()
    return mean + (scale * beta).sqrt() * noise


@dataclass(frozen=True)
class DDIMRule:
    """DDIM's reverse rule.

    Args:
        eta: 0 (deterministic: all of a member's noise is in its start) to 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: {self.eta} was found, a number from 0 to 1 is expected")

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return self.eta > 0

    def __call__(self, x_t, x_0, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """See :func:`ddim_step`."""
        return ddim_step(x_t, x_0, abar_t, abar_prev, self.eta, noise)


@dataclass(frozen=True)
class AncestralRule:
    """DDPM's reverse rule.

    Args:
        variance: ``"fixed_small"`` or ``"fixed_large"``.
    """

    variance: str = "fixed_small"

    def __post_init__(self) -> None:
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ValueError(f"variance: '{self.variance}' was found, fixed_small or fixed_large is expected")

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return True

    def __call__(self, x_t, x_0, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """See :func:`ancestral_step`."""
        return ancestral_step(x_t, x_0, abar_t, abar_prev, noise, self.variance)
