import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.metrics import compute_iou
from PIL import Image

from monai_pdddpm.metrics import raters
from monai_pdddpm.metrics.annotators import (
    DiversityMetric,
    GeneralizedEnergyDistanceMetric,
    HungarianIoUMetric,
    diversity,
    generalized_energy_distance,
    hungarian_iou,
    pairwise_iou,
)

LIDC = Path(__file__).parents[2].parent / "shared" / "data" / "lidc_multirater"

# 2 x 2 maps of one class, by the voxels that they mark: none, the first, the first two, the last, all four.
NONE, FIRST, TOP, LAST, ALL = torch.tensor(
    [[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]]
)


def stack(*maps):
    return torch.stack(maps)


def random_maps(count, classes, seed, shape=(3, 4)):
    # Background more often than all classes together: some maps lack a class.
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


def loop_ged(samples, annotations, classes, unbiased):
    def pairs(maps):
        return itertools.permutations(maps, 2) if unbiased else itertools.product(maps, maps)

    cross = loop_mean(itertools.product(samples, annotations), classes)
    return 2 * cross - loop_mean(pairs(samples), classes) - loop_mean(pairs(annotations), classes)


def loop_hungarian(samples, annotations, classes):
    size = math.lcm(len(samples), len(annotations))
    left = [samples[index % len(samples)] for index in range(size)]
    right = [annotations[index % len(annotations)] for index in range(size)]
    return max(
        sum(loop_iou(one, other, classes) for one, other in zip(left, order, strict=True)) / size
        for order in itertools.permutations(right)
    )


def test_iou_of_pairs_by_hand():
    # |first and top| = 1, |first or top| = 2; |top and all| = 2 of 4; two empty maps agree; an empty and a full do not.
    found = pairwise_iou(stack(NONE, FIRST, TOP), stack(NONE, TOP, LAST, ALL), num_classes=2)
    assert found.tolist() == [[1, 0, 0, 0], [0, 1 / 2, 0, 1 / 4], [0, 1, 0, 2 / 4]]
    assert found.dtype == torch.float64


def test_iou_is_the_mean_over_classes():
    one, other = torch.tensor([[[1, 1], [2, 0]]]), torch.tensor([[[1, 0], [2, 0]]])
    # Class 1: 1 of 2; class 2: 1 of 1; class 3: neither has it; the background: 1 of 2.
    assert pairwise_iou(one, other, 4).item() == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert pairwise_iou(one, other, 4, include_background=True).item() == pytest.approx((1 / 2 + 1 / 2 + 1 + 1) / 4)


@pytest.mark.parametrize("include_background", [False, True])
def test_iou_is_that_of_monai_and_of_loops(include_background):
    a, b = random_maps(4, 3, seed=0), random_maps(5, 3, seed=1)
    found = pairwise_iou(a, b, 3, include_background)
    for (i, one), (j, other) in itertools.product(enumerate(a), enumerate(b)):
        pair = [torch.nn.functional.one_hot(maps, 3).movedim(-1, 0)[None] for maps in (one, other)]
        expected = compute_iou(*pair, include_background=include_background, ignore_empty=False).mean()
        assert found[i, j].item() == pytest.approx(expected.item())
        assert found[i, j].item() == pytest.approx(loop_iou(one, other, 3, first=0 if include_background else 1))
    assert torch.equal(pairwise_iou(b, a, 3, include_background), found.T)


def test_iou_of_many_voxels_is_summed_in_exact_parts(monkeypatch):
    a, b = random_maps(3, 3, seed=2), random_maps(2, 3, seed=3)
    whole = pairwise_iou(a, b, 3)
    monkeypatch.setattr(raters, "CHUNK", 5)
    assert torch.equal(pairwise_iou(a, b, 3), whole)


def test_any_dtype_and_number_of_axes():
    a, b = random_maps(3, 2, seed=4, shape=(2, 3, 2)), random_maps(2, 2, seed=5, shape=(2, 3, 2))
    expected = pairwise_iou(a, b, 2)
    assert torch.equal(pairwise_iou(MetaTensor(a.float()), b.bool(), 2), expected)
    assert torch.equal(pairwise_iou(a.to(torch.uint8).flatten(1), b.half().flatten(1), 2), expected)
    assert generalized_energy_distance(a, b.bool(), 2) == generalized_energy_distance(a, b, 2)


