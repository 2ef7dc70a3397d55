"""A learning rate that falls along half a cosine, also when a training goes on for longer than it was begun for."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from monai_pdddpm.utils.errors import UserError


class CosineDecay(LambdaLR):
    """Set the learning rate to ``lr (1 + cos(pi n / N)) / 2`` after n of N epochs, 0 from N on.

    That is equation 5 of SGDR (Loshchilov and Hutter 2017) without restarts, computed from n alone. PyTorch's
    ``CosineAnnealingLR`` keeps the N that a training was begun with in its state: asked for more epochs later, its rate
    would rise again.

    Args:
        optimizer: whose groups' first learning rates are lr.
        epochs: N, 1 or more.

    Raises:
        UserError: when there is no epoch.
    """

    def __init__(self, optimizer: Optimizer, epochs: int) -> None:
        if epochs < 1:
            raise UserError(f"max_epochs: found {epochs}, expected 1 or more; fix --max_epochs")
        super().__init__(optimizer, lambda n: (1 + math.cos(math.pi * min(n, epochs) / epochs)) / 2)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the epoch of a saved state, of ``CosineAnnealingLR`` too, along this object's own cosine.

        The optimizer's state is to be loaded before.
        """
        super().load_state_dict({**state_dict, "lr_lambdas": [None] * len(self.lr_lambdas)})
        self._last_lr = [lr * falls(self.last_epoch) for lr, falls in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
