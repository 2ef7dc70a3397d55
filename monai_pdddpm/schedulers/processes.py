"""Forward processes: how a state at time t is made, in training and at the start, and what undoes it.

``ddpm`` is the paper's. ``residual`` (Resfusion, Shi et al. 2024, eq. 8) slides from x_0 to the pre-segmentation as it
adds noise, so that at the time where sqrt(abar) = 1/2 nothing of x_0 is left and training starts where inference does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .schedule import start_state

Rule = Callable[..., torch.Tensor]


class DDPMProcess:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""

    def noisy(self, x_0: torch.Tensor, x_pre: torch.Tensor, abar_t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return a training state at t.

        Args:
            x_0: the true state, (B, K, ...).
            x_pre: the pre-segmentation's state, of the same shape (not used by this process).
            abar_t: scalar or (B, 1, ...).
            noise: eps, of the same shape.
        """
        return start_state(x_0, noise, abar_t)

    def step(self, rule: Rule, x_t, x_0, x_pre, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """Return x_prev by a reverse rule, given the predicted x_0."""
        return rule(x_t, x_0, abar_t, abar_prev, noise)


class ResidualProcess(DDPMProcess):
    """x_t = (2 sqrt(abar_t) - 1) x_0 + (1 - sqrt(abar_t)) x_pre + sqrt(1 - abar_t) eps.

    With R = x_pre - x_0 this is x_t = sqrt(abar_t) x_0 + (1 - sqrt(abar_t)) R + noise, and x_t - R is an ordinary
    diffusion of x_0 - R, so every rule of that serves here.
    """

    def noisy(self, x_0, x_pre, abar_t, noise) -> torch.Tensor:
        """Return a training state at t; see :meth:`DDPMProcess.noisy`."""
        root = abar_t.sqrt()
        return (2 * root - 1) * x_0 + (1 - root) * x_pre + (1 - abar_t).sqrt() * noise

    def step(self, rule: Rule, x_t, x_0, x_pre, abar_t, abar_prev, noise=None) -> torch.Tensor:
        """Return x_prev by a reverse rule on x_t - R, given the predicted x_0."""
        residual = x_pre - x_0
        return rule(x_t - residual, x_0 - residual, abar_t, abar_prev, noise) + residual


def forward_process(training: str) -> DDPMProcess:
    """Return the forward process that belongs to a way of training.

    Args:
        training: ``"ddpm"``, ``"presegmentation"``, ``"recycled"`` or ``"residual"``.

    Raises:
        ValueError: when it is another one.
    """
    if training in ("ddpm", "presegmentation", "recycled"):
        return DDPMProcess()
    if training == "residual":
        return ResidualProcess()
    raise ValueError(
        f"training_process: '{training}' was found, ddpm, presegmentation, recycled or residual is expected"
    )


def matching_start(abar: torch.Tensor) -> int:
    """Return the T' at which the residual process starts exactly where it was trained: sqrt(abar) nearest to 1/2."""
    return int((abar.sqrt() - 0.5).abs().argmin()) + 1
