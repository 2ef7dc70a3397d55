"""Volumes by hand."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.metrics.recalibration import Calibration
from monai_pdddpm.transforms import CaseSummaryd
from monai_pdddpm.transforms.case_summary import _mean_inside, agreement, expected_dice, voxel_volume_ml

LABELS = {"0": "background", "1": "head", "2": "tail"}
AFFINE = torch.diag(torch.tensor([0.5, 2.0, 5.0, 1.0], dtype=torch.float64))  # 5 mm3, 0.005 mL a voxel


def label_map(ones, twos):
    seg = torch.zeros(1, 4, 5, 6, dtype=torch.long)
    seg.view(-1)[:ones] = 1
    seg.view(-1)[ones : ones + twos] = 2
    return seg


def test_volume_of_a_voxel():
    assert voxel_volume_ml(np.eye(4)) == 1e-3
    assert voxel_volume_ml(AFFINE) == pytest.approx(0.005)
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, -2, 0], [0.5, 0, 0], [0, 0, -5.0]])
    turned[:3, 3] = 77
    assert voxel_volume_ml(turned) == pytest.approx(0.005)
    sheared = np.eye(4)
    sheared[0, 1] = 3
    assert voxel_volume_ml(sheared) == pytest.approx(1e-3)


def test_volumes_and_spread_by_hand():
    members = torch.cat([label_map(10, 20), label_map(30, 0), label_map(20, 10)])
    item = CaseSummaryd("seg", LABELS)(
        {
            "seg": MetaTensor(label_map(20, 8), affine=AFFINE),
            "members": MetaTensor(members, affine=AFFINE),
            "entropy": MetaTensor(label_map(14, 14).float() * 0.25),
        }
    )
    result = item["result"]
    assert list(result["volume_ml"]) == ["head", "tail"]
    assert result["volume_ml"]["head"] == {
        "segmentation": 0.1,
        "members_mean": 0.1,
        "members_sd": pytest.approx(0.005 * (200 / 3) ** 0.5, abs=1e-4),
        "members_min": 0.05,
        "members_max": 0.15,
    }
    assert result["volume_ml"]["tail"]["segmentation"] == 0.04
    assert result["volume_ml"]["tail"]["members_min"] == 0
    # of the 28 voxels inside, half have 0.25 and half 0.5
    assert result["mean_entropy_inside_nats"] == 0.375
    # the head has 14 voxels of 0.25 and 6 of 0.5, the tail 8 of 0.5; without probabilities there is no expected Dice
    assert result["structures"]["head"]["mean_entropy_inside_nats"] == 0.325
    assert result["structures"]["tail"]["mean_entropy_inside_nats"] == 0.5
    assert result["structures"]["head"]["expected_dice"] is None
    assert _mean_inside(torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, dtype=torch.bool)) == 0.3333
    assert json.loads(json.dumps(result)) == result


def test_without_members_entropy_or_foreground():
    data = {"seg": MetaTensor(label_map(0, 0), affine=AFFINE), "other": 1}
    result = CaseSummaryd("seg", LABELS)(data)["result"]
    assert set(data) == {"seg", "other"}
    assert result["volume_ml"] == {"head": {"segmentation": 0.0}, "tail": {"segmentation": 0.0}}
    assert result["mean_entropy_inside_nats"] is None
    assert result["unlike_usual"] == []
    assert "agreement" not in result["features"]
    assert "predicted_dice" not in result
    empty = torch.stack([torch.ones(4, 5, 6), *torch.zeros(2, 4, 5, 6)])
    item = CaseSummaryd("seg", LABELS)({"seg": MetaTensor(label_map(0, 0), affine=AFFINE), "prob": MetaTensor(empty)})
    assert item["result"]["features"]["expected_dice"] == 1  # surely nothing is there


def test_agreement_by_hand():
    answer = label_map(20, 8)[0]
    # Dice of the head 20/20 and 2*10/30; of the tail 2*8/16 and 0
    members = torch.cat([label_map(20, 8), label_map(10, 0)])
    assert agreement(members, answer, [1, 2]) == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    nothing = torch.zeros_like(answer)
    assert agreement(nothing[None], nothing, [1, 2]) == 1
    # of two members without the class of the answer, which has none, the first agrees
    assert agreement(torch.stack([answer * 0, answer]), answer * 0, [1]) == 0.5
    assert agreement(label_map(1, 0), answer * 0, [1]) == 0  # one voxel is a structure
    # a class that nobody has says nothing
    assert agreement(members, answer, [1, 2, 3]) == agreement(members, answer, [1, 2])


def test_a_calibration_adds_intervals_and_what_is_unusual():
    members = torch.cat([label_map(10, 8), label_map(30, 8)])
    calibration = Calibration(
        interval_factor={"head": 2.0},
        dice_line=(0.5, 0.4, 0.1),
        ranges={"volume of tail (mL)": (0.01, 2.0), "volume of head (mL)": (0.01, 2.0)},
    )
    seg = label_map(20, 8)
    prob = torch.cat([seg == 0, 0.75 * (seg == 1), 1.0 * (seg == 2)])
    prob[0] += 0.25 * (seg[0] == 1)
    data = {
        "seg": MetaTensor(seg, affine=AFFINE),
        "members": MetaTensor(members, affine=AFFINE),
        "prob": MetaTensor(prob, affine=AFFINE),
    }
    result = CaseSummaryd("seg", LABELS, calibration=calibration)(data)["result"]
    # 20 voxels of 0.005 mL with p = 3/4: 0.075 mL expected, p (1 - p) adds up to 0.01875 mL
    assert result["volume_ml"]["head"]["expected"] == 0.075
    assert result["volume_ml"]["head"]["interval_90"] == pytest.approx([0.0375, 0.1125], abs=1e-4)
    assert "interval_90" not in result["volume_ml"]["tail"]
    assert result["unlike_usual"] == []
    # 4, 5 and 6 voxels of 0.5, 2 and 5 mm
    assert [result["features"][f"field of view, side {side} (mm)"] for side in (1, 2, 3)] == [2, 10, 30]
    agreed = (2 * 10 / 30 + 2 * 20 / 50) / 4  # the tails lie elsewhere
    assert result["features"]["agreement"] == pytest.approx(agreed, abs=1e-5)
    # Dice to expect: 2 * 15 / (20 + 15) of the head, 1 of the tail
    assert result["features"]["expected_dice"] == round((6 / 7 + 1) / 2, 5)
    assert result["structures"]["head"] == {
        "expected_dice": round(6 / 7, 4),
        "agreement": pytest.approx((2 * 10 / 30 + 2 * 20 / 50) / 2, abs=1e-4),
        "mean_entropy_inside_nats": None,
    }
    assert result["structures"]["tail"] == {"expected_dice": 1.0, "agreement": 0.0, "mean_entropy_inside_nats": None}
    expected = 0.5 * (6 / 7 + 1) / 2 + 0.4
    assert result["predicted_dice"]["value"] == pytest.approx(expected, abs=1e-4)
    assert result["predicted_dice"]["interval_90"] == pytest.approx([expected - 0.1, expected + 0.1], abs=1e-4)
    assert json.loads(json.dumps(result)) == result
    tempered = CaseSummaryd("seg", LABELS, calibration=Calibration(temperature=2.0))(data)["result"]
    # squares of 1/4 and 3/4 are as 1 to 9
    assert tempered["volume_ml"]["head"]["expected"] == 0.09
    third = AFFINE * torch.tensor([1 / 7, 1.0, 1.0, 1.0])
    seventh = dataclasses.replace(calibration, interval_factor={"head": 1.3}, dice_line=(0.5, 1 / 7, 1 / 7), ranges={})
    odd = CaseSummaryd("seg", LABELS, calibration=seventh)({k: MetaTensor(v, affine=third) for k, v in data.items()})
    head, dice = odd["result"]["volume_ml"]["head"], odd["result"]["predicted_dice"]
    for numbers in (head["interval_90"], [dice["value"], *dice["interval_90"]], head.values()):
        numbers = [x for value in numbers for x in np.atleast_1d(value)]
        assert [round(x, 4) for x in numbers] == numbers
        assert any(round(x, 3) != x for x in numbers)
    narrow = dataclasses.replace(calibration, ranges={"volume of tail (mL)": (1.0, 2.0)})
    result = CaseSummaryd("seg", LABELS, calibration=narrow)(data)["result"]
    assert result["unlike_usual"] == ["volume of tail (mL): found 0.04, 1 to 2 is usual"]
    # what was learnt from usual cases is not said of this one
    assert "predicted_dice" not in result
    assert "interval_90" not in result["volume_ml"]["head"]


def test_frames_are_summarized_one_by_one():
    maps = [label_map(20, 8), label_map(30, 5)]
    calibration = Calibration(ranges={"volume of head (mL)": (0.05, 0.12)})
    data = {"seg": MetaTensor(torch.stack(maps, dim=-1), affine=AFFINE), "ensemble_run": SimpleNamespace(frames=2)}
    result = CaseSummaryd("seg", LABELS, calibration=calibration)(data)["result"]
    alone = [CaseSummaryd("seg", LABELS)({"seg": MetaTensor(seg, affine=AFFINE)})["result"] for seg in maps]
    assert [one["volume_ml"] for one in result["frames"]] == [one["volume_ml"] for one in alone]
    assert result["unlike_usual"] == ["frame 1: volume of head (mL): found 0.15, 0.05 to 0.12 is usual"]


def test_less_than_half_a_voxel_is_an_absent_structure():
    nowhere = torch.zeros(4, dtype=torch.bool)
    assert expected_dice(torch.full((4,), 0.125), nowhere) is None
    assert expected_dice(torch.full((4,), 0.15), nowhere) == 0


def test_one_member_has_no_spread():
    item = CaseSummaryd("seg", LABELS)({"seg": MetaTensor(label_map(4, 0), affine=AFFINE), "members": label_map(4, 0)})
    assert item["result"]["volume_ml"]["head"]["members_sd"] == 0
    assert item["result"]["volume_ml"]["head"]["members_mean"] == 0.02


def test_many_voxels_are_counted_exactly():
    seg = torch.ones(1, 300, 300, 200, dtype=torch.uint8)  # more than float32 can count one by one
    item = CaseSummaryd("seg", LABELS)({"seg": MetaTensor(seg, affine=torch.eye(4)), "members": seg})
    assert item["result"]["volume_ml"]["head"]["segmentation"] == 18000.0
    assert item["result"]["volume_ml"]["head"]["members_mean"] == 18000.0


def test_large_volumes_keep_four_digits():
    seg = torch.ones(1, 10, 10, 1, dtype=torch.uint8)  # of 12.345678 mL; float32 has 1234.5677 mL
    affine = torch.diag(torch.tensor([10.0, 10.0, 123.45678, 1.0], dtype=torch.float64))
    item = CaseSummaryd("seg", LABELS)({"seg": MetaTensor(seg, affine=affine), "members": seg})
    assert item["result"]["volume_ml"]["head"]["members_mean"] == 1234.5678


def test_regions_by_hand():
    prob = torch.nn.functional.one_hot(label_map(10, 20)[0], 3).movedim(-1, 0) * 0.8 + 0.2 / 3
    item = {"seg": MetaTensor(label_map(10, 20), affine=AFFINE), "members": label_map(5, 0), "prob": prob}
    found = CaseSummaryd("seg", LABELS, regions={"whole": [1, 2]})(item)["result"]
    assert found["volume_ml"]["whole"]["segmentation"] == 0.15  # 30 voxels of 0.005 mL
    assert found["volume_ml"]["whole"]["members_mean"] == 0.025
    inside, outside = 30 * (0.8 + 0.4 / 3), 90 * 0.4 / 3
    assert found["volume_ml"]["whole"]["expected"] == pytest.approx((inside + outside) * 0.005, abs=1e-4)
    dice = 2 * inside / (30 + inside + outside)
    assert found["structures"]["whole"]["expected_dice"] == pytest.approx(dice, abs=1e-4)
    assert found["structures"]["whole"]["agreement"] == pytest.approx(10 / 35, abs=1e-4)
    assert not any("whole" in name for name in found["features"])
