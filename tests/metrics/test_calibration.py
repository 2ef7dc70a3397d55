"""Calibration against hand calculations, torchmetrics, and truth drawn from the probabilities."""

import math

import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_dilation
from torchmetrics.functional.classification import multiclass_calibration_error

from monai_pdddpm.metrics import calibration
from monai_pdddpm.metrics.calibration import (
    brier_score,
    error_auroc,
    expected_calibration_error,
    masked_voxels,
    near_structure,
    negative_log_likelihood,
    voxel_metrics,
)
from monai_pdddpm.utils.probabilities import mutual_information, predictive_entropy


def two_classes(background):
    background = torch.as_tensor(background)
    return torch.stack([background, 1 - background], dim=1)


def calibrated_rows(count, classes, seed=0):
    """Probabilities and truth that is drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    probability = torch.randn(count, classes, generator=generator, dtype=torch.float64).mul(1.5).softmax(1)
    return probability, torch.multinomial(probability, 1, generator=generator)[:, 0]


def test_entropy_by_hand():
    probability = torch.tensor([[1.0, 0.5, 0.25], [0.0, 0.5, 0.75]])
    expected = [0, math.log(2), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    assert predictive_entropy(probability, dim=0).tolist() == pytest.approx(expected)
    assert predictive_entropy(probability.T[None], dim=2).shape == (1, 3)


def test_entropy_of_rounding_errors_and_of_half_precision():
    assert predictive_entropy(torch.tensor([1 + 1e-6, -1e-6]), dim=0).item() == 0
    found = predictive_entropy(torch.full((4,), 0.25, dtype=torch.float16), dim=0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.log(4))
    probability = MetaTensor(torch.full((2, 3), 0.5), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    assert torch.equal(predictive_entropy(probability, dim=0).affine, probability.affine)


def test_mutual_information_by_hand():
    members = torch.tensor([[[1.0, 0.5, 0.9]], [[0.0, 0.5, 0.1]]]), torch.tensor([[[0.0, 0.5, 0.9]], [[1.0, 0.5, 0.1]]])
    mean = torch.stack(members).mean(0)
    member_entropy = torch.stack([predictive_entropy(member, dim=0) for member in members]).mean(0)
    # Certain members that differ, undecided members that agree, nearly certain members that agree.
    assert mutual_information(mean, member_entropy + 1e-6).min() == 0  # never negative
    assert mutual_information(mean, member_entropy).flatten().tolist() == pytest.approx([math.log(2), 0, 0], abs=1e-7)


@pytest.mark.parametrize("shape", [(14, 9, 11), (14, 9)])
def test_near_structure_is_repeated_dilation(shape):
    truth = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.01
    truth[(0,) * len(shape)] = True
    expected = binary_dilation(truth.numpy(), structure=torch.ones((3,) * len(shape)).numpy(), iterations=3)
    assert torch.equal(near_structure(truth), torch.from_numpy(expected))
    assert not near_structure(torch.zeros_like(truth)).any()


def test_calibration_error_by_hand():
    # Ten voxels of confidence 0.85, six correct; ten of 0.65, all correct.
    probability = two_classes([0.85] * 10 + [0.65] * 10)
    truth = torch.tensor([0] * 6 + [1] * 4 + [0] * 10)
    assert expected_calibration_error(probability, truth) == pytest.approx(0.5 * 0.25 + 0.5 * 0.35)
    # In one bin the two gaps partly cancel: accuracy 0.8, confidence 0.75.
    assert expected_calibration_error(probability, truth, bins=1) == pytest.approx(0.05)
    # 0.605 and 0.64 are in one of 15 bins, and would be in two of 16
    assert expected_calibration_error(two_classes([0.605, 0.64]), torch.tensor([0, 1])) == pytest.approx(0.1225)


def test_calibration_error_of_the_lowest_bins():
    # of 20 classes, 15 bins: confidence 0.06 in the first one, never right, and 0.1 in the second, always right
    rows = torch.full((2, 20), 0.94 / 19)
    rows[0, 3], rows[1] = 0.06, 0.9 / 19
    rows[1, 4] = 0.1
    assert expected_calibration_error(rows, torch.tensor([0, 4])) == pytest.approx((0.06 + 0.9) / 2)


def test_calibration_error_of_certainty():
    truth = torch.tensor([0, 1, 1, 0])
    sure = torch.nn.functional.one_hot(truth, 2).float()
    assert expected_calibration_error(sure, truth) == 0
    assert expected_calibration_error(sure, 1 - truth) == 1


@pytest.mark.parametrize(("classes", "bins"), [(2, 15), (3, 10), (5, 15)])
def test_calibration_error_of_truth_drawn_from_the_probabilities(classes, bins):
    probability, truth = calibrated_rows(200_000, classes)
    assert expected_calibration_error(probability, truth, bins) < 0.006
    # Sharpened probabilities are overconfident by confidence - accuracy, whatever the bins: the error of one bin.
    sharp = probability.pow(3) / probability.pow(3).sum(1, keepdim=True)
    gap = (sharp.max(1)[0].mean() - (sharp.argmax(1) == truth).double().mean()).item()
    assert expected_calibration_error(sharp, truth, bins) == pytest.approx(gap, abs=1e-3)
    assert gap > 0.05


@pytest.mark.parametrize("bins", [1, 2, 5, 7, 10, 15])
def test_calibration_error_equals_that_of_torchmetrics_for_every_number_of_bins(bins):
    # The confidence is too low below 0.7 and too high above, so the number of bins matters.
    generator = torch.Generator().manual_seed(1)
    confidence = 0.5 + 0.5 * torch.rand(5000, generator=generator)
    correct = torch.rand(5000, generator=generator) < 0.6 + 0.2 * confidence
    probability, truth = two_classes(confidence), (~correct).long()
    expected = multiclass_calibration_error(probability, truth, 2, n_bins=bins, norm="l1")
    assert expected_calibration_error(probability, truth, bins) == pytest.approx(float(expected), abs=1e-5)
    if bins > 2:  # two bins meet at 0.5
        assert abs(float(expected) - expected_calibration_error(probability, truth, 1)) > 0.01


def test_calibration_error_of_millions_of_voxels():
    # Summed one by one in float32 this comes out as 0.13 instead of 0.1.
    truth = (torch.arange(5_000_000) % 10 == 0).long()
    probability = torch.tensor([[0.8, 0.2]]).expand(len(truth), 2)
    assert expected_calibration_error(probability, truth) == pytest.approx(0.1, abs=1e-6)


def test_brier_and_likelihood_by_hand():
    probability = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    truth = torch.tensor([0, 2])
    assert brier_score(probability, truth) == pytest.approx((0.14 + 1.34) / 2)
    assert negative_log_likelihood(probability, truth) == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2)


def test_certain_and_wrong_is_the_worst():
    probability, truth = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    assert brier_score(probability, truth) == 2
    assert negative_log_likelihood(probability, truth) == pytest.approx(-math.log(1e-6))


def test_error_detection_by_hand():
    truth = torch.tensor([0, 0, 1, 1])
    assert error_auroc(two_classes([0.99, 0.95, 0.6, 0.55]), truth) == 1
    assert error_auroc(two_classes([0.55, 0.6, 0.95, 0.99]), truth) == 0
    assert error_auroc(two_classes([0.7, 0.7, 0.7, 0.7]), truth) == 0.5
    # Three of the four pairs (wrong, right) in order: 0.8 is less certain than 0.9, not than 0.6.
    assert error_auroc(two_classes([0.9, 0.6, 0.8, 0.55]), truth) == 0.75


def test_error_detection_with_more_than_a_nat_of_entropy():
    # Entropies 1.386, 1.385 and 0. After the sigmoid of torchmetrics float32 hardly separates the first two.
    probability = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.26, 0.26, 0.24, 0.24], [1.0, 0, 0, 0]])
    assert error_auroc(probability, torch.tensor([3, 0, 0])) == 1


def test_error_detection_where_rounding_makes_the_entropy_larger_than_possible():
    # seven equal probabilities have 1.0000002 times ln 7; beyond 1, torchmetrics' sigmoid would make both voxels equal
    probability = torch.full((2, 7), 1 / 7)
    probability[1, :2] += torch.tensor([4e-4, -4e-4])
    assert error_auroc(probability, torch.tensor([6, 0])) == 1


def test_error_detection_of_one_distribution_in_two_orders():
    # in double precision the entropies of the two rows differ by rounding alone
    row = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    probability = torch.stack([row, row[[2, 1, 0]]])
    first, second = predictive_entropy(probability, dim=1)
    assert first != second
    assert error_auroc(probability, torch.tensor([2, 1])) == error_auroc(probability, torch.tensor([1, 0])) == 0.5


def test_error_detection_needs_both_kinds():
    probability = two_classes([0.9, 0.8])
    assert math.isnan(error_auroc(probability, torch.tensor([0, 0])))
    assert math.isnan(error_auroc(probability, torch.tensor([1, 1])))


def test_only_the_mask_counts():
    probability = torch.zeros(2, 2, 2, 2)
    probability[:, 0, 0] = torch.tensor([[0.85, 0.65], [0.15, 0.35]])
    truth, mask = torch.zeros(2, 2, 2, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    found = voxel_metrics(*masked_voxels(MetaTensor(probability), truth, mask))
    assert found["ece"] == pytest.approx((0.15 + 0.35) / 2)
    assert found["brier"] == pytest.approx(2 * (0.15**2 + 0.35**2) / 2)
    assert found["nll"] == pytest.approx(-(math.log(0.85) + math.log(0.65)) / 2)
    assert math.isnan(found["error_auroc"])
    assert masked_voxels(probability.half(), truth, mask)[0].dtype == torch.float64
    assert all(type(value) is float for value in found.values())


def test_an_empty_mask_has_no_metrics():
    nothing = torch.zeros(2, 2, 2)
    found = voxel_metrics(*masked_voxels(torch.full((2, 2, 2, 2), 0.5), nothing.long(), nothing.bool()))
    assert list(found) == ["ece", "brier", "nll", "error_auroc"]
    assert all(math.isnan(value) for value in found.values())


def test_logits_raise():
    truth, mask = torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 2, dtype=torch.bool)
    for wrong in (torch.tensor([3.0, -2.0]), torch.tensor([0.0, 0.0]), torch.tensor([math.nan, 1.0])):
        with pytest.raises(ValueError, match="found 4 of 4 voxels"):
            masked_voxels(wrong[:, None, None].expand(2, 2, 2), truth, mask)


def test_a_sum_may_be_off_by_a_hundredth():
    shape = (torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
    assert masked_voxels(torch.tensor([0.5, 0.509])[:, None, None], *shape)[0].sum() > 1
    with pytest.raises(ValueError, match="found 1 of 1 voxels"):
        masked_voxels(torch.tensor([0.5, 0.511])[:, None, None], *shape)


def test_rounding_errors_of_probabilities_are_allowed_up_to_the_tolerance(monkeypatch):
    monkeypatch.setattr(calibration, "SUM_TOLERANCE", 2.0**-10)
    for first, second, fits in (
        (1.0, 2.0**-10, True),
        (1.0, 2.0**-10 + 2.0**-20, False),
        (1.0, -(2.0**-10), True),
        (1.0 + 2.0**-20, 0.0, True),
        (1.0 + 2.0**-20, -(2.0**-10) - 2.0**-20, False),
    ):
        probability = torch.tensor([first, second], dtype=torch.float64)[:, None, None]
        given = (probability, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
        if fits:
            rows, _ = masked_voxels(*given)
            assert rows.tolist() == [[1, max(second, 0)]]
        else:
            with pytest.raises(ValueError, match="found 1 of 1 voxels"):
                masked_voxels(*given)
