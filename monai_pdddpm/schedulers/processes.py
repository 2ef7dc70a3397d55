"""Forward processes: the noisy state at time t that a denoiser is trained on."""

from __future__ import annotations

import torch

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError

from .schedule import start_state

TRAINING_PROCESSES = ("ddpm", "presegmentation", "recycled", "residual")


def is_residual(training_process: str) -> bool:
    """Return whether a training process is Resfusion's, in which x_t also contains the pre-segmentation.

    Raises:
        UserError: if it is none of ``TRAINING_PROCESSES``.
    """
    check_choice("training_process", training_process, TRAINING_PROCESSES)
    return training_process == "residual"


def check_residual_start(first: int, abar: torch.Tensor) -> None:
    """Check that the residual process is defined at the first time index, whose sqrt(abar) must be at least 1/2.

    Raises:
        UserError: if it is smaller: the state would hold the truth again, with the opposite sign.

    Reference: Shi et al. 2024 (Resfusion), section 3.2.
    """
    latest = int((abar.sqrt() >= 0.5).sum())
    if first >= latest:
        raise UserError(
            f"start_step: found {first + 1}, expected at most {latest} for the training process 'residual'; give "
            f"--start_step {latest}, in a training --trained_steps#start_step {latest} too"
        )


def noisy_state(
    x_0: torch.Tensor, x_pre: torch.Tensor, abar_t: torch.Tensor, noise: torch.Tensor, residual: bool = False
) -> torch.Tensor:
    """Return a training state at time t.

    Without ``residual`` it is sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. With it, it is
    (2 sqrt(abar_t) - 1) x_0 + (1 - sqrt(abar_t)) x_pre + sqrt(1 - abar_t) eps: where sqrt(abar_t) = 1/2 no x_0 is left,
    and training starts where inference does.

    Args:
        x_0: clean state, (B, K, ...).
        x_pre: state of the pre-segmentation, of the same shape.
        abar_t: scalar or (B, 1, ...).
        noise: eps, of the same shape as ``x_0``.
        residual: use Resfusion's process.

    Reference: Ho et al. 2020 (DDPM), eq. 4; Shi et al. 2024 (Resfusion), eq. 8.
    """
    if not residual:
        return start_state(x_0, noise, abar_t)
    root = abar_t.sqrt()
    return (2 * root - 1) * x_0 + (1 - root) * x_pre + (1 - abar_t).sqrt() * noise
