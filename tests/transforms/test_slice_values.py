"""Areas and entropy of each slice, counted by hand."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms.slice_values import slice_values

LABELS = {1: "cord", 2: "lesion"}
# first axis to the feet, 3 mm; then to the left, 2 mm; then to the front, 0.75 mm
AFFINE = np.array([[0, -2.0, 0, 0], [0, 0, 0.75, 0], [-3.0, 0, 0, 90], [0, 0, 0, 1]])


def table(item):
    return list(csv.DictReader(io.StringIO(slice_values(item, LABELS))))


def case(**more):
    seg = torch.zeros(1, 4, 3, 5)
    seg[0, 1, 0, :3] = 1  # 3 voxels of 1.5 mm2
    seg[0, 2, 1, :2] = 2
    return {"seg": MetaTensor(seg, affine=torch.as_tensor(AFFINE)), **more}


def test_areas_along_the_axis_from_head_to_foot():
    rows = table(case())
    assert [(row["slice"], row["position_mm"], row["structure"], row["area_mm2"]) for row in rows] == [
        ("1", "-3.0", "cord", "4.5"),
        ("2", "-6.0", "lesion", "3.0"),
    ]
    assert slice_values(case(), LABELS).count("\r") == 0
    assert rows[0]["expected_area_mm2"] == rows[0]["members_min_mm2"] == rows[0]["mean_entropy_inside_nats"] == ""


def test_probabilities_members_and_entropy():
    prob, entropy = torch.zeros(3, 4, 3, 5), torch.zeros(1, 4, 3, 5)
    prob[1, 1, 0, :] = 0.5
    entropy[0, 1, 0] = torch.tensor([0.1, 0.2, 0.6, 9, 9])
    members = torch.zeros(2, 4, 3, 5)
    members[0, 1, 0, :2] = members[1, 1, 0, :] = 1
    members[1, 3, 0, 0] = 2  # one member only, and not the answer
    rows = table(case(prob=prob, entropy=entropy, members=members))
    cord, lesion, found = rows
    assert (cord["expected_area_mm2"], cord["members_min_mm2"], cord["members_max_mm2"]) == ("3.75", "3.0", "7.5")
    assert float(cord["mean_entropy_inside_nats"]) == pytest.approx(0.3)
    assert (lesion["members_min_mm2"], lesion["members_max_mm2"]) == ("0.0", "0.0")
    assert (found["slice"], found["structure"], found["area_mm2"], found["members_max_mm2"]) == (
        "3",
        "lesion",
        "0.0",
        "1.5",
    )
    assert found["mean_entropy_inside_nats"] == ""


def test_numbers_have_four_digits():
    item = case()
    item["seg"].affine[2, 0] = -1 / 7
    assert table(item)[0]["position_mm"] == "-0.1429"
    entropy = torch.full((1, 4, 3, 5), 1 / 7)
    assert table(case(entropy=entropy))[0]["mean_entropy_inside_nats"] == "0.1429"


def test_frames():
    seg = torch.zeros(1, 4, 3, 5, 2)
    seg[0, 1, 0, 0, 0] = seg[0, 1, 0, :2, 1] = 1
    item = {"seg": MetaTensor(seg, affine=torch.as_tensor(AFFINE)), "ensemble_run": SimpleNamespace(frames=2)}
    assert [(row["frame"], row["area_mm2"]) for row in table(item)] == [("0", "1.5"), ("1", "3.0")]
