"""The losses of segmenter and denoiser, over the voxels that have a label."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn import functional as F

from monai_pdddpm.inferers.denoising_inferer import Denoised, plain
from monai_pdddpm.schedulers import PREDICTIONS
from monai_pdddpm.utils.checks import check_choice

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


class DenoisingLoss(nn.Module):
    """Dice and cross-entropy on the logits of x_0, or the mean squared error of the noise or of v (as in the paper).

    Cross-entropy is a proper score and determines the calibration, so it weighs more than Dice by default.

    Args:
        prediction: ``"x0"``, ``"eps"`` or ``"v"``, that of the network.
        lambda_dice: weight of the Dice loss.
        lambda_ce: weight of the cross-entropy.

    Raises:
        UserError: if the prediction is another one.
    """

    def __init__(self, prediction: str = "x0", lambda_dice: float = 0.2, lambda_ce: float = 1.0) -> None:
        super().__init__()
        check_choice("prediction", prediction, PREDICTIONS)
        self.prediction = prediction
        self.dice_ce = PartialDiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
        )

    def forward(self, denoised: Denoised, label: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            denoised: result of :class:`monai_pdddpm.inferers.DenoisingInferer`.
            label: true label maps, (B, 1, ...); voxels of the class -1 are left out.
        """
        if self.prediction == "x0":
            return self.dice_ce(denoised.output, plain(label))
        labeled = plain(label) != IGNORED
        return F.mse_loss(denoised.output * labeled, denoised.target * labeled)
