"""The numbers that define a reverse chain, and one step of it.

The loop over the steps is :meth:`monai_pdddpm.networks.PDDDPM.reverse`, the only one in the package.
"""

from typing import NamedTuple

import torch

from .rules import reverse_step


class Chain(NamedTuple):
    """Time steps, reverse rule and solver of a chain, as plain values that TorchScript takes.

    Args:
        time_steps: strictly descending time indices; the prediction at the last one is the answer.
        solver_steps: solver steps of the ODE blocks at each time, 0 for the network's own.
        rule: ``"ddim"``, ``"fixed_small"`` or ``"fixed_large"``, see :func:`monai_pdddpm.schedulers.reverse_step`.
        eta: stochasticity of DDIM, 0 to 1.
        residual: whether the denoiser was trained with Resfusion's process.
        solver: solver of the ODE blocks; empty uses the network's own.
    """

    time_steps: list[int]
    solver_steps: list[int]
    rule: str = "ddim"
    eta: float = 0.0
    residual: bool = False
    solver: str = ""

    @property
    def draws(self) -> int:
        """Return the number of noise fields of a member: the start, and each step of a stochastic rule."""
        return len(self.time_steps) if self.rule != "ddim" or self.eta > 0 else 1


def chain_step(
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    x_pre: torch.Tensor,
    abar_t: torch.Tensor,
    abar_prev: torch.Tensor,
    noise: torch.Tensor | None,
    chain: Chain,
) -> torch.Tensor:
    """Return x_prev by the chain's rule.

    With R = x_pre - x_0, Resfusion's x_t - R is an ordinary diffusion of x_0 - R, so the rule is applied to that.

    ``x_pre``, the state of the pre-segmentation, is used by the residual process only; the other arguments are those of
    :func:`monai_pdddpm.schedulers.reverse_step`.

    Reference: Shi et al. 2024 (Resfusion), eq. 8.
    """
    if chain.residual:
        residual = x_pre - x_0
        x_prev = reverse_step(x_t - residual, x_0 - residual, abar_t, abar_prev, noise, chain.rule, chain.eta)
        return x_prev + residual
    return reverse_step(x_t, x_0, abar_t, abar_prev, noise, chain.rule, chain.eta)
