"""Reverse steps from t to t_prev, for any pair of times.

MONAI's ``DDPMScheduler.step`` always uses the coefficients of (t, t-1), and its ``DDIMScheduler.step`` those of
(t, t - T // n), although ``set_timesteps`` spaces the times differently. Here the pair is an argument;
``abar_prev = 1`` is the end of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monai_pdddpm.utils.checks import check_choice, check_number


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
    """Return x_prev by the rule of DDIM.

    Args:
        x_t: the state, (B, K, ...).
        x_0: the prediction of the clean state.
        abar_t: scalar tensor.
        abar_prev: scalar tensor, larger than ``abar_t``.
        eta: 0 is deterministic, 1 equals the ancestral rule.
        noise: standard normal field, required if eta > 0.

    Raises:
        ValueError: if noise is required and missing.

    Reference: Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    if eta > 0 and noise is None:
        raise ValueError(f"noise: found None, expected a field of x_t's shape for eta = {eta}; draw one")
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
    """Return x_prev from the posterior q(x_prev | x_t, x_0), for any pair of times.

    Args:
        x_t: the state, (B, K, ...).
        x_0: the prediction of the clean state.
        abar_t: scalar tensor.
        abar_prev: scalar tensor, larger than ``abar_t``.
        noise: of x_t's shape or one that broadcasts.
        variance: ``"fixed_small"``, that of the posterior, or ``"fixed_large"``, beta (the paper's choice).

    Reference: Ho et al. 2020 (DDPM), eq. 6 and 7.
    """
    alpha = abar_t / abar_prev
    beta = 1 - alpha
    mean = (abar_prev.sqrt() * beta * x_0 + alpha.sqrt() * (1 - abar_prev) * x_t) / (1 - abar_t)
    scale = (1 - abar_prev) / (1 - abar_t) if variance == "fixed_small" else (abar_prev < 1).float()
    return mean + (scale * beta).sqrt() * noise


def reverse_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    noise: torch.Tensor | None,
    rule: str,
    eta: float,
) -> torch.Tensor:
    """Return x_prev by the rule of a name, so that TorchScript can choose it.

    The name is ``"ddim"``, see :func:`ddim_step`, or the variance of :func:`ancestral_step`. A deterministic rule takes
    no noise.
    """
    if rule == "ddim":
        return ddim_step(x_t, x_0, abar_t, abar_prev, eta, noise)
    assert noise is not None
    return ancestral_step(x_t, x_0, abar_t, abar_prev, noise, rule)


@dataclass(frozen=True)
class DDIMRule:
    """The reverse rule of DDIM.

    Args:
        eta: 0 (deterministic: all noise of a member is in its start) to 1.

    Raises:
        UserError: if eta is out of range.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", check_number("eta", self.eta, 0, 1))

    @property
    def name(self) -> str:
        """Return the name that :func:`reverse_step` takes."""
        return "ddim"

    def __call__(self, x_t, x_0, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """Return x_prev, see :func:`ddim_step`."""
        return reverse_step(x_t, x_0, abar_t, abar_prev, noise, self.name, self.eta)


@dataclass(frozen=True)
class AncestralRule:
    """The reverse rule of DDPM.

    Args:
        variance: ``"fixed_small"`` or ``"fixed_large"``.

    Raises:
        UserError: if the variance is another one.
    """

    variance: str = "fixed_small"

    def __post_init__(self) -> None:
        check_choice("variance", self.variance, ("fixed_small", "fixed_large"))

    @property
    def name(self) -> str:
        """Return the name that :func:`reverse_step` takes."""
        return self.variance

    @property
    def eta(self) -> float:
        """Return the stochasticity, that of DDIM with eta 1."""
        return 1.0

    def __call__(self, x_t, x_0, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """Return x_prev, see :func:`ancestral_step`."""
        return reverse_step(x_t, x_0, abar_t, abar_prev, noise, self.name, self.eta)
