"""Dice and cross-entropy where only a part of the voxels has a label."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss

IGNORED = -1  # class of voxels without a label, see monai_pdddpm.transforms.LabelValuesd


class PartialDiceCELoss(DiceCELoss):
    """MONAI's ``DiceCELoss`` over the voxels that have a label; 0 where no voxel has one.

    Args:
        args: MONAI's; ``softmax`` and ``to_onehot_y`` are expected.
        kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dice.ignore_index = self.cross_entropy.ignore_index = IGNORED

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits, (B, K, ...), and classes, (B, 1, ...), -1 in voxels without a label."""
        if (target == IGNORED).all():  # the mean of no voxels is NaN
            return 0 * input.sum()
        return super().forward(input, target)
