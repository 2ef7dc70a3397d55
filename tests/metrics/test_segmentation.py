import math
import warnings

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from monai_pdddpm.metrics.segmentation import class_names, segmentation_metrics

LESION = {1: "lesion"}


def cube(start, stop, shape=(12, 12, 12), value=1):
    label_map = torch.zeros(shape, dtype=torch.long)
    label_map[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))] = value
    return label_map


def test_two_shifted_cubes_by_hand():
    truth, predicted = cube((4, 4, 4), (8, 8, 8)), cube((5, 4, 4), (9, 8, 8))
    found = segmentation_metrics(predicted, truth, LESION, spacing=(2, 1, 3))["lesion"]
    # 48 of 64 voxels shared. Of the 56 surface voxels 36 lie on the other surface, 4 (inside it) 1 mm from its side
    # and the 16 of the far face one voxel, 2 mm, outside.
    assert found["dice"] == pytest.approx(2 * 48 / 128)
    assert found["hd95_mm"] == pytest.approx(2)
    assert found["nsd_1mm"] == pytest.approx(40 / 56)
    assert found["volume_error_percent"] == 0
    assert found["volume_ml"] == found["true_volume_ml"] == pytest.approx(64 * 6 / 1000)


def test_distance_follows_the_spacing_of_its_axis():
    truth = cube((4, 4, 4), (8, 8, 8))
    shifted = {axis: truth.roll(1, dims=axis) for axis in range(3)}
    spacing = (2.0, 1.0, 3.0)
    hd95 = [segmentation_metrics(shifted[axis], truth, LESION, spacing)["lesion"]["hd95_mm"] for axis in range(3)]
    assert hd95 == pytest.approx([2, 1, 3])


def test_the_95th_percentile_ignores_one_far_voxel_but_nsd_and_volume_count_it():
    truth = cube((1, 1, 1), (5, 5, 5))
    predicted = truth.clone()
    predicted[11, 11, 11] = 1
    found = segmentation_metrics(predicted, truth, LESION, (1, 1, 1))["lesion"]
    assert found["hd95_mm"] == 0
    assert found["nsd_1mm"] == pytest.approx(112 / 113)
    assert found["volume_error_percent"] == pytest.approx(100 / 64)


def test_a_voxel_of_nearly_1_mm_counts_as_1_mm():
    truth = cube((4, 4, 4), (8, 8, 8))
    found = segmentation_metrics(truth.roll(1, dims=0), truth, LESION, (1.0000001, 1.0, 1.0))["lesion"]
    assert found["nsd_1mm"] == 1
    found = segmentation_metrics(truth.roll(1, dims=0), truth, LESION, (1.00015, 1.0, 1.0))["lesion"]
    assert found["nsd_1mm"] == pytest.approx(40 / 56)


def test_volume_error_has_a_sign():
    truth, small = cube((2, 2, 2), (6, 6, 6)), cube((2, 2, 2), (4, 6, 6))
    assert segmentation_metrics(small, truth, LESION, (1, 1, 1))["lesion"]["volume_error_percent"] == -50
    assert segmentation_metrics(truth, small, LESION, (1, 1, 1))["lesion"]["volume_error_percent"] == 100


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (False, False, {"dice": 1, "nsd_1mm": 1, "hd95_mm": 0, "volume_error_percent": math.nan}),
        (True, False, {"dice": 0, "nsd_1mm": 0, "hd95_mm": math.nan, "volume_error_percent": math.nan}),
        (False, True, {"dice": 0, "nsd_1mm": 0, "hd95_mm": math.nan, "volume_error_percent": -100}),
    ],
)
def test_empty_masks(predicted, truth, expected):
    empty, full = torch.zeros(12, 12, 12, dtype=torch.long), cube((4, 4, 4), (8, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = segmentation_metrics(full if predicted else empty, full if truth else empty, LESION, (1, 1, 1))
    assert {name: found["lesion"][name] for name in expected} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("shape", [(20, 17, 9), (24, 19)])
def test_cropping_changes_nothing(shape):
    generator = torch.Generator().manual_seed(1)
    predicted, truth = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    # Two ragged regions, one of them at the image's border.
    for label_map, start in ((predicted, 0), (truth, 2)):
        region = label_map[tuple(slice(start, start + 7) for _ in shape)]
        region[torch.rand(region.shape, generator=generator) < 0.7] = 1
    spacing = (0.9, 1.3, 3.0)[: len(shape)]
    found = segmentation_metrics(predicted, truth, LESION, spacing)["lesion"]
    one, other = predicted[None, None].float(), truth[None, None].float()
    assert found["dice"] == float(compute_dice(one, other))
    whole = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    assert found["hd95_mm"] == float(whole)
    assert found["nsd_1mm"] == float(compute_surface_dice(one, other, [1.0], include_background=True, spacing=spacing))
    assert 0 < found["nsd_1mm"] < 1


def test_labels_are_compared_separately_and_results_are_floats():
    truth = cube((2, 2, 2), (6, 6, 6)) + cube((6, 2, 2), (10, 6, 6), value=2)
    predicted = cube((2, 2, 2), (10, 6, 6))
    found = segmentation_metrics(MetaTensor(predicted), truth.float(), {"1": "front", "2": "back"}, (1, 1, 1))
    assert list(found) == ["front", "back"]
    assert found["front"]["dice"] == pytest.approx(2 * 64 / (64 + 128))
    assert found["back"]["dice"] == 0
    assert all(type(value) is float for metrics in found.values() for value in metrics.values())


@pytest.mark.parametrize("corner", [0, 3])
def test_a_structure_in_a_corner_of_the_image(corner):
    truth = torch.zeros(5, 5, 5, dtype=torch.long)
    inside = slice(corner, corner + 2)
    truth[inside, inside, inside] = 1
    found = segmentation_metrics(truth, truth, LESION, (1.0, 1.0, 1.0))["lesion"]
    assert (found["dice"], found["hd95_mm"], found["nsd_1mm"]) == (1, 0, 1)
    beside = truth.roll(1 if corner == 0 else -1, dims=0)
    found = segmentation_metrics(beside, truth, LESION, (1.0, 1.0, 1.0))["lesion"]
    assert (found["dice"], found["hd95_mm"], found["nsd_1mm"]) == (0.5, 1, 1)


def test_class_names():
    assert class_names({"2": "b", "0": "background", "1": "a"}) == {1: "a", 2: "b"}


@pytest.mark.parametrize(
    "labels", [{}, {0: "background"}, {-1: "a"}, {-1: "a", 1: "b"}, {1: "a", 2: "a"}, {1: "mean"}, {"tumour": "1"}]
)
def test_bad_class_names_raise(labels):
    with pytest.raises(ValueError, match="labels: found"):
        class_names(labels)
