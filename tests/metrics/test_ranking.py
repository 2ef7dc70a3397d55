"""The selective risk, against hand calculations and all orders of tied cases."""

import itertools

import pytest
import torch

from monai_pdddpm.metrics.ranking import area_under_risk_coverage


def loop_aurc(risk):
    """AURC of risks sorted by decreasing confidence."""
    return sum(sum(risk[:count]) / count for count in range(1, len(risk) + 1)) / len(risk)


def loop_aurc_over_orders(risk, confidence):
    """Mean over all orders that the confidence allows."""
    orders = [
        order
        for order in itertools.permutations(range(len(risk)))
        if all(confidence[one] >= confidence[other] for one, other in itertools.pairwise(order))
    ]
    return sum(loop_aurc([risk[index] for index in order]) for order in orders) / len(orders)


def random_values(*shape, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.rand(shape, generator=generator)
    return torch.randint(levels, shape, generator=generator) / levels


def test_selective_risk_by_hand():
    # By decreasing confidence the risks are 0.1, 0.4, 0.2, 0.6.
    risk, confidence = [0.2, 0.1, 0.6, 0.4], [0.5, 0.9, 0.1, 0.8]
    selective = [0.1, (0.1 + 0.4) / 2, (0.1 + 0.4 + 0.2) / 3, (0.1 + 0.4 + 0.2 + 0.6) / 4]
    assert area_under_risk_coverage(risk, confidence) == pytest.approx(sum(selective) / 4)


def test_aurc_of_the_best_the_worst_and_no_order():
    risk = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert area_under_risk_coverage(risk, -risk) == pytest.approx(loop_aurc([0, 0.25, 0.5, 1]))
    assert area_under_risk_coverage(risk, risk) == pytest.approx(loop_aurc([1, 0.5, 0.25, 0]))
    # Equal confidences: the mean risk is expected at every coverage.
    assert area_under_risk_coverage(risk, torch.zeros(4)) == pytest.approx(1.75 / 4)
    assert area_under_risk_coverage([0.3], [5]) == pytest.approx(0.3)


def test_aurc_of_a_tie_by_hand():
    # 0.2 and 0.6 are tied: their two orders give (0.1 + 0.35 + 0.3) / 3 and (0.1 + 0.15 + 0.3) / 3.
    expected = ((0.1 + 0.35 + 0.3) / 3 + (0.1 + 0.15 + 0.3) / 3) / 2
    assert area_under_risk_coverage([0.1, 0.2, 0.6], [1, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_aurc_is_the_mean_over_all_orders_allowed(seed):
    risk, confidence = random_values(6, seed=seed), random_values(6, seed=seed + 50, levels=3)
    expected = loop_aurc_over_orders(risk.tolist(), confidence.tolist())
    assert area_under_risk_coverage(risk, confidence) == pytest.approx(expected)


def test_the_order_of_the_input_does_not_matter():
    risk, confidence = random_values(50), random_values(50, seed=1, levels=5)
    found = area_under_risk_coverage(risk, confidence)
    for seed in range(5):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
        assert area_under_risk_coverage(risk[order], confidence[order]) == found
    # Only the order of the confidence counts.
    assert area_under_risk_coverage(risk, 10 * confidence.exp() - 3) == found
