import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.metrics import compute_dice
from torchmetrics.functional.classification import binary_precision_recall_curve

from monai_pdddpm.metrics.ranking import (
    AreaUnderRiskCoverageMetric,
    NormalizedCrossCorrelationMetric,
    UncertaintyErrorOverlapMetric,
    area_under_risk_coverage,
    excess_aurc,
    normalized_cross_correlation,
    uncertainty_error_overlap,
)


def loop_aurc(risk):
    """Of risks that already stand in the order of falling confidence."""
    return sum(sum(risk[:count]) / count for count in range(1, len(risk) + 1)) / len(risk)


def loop_aurc_over_orders(risk, confidence):
    """The mean over all orders that the confidence allows."""
    orders = [
        order
        for order in itertools.permutations(range(len(risk)))
        if all(confidence[one] >= confidence[other] for one, other in itertools.pairwise(order))
    ]
    return sum(loop_aurc([risk[index] for index in order]) for order in orders) / len(orders)


def loop_overlap(uncertainty, error):
    """The best Dice coefficient and the highest of its thresholds, one threshold after the other."""
    best = (-1.0, -math.inf)
    for tau in [-math.inf, *sorted(set(uncertainty))]:
        marked = [value > tau for value in uncertainty]
        both = sum(m and bool(e) for m, e in zip(marked, error, strict=True))
        dice = 2 * both / (sum(marked) + sum(error))
        best = max(best, (dice, tau))
    return best


