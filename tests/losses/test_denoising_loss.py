"""The loss is MONAI's Dice with cross-entropy for x_0, and the mean squared error for noise and v."""

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DiceCELoss

from monai_pdddpm.inferers import Denoised
from monai_pdddpm.losses import DenoisingLoss
from monai_pdddpm.utils.errors import UserError


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (2, 1, 5, 6, 4), generator=generator)
    output, target = (torch.randn(2, 3, 5, 6, 4, generator=generator) for _ in range(2))
    return Denoised(output, target), label


def dice_and_cross_entropy(logits, label):
    """Both from their definitions, the Dice of the foreground classes over the whole batch."""
    p = logits.double().softmax(1)
    truth = torch.cat([label == k for k in range(logits.shape[1])], 1).double()
    axes = [0, *range(2, logits.dim())]
    dice = (2 * (p * truth).sum(axes) + 1e-5) / (p.sum(axes) + truth.sum(axes) + 1e-5)
    cross_entropy = -(truth * p.log()).sum(1).mean()
    return 1 - dice[1:].mean(), cross_entropy


@pytest.mark.parametrize(
    "weights", [{}, {"lambda_dice": 1.0, "lambda_ce": 0.0}, {"lambda_dice": 2.0, "lambda_ce": 0.5}]
)
def test_x0_by_definition(batch, weights):
    dice, cross_entropy = dice_and_cross_entropy(batch[0].output, batch[1])
    expected = weights.get("lambda_dice", 0.2) * dice + weights.get("lambda_ce", 1.0) * cross_entropy
    assert DenoisingLoss("x0", **weights)(*batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_voxels_without_a_label_are_left_out(batch, prediction):
    denoised, label = batch
    label = torch.where(torch.arange(6)[:, None] > 3, -1, label)
    kept = Denoised(*(part[..., :4, :].clone() for part in denoised))
    scale = 1 if prediction == "x0" else 4 / 6  # the mean of the squares is over all voxels
    expected = DenoisingLoss(prediction)(kept, label[..., :4, :]).item() * scale
    output = denoised.output.requires_grad_()
    loss = DenoisingLoss(prediction)(Denoised(output, denoised.target), label)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert (output.grad[..., 4:, :] == 0).all()
    assert (output.grad[..., :4, :] != 0).any()


def test_no_voxel_has_a_label(batch):
    assert DenoisingLoss()(batch[0], torch.full_like(batch[1], -1)).item() == 0


def test_x0_is_monai_s(batch):
    theirs = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, lambda_dice=0.2, lambda_ce=1.0
    )
    assert torch.equal(DenoisingLoss()(*batch), theirs(batch[0].output, batch[1]))


def test_perfect_logits_cost_next_to_nothing(batch):
    denoised, label = batch
    perfect = torch.cat([label == k for k in range(3)], 1).float() * 60 - 30
    assert DenoisingLoss()(denoised._replace(output=perfect), label) < 1e-5
    assert DenoisingLoss()(denoised._replace(output=-perfect), label) > 10


def test_x0_does_not_look_at_the_target(batch):
    denoised, label = batch
    changed = denoised._replace(target=denoised.target + 5)
    assert torch.equal(DenoisingLoss()(denoised, label), DenoisingLoss()(changed, label))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_regression_is_the_mean_squared_error(batch, prediction):
    denoised, label = batch
    loss = DenoisingLoss(prediction)
    assert loss(*batch).item() == pytest.approx((denoised.output - denoised.target).square().mean().item())
    assert loss(denoised, label * 0).item() == loss(*batch).item()
    assert loss(denoised._replace(output=denoised.target), label) == 0


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_gradient_reaches_the_output(batch, prediction):
    denoised, label = batch
    output = denoised.output.requires_grad_()
    DenoisingLoss(prediction)(denoised._replace(output=output), label).backward()
    assert output.grad.abs().min() > 0


def test_result_carries_no_metadata(batch):
    denoised, label = batch
    loss = DenoisingLoss()(denoised, MetaTensor(label))
    assert not isinstance(loss, MetaTensor)
    assert torch.equal(loss, DenoisingLoss()(denoised, label))


def test_a_batch_without_foreground_is_no_trouble(batch):
    denoised, label = batch
    assert torch.isfinite(DenoisingLoss()(denoised, label * 0))


@pytest.mark.parametrize("prediction", ["x_0", "noise", None])
def test_unknown_prediction(prediction):
    with pytest.raises(UserError, match=r"prediction: found .*, expected .*; give prediction"):
        DenoisingLoss(prediction)
