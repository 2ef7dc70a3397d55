import math

import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.metrics.lesions import lesion_metrics

LESION = {1: "lesion"}


def map_of(*boxes, shape=(12, 12, 12), value=1):
    """A label map with boxes, each given by its slices."""
    label_map = torch.zeros(shape, dtype=torch.long)
    for box in boxes:
        label_map[box] = value
    return label_map


def block(start, size, axes=3):
    return (slice(start, start + size),) * axes


def found_in(label_map, truth):
    return lesion_metrics(label_map, truth, LESION)["lesion"]


def test_one_found_two_missed_one_false_by_hand():
    # the truth: a cube of 27, a voxel and a pair; the answer: a corner of the cube, the pair's neighbour, a false cube
    truth = map_of(block(0, 3), (0, 6, 0), (slice(4, 6), 9, 9))
    answer = map_of((2, 2, 2), (4, 9, 11), block(9, 2))
    assert found_in(answer, truth) == {
        "lesion_recall": pytest.approx(1 / 3),
        "lesion_precision": pytest.approx(1 / 3),
        "lesion_f1": pytest.approx(1 / 3),
        "true_lesions": 3,
        "predicted_lesions": 3,
        "missed_lesions": 2,
        "false_lesions": 2,
        "volume_difference_percent": pytest.approx(100 * (30 - 10) / 30),
    }


def test_one_answer_over_two_lesions_finds_both_and_pieces_are_each_right():
    two, one = map_of((0, 0, 0), (4, 0, 0)), map_of((slice(0, 5), 0, 0))
    over = found_in(one, two)
    assert (over["lesion_recall"], over["lesion_precision"], over["predicted_lesions"]) == (1, 1, 1)
    pieces = found_in(two, one)
    assert (pieces["lesion_recall"], pieces["lesion_precision"], pieces["predicted_lesions"]) == (1, 1, 2)
    assert (over["volume_difference_percent"], pieces["volume_difference_percent"]) == (150, 60)


def test_recall_and_precision_apart():
    truth = map_of((0, 0, 0), (3, 0, 0), (6, 0, 0), (9, 0, 0))
    found = found_in(map_of((0, 0, 0), (3, 0, 0), (0, 6, 6)), truth)
    assert (found["lesion_recall"], found["lesion_precision"]) == (2 / 4, pytest.approx(2 / 3))
    assert found["lesion_f1"] == pytest.approx(4 / 7)  # 2 * (1/2 * 2/3) / (1/2 + 2/3)


@pytest.mark.parametrize(("axes", "second"), [(3, (1, 1, 1)), (3, (0, 1, 1)), (2, (1, 1)), (2, (1, 0))])
def test_voxels_that_share_a_corner_are_one_lesion(axes, second):
    empty = map_of(shape=(6,) * axes)
    for step, count in ((1, 1), (2, 2)):
        lesions = map_of((0,) * axes, tuple(step * index for index in second), shape=empty.shape)
        assert found_in(empty, lesions)["true_lesions"] == found_in(lesions, empty)["predicted_lesions"] == count


NAN = math.nan


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        (False, False, (NAN, NAN, NAN, 0, 0, 0, 0, NAN)),
        (True, False, (NAN, 0, 0, 0, 1, 0, 1, NAN)),
        (False, True, (0, NAN, 0, 1, 0, 1, 0, 100)),
    ],
)
def test_empty_maps(answer, truth, expected):
    empty, full = map_of(), map_of(block(3, 4))
    found = found_in(full if answer else empty, full if truth else empty)
    assert tuple(found.values()) == pytest.approx(expected, nan_ok=True)


def test_nothing_right_is_an_f1_of_zero():
    assert found_in(map_of(block(0, 2)), map_of(block(6, 2)))["lesion_f1"] == 0


def test_labels_are_judged_apart_and_plain_numbers_come_back():
    truth = map_of(block(0, 2)) + map_of(block(6, 2), value=2)
    found = lesion_metrics(MetaTensor(map_of(block(0, 2), block(6, 2))), truth.float(), {"1": "a", "2": "b"})
    assert (found["a"]["lesion_recall"], found["a"]["lesion_precision"]) == (1, 0.5)
    assert (found["b"]["lesion_recall"], found["b"]["predicted_lesions"]) == (0, 0)
    assert all(type(value) in (int, float) for metrics in found.values() for value in metrics.values())
