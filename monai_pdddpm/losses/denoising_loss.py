"""The loss of the denoiser, by the quantity that it predicts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from monai_pdddpm.inferers.denoising_inferer import Denoised, plain
from monai_pdddpm.schedulers import PREDICTIONS
from monai_pdddpm.utils.checks import check_choice

from .partial import IGNORED, PartialDiceCELoss


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
