"""Training steps whose gradients are not finite."""

from __future__ import annotations

import logging

import torch
from ignite.engine import Engine

from monai_pdddpm.utils.errors import UserError

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 20


class FiniteGradients:
    """Skip optimizer steps whose gradients are NaN or infinite, instead of losing the weights.

    PyTorch's bfloat16 convolutions on a CPU now and then return such gradients for small windows, with the same seed in
    one run and not in the next. A training that diverges is stopped.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.in_a_row = 0

    def attach(self, engine: Engine) -> None:
        """Check the gradients before each step of the optimizer."""
        self.optimizer.register_step_pre_hook(self._check)

    def _check(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """Remove the gradients unless all are finite; fail after 20 skipped steps in a row."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise UserError(
                f"learning_rate: found {self.in_a_row} steps in a row with gradients that are not finite, expected a "
                "training that converges; give a smaller --learning_rate, or --precision float32"
            )
        logger.warning("gradients that are not finite: step skipped")
        optimizer.zero_grad(set_to_none=True)