def test_ged_by_hand():
    # d(first, top) = 1/2, d(first, all) = 3/4, d(top, top) = 0, d(top, all) = 1/2: their mean is 7/16.
    # d(first, top) = 1/2 among the samples and d(top, all) = 1/2 among the annotations: of four pairs two, 1/4 each.
    samples, annotations = stack(FIRST, TOP), stack(TOP, ALL)
    assert generalized_energy_distance(samples, annotations, 2) == pytest.approx(2 * 7 / 16 - 1 / 4 - 1 / 4)
    assert generalized_energy_distance(samples, annotations, 2, unbiased=True) == pytest.approx(
        2 * 7 / 16 - 1 / 2 - 1 / 2
    )


def test_ged_of_one_reading_by_hand():
    # 2 (1/2 + 0) / 2, less 1/4 over all pairs and 1/2 over the distinct ones; the single reading's own term is 0.
    samples, reading = stack(FIRST, TOP), stack(TOP)
    assert generalized_energy_distance(samples, reading, 2) == pytest.approx(1 / 2 - 1 / 4)
    assert generalized_energy_distance(samples, reading, 2, unbiased=True) == pytest.approx(1 / 2 - 1 / 2)
    # One of each: twice their distance.
    assert generalized_energy_distance(stack(FIRST), reading, 2) == pytest.approx(2 * 1 / 2)


def test_ged_of_empty_structures():
    assert generalized_energy_distance(stack(NONE, NONE), stack(NONE), 2) == 0
    # Nothing shared, and each set of one mind: as far apart as can be.
    assert generalized_energy_distance(stack(NONE, NONE), stack(ALL), 2) == 2
    # Half of the samples empty as half of the annotations: 2 * 1/2 - 1/2 - 1/2.
    assert generalized_energy_distance(stack(NONE, TOP), stack(TOP, NONE), 2) == 0


def test_ged_of_a_set_with_itself():
    maps = random_maps(5, 3, seed=6)
    assert generalized_energy_distance(maps, maps, 3) == pytest.approx(0, abs=1e-12)
    # Without the diagonal of E[d(S, S')] = s: 2 (n - 1) / n s - s - s = -2 s / n.
    expected = -2 * diversity(maps, 3) / 5
    assert generalized_energy_distance(maps, maps, 3, unbiased=True) == pytest.approx(expected)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("count", "raters_count"), [(2, 2), (3, 4), (5, 1)])
def test_ged_is_that_of_loops(count, raters_count, unbiased):
    samples, annotations = random_maps(count, 3, seed=7), random_maps(raters_count, 3, seed=8)
    found = generalized_energy_distance(samples, annotations, 3, unbiased)
    assert found == pytest.approx(loop_ged(samples, annotations, 3, unbiased))
    assert generalized_energy_distance(samples.flip(0), annotations.flip(0), 3, unbiased) == pytest.approx(found)
    if raters_count > 1:
        assert generalized_energy_distance(annotations, samples, 3, unbiased) == pytest.approx(found)


def test_ged_is_between_0_and_2():
    for seed in range(30):
        samples, annotations = random_maps(1 + seed % 4, 3, seed), random_maps(1 + seed % 3, 3, seed + 100)
        # The loops know no clamp.
        assert -1e-12 < loop_ged(samples, annotations, 3, unbiased=False) <= 2
        assert 0 <= generalized_energy_distance(samples, annotations, 3) <= 2


def test_unbiased_ged_of_one_distribution_is_0_on_average():
    draw = random.Random(0)
    found = {True: [], False: []}
    for _ in range(400):
        samples, annotations = (stack(*draw.choices([FIRST, TOP], k=2)) for _ in range(2))
        for unbiased, values in found.items():
            values.append(generalized_energy_distance(samples, annotations, 2, unbiased))
    # Two draws are unlike with chance 1/2, and then 1/2 apart: 1/4. Over all pairs half are of a draw with itself:
    # 2 * 1/4 - 1/8 - 1/8.
    assert sum(found[True]) / 400 == pytest.approx(0, abs=0.05)
    assert sum(found[False]) / 400 == pytest.approx(1 / 4, abs=0.05)


def test_hungarian_iou_by_hand():
    # Crossed: first with first, all with top: (1 + 2/4) / 2; straight (1/2 + 1/4) / 2.
    assert hungarian_iou(stack(FIRST, ALL), stack(TOP, FIRST), 2) == pytest.approx((1 + 2 / 4) / 2)
    # Repeated to six: top three times against top, top, first, and last thrice against what is left, nothing shared.
    assert hungarian_iou(stack(TOP, LAST), stack(TOP, NONE, FIRST), 2) == pytest.approx((1 + 1 + 1 / 2 + 0 + 0 + 0) / 6)


