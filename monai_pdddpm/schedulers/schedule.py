"""MONAI's noise schedules, and the state at a time of theirs."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDPMScheduler


def cumulative_schedule(num_train_timesteps: int = 1000, schedule: str = "cosine") -> torch.Tensor:
    """Return abar_t for t = 0 .. T-1.

    Args:
        num_train_timesteps: T.
        schedule: name in :class:`monai.networks.schedulers.NoiseSchedules`: ``"cosine"``, ``"linear_beta"``, ...

    Returns:
        (T,) float32, falling from almost 1 towards 0.
    """
    return DDPMScheduler(num_train_timesteps=num_train_timesteps, schedule=schedule).alphas_cumprod


def signal_to_noise(abar_t: torch.Tensor) -> torch.Tensor:
    """Return SNR(t) = abar_t / (1 - abar_t)."""
    return abar_t / (1 - abar_t)


def start_state(x_pre: torch.Tensor, noise: torch.Tensor, abar_t: torch.Tensor) -> torch.Tensor:
    """Return sqrt(abar_t) x + sqrt(1 - abar_t) eps: a sample of q(x_t | x_0), or PD-DDPM's start from x_pre.

    Args:
        x_pre: the clean state, (B, K, ...).
        noise: eps, of a shape that broadcasts with it.
        abar_t: scalar or (B, 1, ...).

    Reference: Ho et al. 2020 (DDPM), eq. 4; Guo et al. 2022 (PD-DDPM).
    """
    return abar_t.sqrt() * x_pre + (1 - abar_t).sqrt() * noise
