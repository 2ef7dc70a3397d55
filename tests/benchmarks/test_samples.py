"""Distances of members and annotations, against hand calculations, plain loops and known distributions."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_iou
from scipy.stats import norm

from benchmarks.trust import samples as module
from benchmarks.trust.samples import (
    area_under_risk_coverage,
    crps,
    disagreement_ratio,
    generalized_energy_distance,
    mean_distance,
    pairwise_iou,
    volume_z,
)

# 2 x 2 maps of one class. They mark no voxel, the first, the first two, the last, all four.
NONE, FIRST, TOP, LAST, ALL = torch.tensor(
    [[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]]
)


def stack(*maps):
    return torch.stack(maps)


def random_maps(count, classes, seed, shape=(3, 4)):
    # Background is more frequent than all classes together, so that some maps lack a class.
    labels = torch.randint(-classes, classes, (count, *shape), generator=torch.Generator().manual_seed(seed))
    return labels.clamp(min=0)


def loop_iou(one, other, classes, first=1):
    one, other = one.flatten().tolist(), other.flatten().tolist()
    found = []
    for label in range(first, classes):
        a = {index for index, value in enumerate(one) if value == label}
        b = {index for index, value in enumerate(other) if value == label}
        found.append(len(a & b) / len(a | b) if a | b else 1.0)
    return sum(found) / len(found)


def loop_mean(pairs, classes):
    distances = [1 - loop_iou(one, other, classes) for one, other in pairs]
    return sum(distances) / len(distances) if distances else 0.0


def loop_ged(samples, annotations, classes):
    def within(maps):
        return loop_mean(itertools.permutations(maps, 2), classes)

    cross = loop_mean(itertools.product(samples, annotations), classes)
    return 2 * cross - within(samples) - within(annotations)


def test_iou_of_pairs_by_hand():
    # |first and top| = 1, |first or top| = 2; |top and all| = 2 of 4; two empty maps agree; an empty and a full do not.
    found = pairwise_iou(stack(NONE, FIRST, TOP), stack(NONE, TOP, LAST, ALL), num_classes=2)
    assert found.tolist() == [[1, 0, 0, 0], [0, 1 / 2, 0, 1 / 4], [0, 1, 0, 2 / 4]]
    assert found.dtype == torch.float64


def test_iou_is_the_mean_over_classes():
    one, other = torch.tensor([[[1, 1], [2, 0]]]), torch.tensor([[[1, 0], [2, 0]]])
    # Class 1: 1 of 2; class 2: 1 of 1; class 3: absent from both.
    assert pairwise_iou(one, other, 4).item() == pytest.approx((1 / 2 + 1 + 1) / 3)


def test_iou_equals_that_of_monai_and_of_loops():
    a, b = random_maps(4, 3, seed=0), random_maps(5, 3, seed=1)
    found = pairwise_iou(a, b, 3)
    for (i, one), (j, other) in itertools.product(enumerate(a), enumerate(b)):
        pair = [torch.nn.functional.one_hot(maps, 3).movedim(-1, 0)[None] for maps in (one, other)]
        expected = compute_iou(*pair, include_background=False, ignore_empty=False).mean()
        assert found[i, j].item() == pytest.approx(expected.item())
        assert found[i, j].item() == pytest.approx(loop_iou(one, other, 3))
    assert torch.equal(pairwise_iou(b, a, 3), found.T)


def test_iou_of_many_voxels_is_summed_in_exact_parts(monkeypatch):
    a, b = random_maps(3, 3, seed=2), random_maps(2, 3, seed=3)
    whole = pairwise_iou(a, b, 3)
    monkeypatch.setattr(module, "CHUNK", 5)
    assert torch.equal(pairwise_iou(a, b, 3), whole)


def test_any_dtype_and_number_of_axes():
    a, b = random_maps(3, 2, seed=4, shape=(2, 3, 2)), random_maps(2, 2, seed=5, shape=(2, 3, 2))
    expected = pairwise_iou(a, b, 2)
    assert torch.equal(pairwise_iou(MetaTensor(a.float()), b.bool(), 2), expected)
    assert torch.equal(pairwise_iou(a.to(torch.uint8).flatten(1), b.half().flatten(1), 2), expected)
    assert generalized_energy_distance(a, b.bool(), 2) == generalized_energy_distance(a, b, 2)


def test_ged_by_hand():
    # d(first, top) = 1/2, d(first, all) = 3/4, d(top, top) = 0, d(top, all) = 1/2: their mean is 7/16.
    samples, annotations = stack(FIRST, TOP), stack(TOP, ALL)
    assert generalized_energy_distance(samples, annotations, 2) == pytest.approx(2 * 7 / 16 - 1 / 2 - 1 / 2)
    # With one annotation: 2 (1/2 + 0) / 2, less 1/2; the annotation's own term is 0.
    assert generalized_energy_distance(samples, stack(TOP), 2) == pytest.approx(1 / 2 - 1 / 2)


def test_ged_of_empty_structures():
    assert generalized_energy_distance(stack(NONE, NONE), stack(NONE), 2) == 0
    # Nothing shared, and each set is constant: the largest distance.
    assert generalized_energy_distance(stack(NONE, NONE), stack(ALL), 2) == 2
    # Half of the samples empty as half of the annotations: 2 * 1/2 - 1 - 1.
    assert generalized_energy_distance(stack(NONE, TOP), stack(TOP, NONE), 2) == -1


@pytest.mark.parametrize(("count", "annotators"), [(2, 2), (3, 4), (5, 1)])
def test_ged_is_that_of_loops(count, annotators):
    samples, annotations = random_maps(count, 3, seed=7), random_maps(annotators, 3, seed=8)
    found = generalized_energy_distance(samples, annotations, 3)
    assert found == pytest.approx(loop_ged(samples, annotations, 3))
    assert generalized_energy_distance(samples.flip(0), annotations.flip(0), 3) == pytest.approx(found)
    if annotators > 1:
        assert generalized_energy_distance(annotations, samples, 3) == pytest.approx(found)


def test_ged_of_one_distribution_is_0_on_average():
    draw = random.Random(0)
    found = [
        generalized_energy_distance(*(stack(*draw.choices([FIRST, TOP], k=2)) for _ in range(2)), 2) for _ in range(400)
    ]
    assert sum(found) / 400 == pytest.approx(0, abs=0.05)


def test_mean_distance_by_hand():
    # d(first, top) = 1/2, d(first, all) = 3/4, d(top, all) = 1/2.
    assert mean_distance(stack(FIRST, TOP, ALL), 2) == pytest.approx((1 / 2 + 3 / 4 + 1 / 2) / 3)
    assert mean_distance(stack(TOP, TOP, TOP), 2) == mean_distance(stack(NONE, NONE), 2) == 0
    assert mean_distance(stack(FIRST, LAST, NONE), 2) == 1


def test_disagreement_ratio_by_hand():
    # Members first and top: 1/2 apart. Distances to all: 3/4 and 1/2.
    assert disagreement_ratio(stack(FIRST, TOP), ALL, 2) == pytest.approx((1 / 2) / ((3 / 4 + 1 / 2) / 2))
    assert disagreement_ratio(stack(FIRST, FIRST), ALL, 2) == 0
    assert math.isnan(disagreement_ratio(stack(TOP, TOP), TOP, 2))


def test_disagreement_ratio_of_one_distribution_is_1():
    draw = random.Random(1)
    maps = [FIRST, TOP, ALL, LAST]
    apart, error = [], []
    for _ in range(300):
        members, truth = stack(*draw.choices(maps, k=4)), draw.choice(maps)
        apart.append(mean_distance(members, 2))
        error.append(float((1 - pairwise_iou(members, truth[None], 2)).mean()))
    assert sum(apart) / sum(error) == pytest.approx(1, abs=0.05)


def test_volume_z_by_hand():
    # Mean 3, standard deviation of 2 and 4 with n - 1: sqrt(2).
    assert volume_z([2, 4], 3 + 2 * math.sqrt(2)) == pytest.approx(2)
    assert volume_z([2, 4], 3) == 0
    assert volume_z([2, 2], 3) == math.inf
    assert math.isnan(volume_z([2, 2], 2))


def test_crps_by_hand():
    # E|X - 4| = (4 + 2 + 2) / 3; E|X - X'| over different members = (2 + 6 + 4) / 3.
    assert crps([0, 2, 6], 4) == pytest.approx(8 / 3 - (12 / 3) / 2)
    assert crps([2, 2], 5) == 3


@pytest.mark.parametrize("count", [2, 5, 50])
def test_crps_of_normal_members_does_not_depend_on_their_number(count):
    rng = np.random.default_rng(0)
    found = np.mean([crps(rng.standard_normal(count), 0.7) for _ in range(4000)])
    # Closed form for a standard normal forecast (Gneiting and Raftery 2007, eq. 21).
    expected = 0.7 * (2 * norm.cdf(0.7) - 1) + 2 * norm.pdf(0.7) - 1 / math.sqrt(math.pi)
    assert found == pytest.approx(expected, abs=0.03)


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


def random_values(count, seed, levels):
    return torch.randint(levels, (count,), generator=torch.Generator().manual_seed(seed)) / levels


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


@pytest.mark.parametrize("seed", range(6))
def test_aurc_is_the_mean_over_all_orders_allowed(seed):
    risk, confidence = random_values(6, seed, 999), random_values(6, seed + 50, 3)
    expected = loop_aurc_over_orders(risk.tolist(), confidence.tolist())
    assert area_under_risk_coverage(risk, confidence) == pytest.approx(expected)


def test_the_order_of_the_input_does_not_matter():
    risk, confidence = random_values(50, 0, 999), random_values(50, 1, 5)
    found = area_under_risk_coverage(risk, confidence)
    for seed in range(5):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
        assert area_under_risk_coverage(risk[order], confidence[order]) == found
    # Only the order of the confidence counts.
    assert area_under_risk_coverage(risk, 10 * confidence.exp() - 3) == found