def test_hungarian_iou_of_one_reading_is_the_mean():
    assert hungarian_iou(stack(FIRST, TOP, NONE), stack(TOP), 2) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_hungarian_iou_of_a_set_with_itself_and_of_empty_structures():
    maps = random_maps(5, 3, seed=9)
    assert hungarian_iou(maps, maps[[3, 0, 4, 2, 1]], 3) == 1
    assert hungarian_iou(stack(NONE, NONE), stack(NONE), 2) == 1
    assert hungarian_iou(stack(NONE, NONE), stack(ALL), 2) == 0


@pytest.mark.parametrize(("count", "raters_count"), [(3, 3), (2, 3), (4, 1), (2, 4)])
def test_hungarian_iou_is_that_of_loops(count, raters_count):
    samples, annotations = random_maps(count, 3, seed=10), random_maps(raters_count, 3, seed=11)
    found = hungarian_iou(samples, annotations, 3)
    assert found == pytest.approx(loop_hungarian(samples, annotations, 3))
    assert hungarian_iou(samples.flip(0), annotations, 3) == pytest.approx(found)
    assert hungarian_iou(annotations, samples, 3) == pytest.approx(found)
    assert hungarian_iou(samples.repeat(2, 1, 1), annotations, 3) == pytest.approx(found)


def test_diversity_by_hand():
    # d(first, top) = 1/2, d(first, all) = 3/4, d(top, all) = 1/2.
    assert diversity(stack(FIRST, TOP, ALL), 2) == pytest.approx((1 / 2 + 3 / 4 + 1 / 2) / 3)
    assert diversity(stack(TOP, TOP, TOP), 2) == diversity(stack(NONE, NONE), 2) == 0
    assert diversity(stack(FIRST, LAST, NONE), 2) == 1


def test_diversity_is_that_of_loops():
    maps = random_maps(5, 4, seed=12)
    assert diversity(maps, 4) == pytest.approx(loop_mean(itertools.combinations(maps, 2), 4))
    assert diversity(maps.flip(0), 4) == pytest.approx(diversity(maps, 4))


@pytest.mark.parametrize("measure", [generalized_energy_distance, hungarian_iou, pairwise_iou])
@pytest.mark.parametrize(
    ("samples", "annotations", "classes", "message"),
    [
        (stack(FIRST), stack(FIRST)[:, :1], 2, r": maps of shape \(1, 2\) were found, \(2, 2\) as of .* is expected"),
        (stack(FIRST)[:0], stack(FIRST), 2, r": shape \(0, 2, 2\) was found, \(maps, \.\.\.\) with a map"),
        (stack(FIRST), stack(FIRST)[:0], 2, r": shape \(0, 2, 2\) was found"),
        (torch.zeros(2, 0), torch.zeros(2, 0), 2, r": shape \(2, 0\) was found"),
        (torch.zeros(4), torch.zeros(4), 2, r": shape \(4,\) was found"),
        (stack(FIRST), stack(FIRST) * 2, 2, ": labels from 0 to 2 were found, whole numbers from 0 to 1 are expected"),
        (-stack(FIRST), stack(FIRST), 2, ": labels from -1 to 0 were found"),
        (stack(FIRST) * 0.5, stack(FIRST), 2, ": labels from 0 to 0.5 were found"),
        (stack(FIRST), stack(FIRST) * math.nan, 2, ": labels from nan to nan were found"),
        (stack(FIRST) / 0, stack(FIRST), 2, ": labels from .* were found"),
        (stack(FIRST), stack(FIRST), 1, "num_classes: 1 was found, 2 or more is expected"),
    ],
)
def test_what_does_not_fit_is_refused(measure, samples, annotations, classes, message):
    with pytest.raises(ValueError, match=message):
        measure(samples, annotations, classes)


def test_a_single_sample_has_no_pairs():
    with pytest.raises(ValueError, match="samples: 1 map was found, 2 or more are expected"):
        diversity(stack(FIRST), 2)
    with pytest.raises(ValueError, match="samples: 1 map was found, 2 or more are expected for the unbiased"):
        generalized_energy_distance(stack(FIRST), stack(FIRST, TOP), 2, unbiased=True)