def random_values(*shape, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.rand(shape, generator=generator)
    return torch.randint(levels, shape, generator=generator) / levels


def test_aurc_by_hand():
    # In the order of falling confidence the risks are 0.1, 0.4, 0.2, 0.6.
    risk, confidence = [0.2, 0.1, 0.6, 0.4], [0.5, 0.9, 0.1, 0.8]
    selective = [0.1, (0.1 + 0.4) / 2, (0.1 + 0.4 + 0.2) / 3, (0.1 + 0.4 + 0.2 + 0.6) / 4]
    assert area_under_risk_coverage(risk, confidence) == pytest.approx(sum(selective) / 4)
    best = [0.1, (0.1 + 0.2) / 2, (0.1 + 0.2 + 0.4) / 3, (0.1 + 0.2 + 0.4 + 0.6) / 4]
    assert excess_aurc(risk, confidence) == pytest.approx((sum(selective) - sum(best)) / 4)


def test_aurc_of_the_best_the_worst_and_no_order():
    risk = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert excess_aurc(risk, -risk) == 0
    assert excess_aurc(risk, -(risk**3)) == 0
    assert area_under_risk_coverage(risk, risk) == pytest.approx(loop_aurc([1, 0.5, 0.25, 0]))
    # All of one confidence: whatever the coverage, the mean risk is expected.
    assert area_under_risk_coverage(risk, torch.zeros(4)) == pytest.approx(1.75 / 4)
    assert area_under_risk_coverage([0.3], [5]) == pytest.approx(0.3)
    assert excess_aurc([0.3], [5]) == 0


def test_aurc_of_a_tie_by_hand():
    # 0.2 and 0.6 are tied in the second and third place: either order, (0.1 + 0.35 + 0.3) or (0.1 + 0.15 + 0.3).
    expected = ((0.1 + 0.35 + 0.3) / 3 + (0.1 + 0.15 + 0.3) / 3) / 2
    assert area_under_risk_coverage([0.1, 0.2, 0.6], [1, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_aurc_is_the_mean_over_all_orders_allowed(seed):
    risk, confidence = random_values(6, seed=seed), random_values(6, seed=seed + 50, levels=3)
    expected = loop_aurc_over_orders(risk.tolist(), confidence.tolist())
    assert area_under_risk_coverage(risk, confidence) == pytest.approx(expected)
    best = loop_aurc(sorted(risk.tolist()))
    assert excess_aurc(risk, confidence) == pytest.approx(expected - best)


def test_the_order_of_the_input_does_not_matter():
    risk, confidence = random_values(50), random_values(50, seed=1, levels=5)
    found = area_under_risk_coverage(risk, confidence)
    for seed in range(5):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
        assert area_under_risk_coverage(risk[order], confidence[order]) == found
    # Nor does what the confidence is measured in.
    assert area_under_risk_coverage(risk, 10 * confidence.exp() - 3) == found


@pytest.mark.parametrize("measure", [area_under_risk_coverage, excess_aurc])
@pytest.mark.parametrize(
    ("risk", "confidence", "message"),
    [
        ([0.1, 0.2], [0.1], r"confidence: shape \(1,\) was found, \(2,\) as of risk is expected"),
        ([], [], r"risk: shape \(0,\) was found, one value or more is expected"),
        ([0.1, math.nan], [0.1, 0.2], "risk: 1 of 2 values were found not finite, none is expected"),
        ([0.1, 0.2], [math.inf, -math.inf], "confidence: 2 of 2 values"),
    ],
)
def test_what_cannot_be_ranked_is_refused(measure, risk, confidence, message):
    with pytest.raises(ValueError, match=message):
        measure(risk, confidence)


def test_overlap_by_hand():
    error = torch.tensor([[1, 1], [0, 0]])
    # Sorted: 0.9 wrong, 0.7 right, 0.5 wrong, 0.1 right. Above 0.7: 2 * 1 / (1 + 2); above 0.5: 2 * 1 / (2 + 2);
    # above 0.1: 2 * 2 / (3 + 2); all: 2 * 2 / (4 + 2).
    overlap, threshold = uncertainty_error_overlap(torch.tensor([[0.9, 0.5], [0.7, 0.1]]), error)
    assert overlap == pytest.approx(4 / 5)
    assert threshold == pytest.approx(0.1)


def test_overlap_of_the_best_and_the_worst_map():
    error = torch.tensor([True, True, False, False])
    assert uncertainty_error_overlap(torch.tensor([3.0, 2.0, 1.0, 0.0]), error) == (1, 1)
    # The wrong voxels are the surest: nothing beats marking all, 2 * 2 / (4 + 2).
    assert uncertainty_error_overlap(torch.tensor([0.0, 1.0, 2.0, 3.0]), error) == (pytest.approx(2 / 3), -math.inf)
    # A constant map can only mark all; where all is wrong that is right.
    assert uncertainty_error_overlap(torch.ones(4), error) == (pytest.approx(2 / 3), -math.inf)
    assert uncertainty_error_overlap(torch.ones(4), torch.ones(4)) == (1, -math.inf)


def test_overlap_takes_the_highest_of_equal_thresholds():
    # Above 1 one voxel, wrong: 2 * 1 / (1 + 2). All four, two of them wrong: 2 * 2 / (4 + 2), the same.
    found = uncertainty_error_overlap(torch.tensor([3.0, 1.0, 1.0, 1.0]), torch.tensor([1, 1, 0, 0]))
    assert found == (pytest.approx(2 / 3), 1)


def test_overlap_without_an_error_is_no_number():
    found = uncertainty_error_overlap(random_values(4, 4), torch.zeros(4, 4))
    assert all(math.isnan(value) for value in found)


@pytest.mark.parametrize("levels", [None, 4])
def test_overlap_is_that_of_loops_and_of_monais_dice(levels):
    for seed in range(10):
        uncertainty = 3 * random_values(3, 4, seed=seed, levels=levels)
        error = random_values(3, 4, seed=seed + 50) < 0.4
        overlap, threshold = uncertainty_error_overlap(uncertainty, error)
        assert (overlap, threshold) == loop_overlap(uncertainty.flatten().tolist(), error.flatten().tolist())
        # The threshold, put into a Dice coefficient, gives the overlap.
        marked = (uncertainty > threshold)[None, None].float()
        assert compute_dice(marked, error[None, None].float()).item() == pytest.approx(overlap)


def test_overlap_is_the_best_f1_of_torchmetrics():
    uncertainty, error = random_values(2000), random_values(2000, seed=1) < 0.3
    precision, recall, thresholds = binary_precision_recall_curve(uncertainty, error.long())
    f1 = 2 * precision * recall / (precision + recall)
    overlap, threshold = uncertainty_error_overlap(uncertainty, error)
    assert overlap == pytest.approx(f1.nan_to_num().max().item())
    # There a threshold is reached, here it is passed.
    assert thresholds[thresholds > threshold].min() == thresholds[f1.nan_to_num().argmax()]


def test_overlap_knows_order_only():
    uncertainty, error = random_values(100), random_values(100, seed=1) < 0.3
    overlap, threshold = uncertainty_error_overlap(uncertainty, error)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert uncertainty_error_overlap(uncertainty[order], error[order]) == (overlap, threshold)
    assert uncertainty_error_overlap(4 * uncertainty - 7, error)[0] == overlap
    assert uncertainty_error_overlap(MetaTensor(uncertainty), MetaTensor(error.float())) == (overlap, threshold)


def test_correlation_by_hand():
    # Deviations -1, 0, 1 and -2, 1, 1: their products sum to 3, their squares to 2 and 6.
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 3.0, 3.0])
    assert normalized_cross_correlation(a, b, ddof=0) == pytest.approx(3 / math.sqrt(2 * 6))
    # With n - 1 = 2 the deviations are 1 and sqrt(3), and the sum is taken over n = 3.
    assert normalized_cross_correlation(a, b) == pytest.approx(3 / (3 * 1 * math.sqrt(3)))


@pytest.mark.parametrize("ddof", [0, 1])
def test_correlation_is_that_of_the_formula(ddof):
    for seed in range(5):
        a, b = random_values(4, 5, seed=seed), random_values(4, 5, seed=seed + 50)
        one, other = a.double().numpy(), b.double().numpy()
        product = np.sum((one - one.mean()) * (other - other.mean()))
        expected = product / (one.size * one.std(ddof=ddof) * other.std(ddof=ddof))
        found = normalized_cross_correlation(a, b, ddof)
        assert found == pytest.approx(expected)
        assert normalized_cross_correlation(b, a, ddof) == pytest.approx(found)
        assert normalized_cross_correlation(3 * a.double() + 2, b, ddof) == pytest.approx(found)
        assert normalized_cross_correlation(a, -b, ddof) == pytest.approx(-found)
        assert normalized_cross_correlation(a.flip(0), b.flip(0), ddof) == pytest.approx(found)


def test_correlation_of_a_map_with_itself():
    a = random_values(4, 5)
    assert normalized_cross_correlation(a, a, ddof=0) == pytest.approx(1)
    assert normalized_cross_correlation(a, a) == pytest.approx(19 / 20)
    assert normalized_cross_correlation(a, -a) == pytest.approx(-19 / 20)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
def test_correlation_with_a_constant_is_no_number(value):
    constant, other = torch.full((7,), value), random_values(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(normalized_cross_correlation(constant, other))
        assert math.isnan(normalized_cross_correlation(other.double(), constant.double()))
        assert math.isnan(normalized_cross_correlation(torch.ones(1), torch.zeros(1)))


@pytest.mark.parametrize(
    ("measure", "names"), [(uncertainty_error_overlap, ("uncertainty", "error")), (normalized_cross_correlation, "ab")]
)
def test_maps_that_do_not_fit_are_refused(measure, names):
    first, second = names
    with pytest.raises(ValueError, match=rf"{second}: shape \(3, 2\) was found, \(2, 3\) as of {first} is expected"):
        measure(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=rf"{first}: shape \(2, 0\) was found, one value or more is expected"):
        measure(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(ValueError, match=f"{first}: 1 of 2 values were found not finite"):
        measure(torch.tensor([0, math.nan]), torch.zeros(2))


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="error: values from 0 to 2 were found, 0 and 1 are expected"):
        uncertainty_error_overlap(torch.zeros(3), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="ddof: 2 was found, 0 or 1 is expected"):
        normalized_cross_correlation(torch.zeros(3), torch.zeros(3), ddof=2)


@pytest.mark.parametrize(("excess", "function"), [(False, area_under_risk_coverage), (True, excess_aurc)])
def test_the_aurc_metric_ranks_all_cases(excess, function):
    risk, confidence = random_values(9), random_values(9, seed=1, levels=4)
    metric = AreaUnderRiskCoverageMetric(excess=excess)
    # A batch of (B,), one of (B, 1), and a list of cases.
    metric(risk[:3], confidence[:3])
    assert metric(risk[3:6, None], confidence[3:6, None]).tolist() == stacked(risk[3:6], confidence[3:6])
    metric(list(risk[6:]), list(confidence[6:]))
    assert metric.get_buffer().tolist() == stacked(risk, confidence)
    assert metric.aggregate().item() == pytest.approx(function(risk, confidence))
    metric.reset()
    with pytest.raises(ValueError, match="cases: none was found"):
        metric.aggregate()


def stacked(risk, confidence):
    return [list(pair) for pair in zip(risk.tolist(), confidence.tolist(), strict=True)]


def test_the_aurc_metric_refuses_what_is_not_one_pair_per_case():
    metric = AreaUnderRiskCoverageMetric()
    with pytest.raises(ValueError, match=r"y_pred: shape \(3, 2\) was found, a number for each case, \(B,\) or"):
        metric(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"y: shape \(2,\) was found, a number for each case"):
        metric(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="y: shape None was found"):
        metric(torch.zeros(3))
    with pytest.raises(ValueError, match="confidence: 1 of 2 values were found not finite"):
        metric(torch.zeros(2), torch.tensor([0, math.nan]))


def voxel_cases():
    uncertainty = random_values(3, 1, 4, 5)
    error = random_values(3, 1, 4, 5, seed=1) < 0.3
    error[1] = False
    return uncertainty, error


VOXEL_METRICS = [
    (UncertaintyErrorOverlapMetric, lambda u, e: uncertainty_error_overlap(u, e)[0]),
    (NormalizedCrossCorrelationMetric, normalized_cross_correlation),
]


@pytest.mark.parametrize(("kind", "function"), VOXEL_METRICS)
def test_a_case_without_an_error_is_left_out(kind, function):
    uncertainty, error = voxel_cases()
    metric = kind(get_not_nans=True)
    metric(uncertainty[:2], error[:2])
    metric([uncertainty[2]], [error[2]])
    mean, count = metric.aggregate()
    assert mean.item() == pytest.approx((function(uncertainty[0], error[0]) + function(uncertainty[2], error[2])) / 2)
    assert count.item() == 2
    assert metric.get_buffer().isnan().flatten().tolist() == [False, True, False]


def test_the_metric_of_the_correlation_itself():
    uncertainty, error = voxel_cases()
    metric = NormalizedCrossCorrelationMetric(ddof=0, reduction="none")
    metric(uncertainty, error)
    expected = [normalized_cross_correlation(*case, ddof=0) for case in zip(uncertainty, error, strict=True)]
    assert metric.aggregate().flatten().tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (AreaUnderRiskCoverageMetric(), loop_aurc([0.1, 0.4, 0.2])),
        (AreaUnderRiskCoverageMetric(excess=True), loop_aurc([0.1, 0.4, 0.2]) - loop_aurc([0.1, 0.2, 0.4])),
    ],
)
def test_the_aurc_metric_works_as_an_ignite_handler(metric, expected):
    engine = Engine(lambda engine, case: (torch.tensor([case[0]]), torch.tensor([case[1]])))
    IgniteMetricHandler(metric_fn=metric).attach(engine, "value")
    engine.run([(0.4, 0.8), (0.2, 0.5), (0.1, 0.9)])
    assert engine.state.metrics["value"] == pytest.approx(expected)
    assert engine.state.metric_details["value"].shape == (3, 2)


@pytest.mark.parametrize(("kind", "function"), VOXEL_METRICS)
def test_the_voxel_metrics_work_as_ignite_handlers(kind, function):
    uncertainty, error = (values[::2] for values in voxel_cases())
    engine = Engine(lambda engine, case: (case[0][None], case[1][None]))
    IgniteMetricHandler(metric_fn=kind()).attach(engine, "value")
    engine.run(list(zip(uncertainty, error, strict=True)))
    expected = sum(function(*case) for case in zip(uncertainty, error, strict=True)) / 2
    assert engine.state.metrics["value"] == pytest.approx(expected)
