"""Cosine decay of the learning rate that can be extended when training continues."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class CosineDecay(LambdaLR):
    """Set the learning rate to ``lr (1 + cos(pi n / N)) / 2`` after n of N epochs, 0 from N on.

    The rate depends on n alone. PyTorch's ``CosineAnnealingLR`` stores the N of the first run in its state; with more
    epochs later, its rate would rise again.

    Args:
        optimizer: optimizer whose initial learning rates are lr.
        epochs: N, 1 or more.

    Reference: Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts.
    """

    def __init__(self, optimizer: Optimizer, epochs: int) -> None:
        super().__init__(optimizer, lambda n: (1 + math.cos(math.pi * min(n, epochs) / epochs)) / 2)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the epoch of a saved state, also of ``CosineAnnealingLR``, along this object's own cosine.

        Load the optimizer's state before.
        """
        super().load_state_dict({**state_dict, "lr_lambdas": [None] * len(self.lr_lambdas)})
        self._last_lr = [lr * decay(self.last_epoch) for lr, decay in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