METRICS = [
    (GeneralizedEnergyDistanceMetric, lambda s, r: generalized_energy_distance(s, r, 3)),
    (HungarianIoUMetric, lambda s, r: hungarian_iou(s, r, 3)),
    (DiversityMetric, lambda s, r: diversity(s, 3)),
]


@pytest.mark.parametrize(("kind", "function"), METRICS)
def test_a_metric_is_its_function_on_each_case(kind, function):
    cases = [(random_maps(3, 3, seed), random_maps(4, 3, seed + 50)) for seed in range(5)]
    expected = [function(*case) for case in cases]
    metric = kind(num_classes=3, get_not_nans=True)
    # Two in a batch, then lists: of three annotations, of one, and on another grid.
    found = metric(y_pred=stack(cases[0][0], cases[1][0]), y=stack(cases[0][1], cases[1][1]))
    assert found.flatten().tolist() == pytest.approx(expected[:2])
    assert found.shape == (2, 1)
    others = [(cases[2][0], cases[2][1][:3]), (cases[3][0], cases[3][1][:1]), (cases[4][0][:, :2], cases[4][1][:, :2])]
    expected[2:] = [function(*case) for case in others]
    metric([samples for samples, _ in others], [annotations for _, annotations in others])
    mean, count = metric.aggregate()
    assert mean.item() == pytest.approx(sum(expected) / 5)
    assert count.item() == 5
    assert metric.aggregate("none")[0].flatten().tolist() == pytest.approx(expected)
    assert len(metric) == 5
    metric.reset()
    with pytest.raises(ValueError, match="cases: none was found"):
        metric.aggregate()


def test_the_unbiased_distance_as_a_metric():
    samples, annotations = random_maps(3, 2, seed=0), random_maps(2, 2, seed=1)
    metric = GeneralizedEnergyDistanceMetric(num_classes=2, unbiased=True, reduction="sum")
    metric(samples[None], annotations[None])
    metric(samples[None], annotations[None])
    expected = generalized_energy_distance(samples, annotations, 2, unbiased=True)
    assert metric.aggregate().item() == pytest.approx(2 * expected)


def test_metrics_refuse_what_they_cannot_compare():
    samples = random_maps(3, 2, seed=0)[None]
    with pytest.raises(ValueError, match="y: nothing was found, a batch of 1 as of y_pred is expected"):
        HungarianIoUMetric(num_classes=2)(samples)
    with pytest.raises(ValueError, match="y: a batch of 2 was found, a batch of 1"):
        HungarianIoUMetric(num_classes=2)(samples, samples.repeat(2, 1, 1, 1))
    assert DiversityMetric(num_classes=2)(samples).item() == pytest.approx(diversity(samples[0], 2))


@pytest.mark.parametrize(("kind", "function"), METRICS)
def test_metrics_work_as_ignite_handlers(kind, function):
    cases = [(random_maps(3, 3, seed), random_maps(2, 3, seed + 50)) for seed in range(4)]
    engine = Engine(lambda engine, case: (case[0][None], [case[1]]))
    IgniteMetricHandler(metric_fn=kind(num_classes=3)).attach(engine, "value")
    engine.run(cases)
    assert engine.state.metrics["value"] == pytest.approx(sum(function(*case) for case in cases) / 4)
    assert engine.state.metric_details["value"].shape == (4, 1)


@pytest.mark.skipif(not LIDC.is_dir(), reason=f"needs the multi-rater LIDC crops in {LIDC}")
def test_four_raters_of_lung_nodules():
    nodules = sorted(folder for folder in LIDC.glob("*/*") if folder.is_dir())
    assert nodules
    halves = []
    for nodule in nodules:
        masks = [np.asarray(Image.open(nodule / f"label{rater}_.jpg")) > 127 for rater in range(4)]
        four = torch.from_numpy(np.stack(masks))
        assert generalized_energy_distance(four, four, 2) == pytest.approx(0, abs=1e-12)
        assert hungarian_iou(four, four.flip(0), 2) == 1
        assert 0 < diversity(four, 2) <= 1
        halves.append((four[:2], four[2:]))
        ged = generalized_energy_distance(*halves[-1], 2)
        assert ged == pytest.approx(loop_ged(*halves[-1], 2, unbiased=False))
        assert 0 < ged < 2
        assert 0 < hungarian_iou(*halves[-1], 2) < 1
    for metric, end in ((GeneralizedEnergyDistanceMetric(2), 2), (HungarianIoUMetric(2), 1)):
        metric([one for one, _ in halves], [other for _, other in halves])
        assert 0 < metric.aggregate().item() < end
