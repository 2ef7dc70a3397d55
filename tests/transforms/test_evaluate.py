import math

import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.metrics.calibration import masked_voxels, near_structure, voxel_metrics
from monai_pdddpm.transforms.segmentation_metrics import SegmentationMetricsd

LABELS = {1: "front", 2: "back"}
AFFINE = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0]))


def truth_of(affine=AFFINE, name="scans/case7.nii.gz"):
    label = torch.zeros(1, 12, 12, 12)
    label[:, 2:6, 4:8, 4:8] = 1
    label[:, 6:10, 4:8, 4:8] = 2
    return MetaTensor(label, affine=affine, meta={"filename_or_obj": name})


def probability_of(label_map, sureness=0.8, affine=AFFINE):
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(label_map).long(), 3).movedim(-1, 0).float()
    return MetaTensor(one_hot * sureness + (1 - one_hot) * (1 - sureness) / 2, affine=affine)


@pytest.fixture
def data():
    label = truth_of()
    plain = label.as_tensor()[0]
    return {"label": label, "preseg": probability_of(plain.roll(1, dims=0)), "prob": probability_of(plain)}


def test_both_methods_by_hand(data):
    before = set(data)
    metrics = SegmentationMetricsd(labels=LABELS)(data)["metrics"]
    assert set(data) == before
    assert list(metrics) == ["segmenter", "ensemble"]
    assert metrics["ensemble"]["labels"]["front"] == {
        "dice": 1,
        "hd95_mm": 0,
        "nsd_1mm": 1,
        "volume_error_percent": 0,
        "volume_ml": pytest.approx(0.384),
        "true_volume_ml": pytest.approx(0.384),
    }
    assert metrics["segmenter"]["labels"]["front"]["dice"] == 0.75
    assert metrics["segmenter"]["labels"]["back"]["hd95_mm"] == pytest.approx(2)
    near = metrics["ensemble"]["near structure"]
    # Always right at 0.8 sure: 0.2 too modest.
    assert near["ece"] == pytest.approx(0.2)
    assert near["brier"] == pytest.approx(0.2**2 + 2 * 0.1**2)
    assert near["nll"] == pytest.approx(-math.log(0.8))
    assert math.isnan(near["error_auroc"])
    assert metrics["segmenter"]["near structure"]["error_auroc"] == 0.5


def test_calibration_is_taken_near_the_structure(data):
    truth = data["label"].as_tensor()[0].long()
    found = SegmentationMetricsd("preseg", labels=LABELS)(data)["metrics"]
    assert found["segmenter"]["near structure"] == voxel_metrics(
        *masked_voxels(data["preseg"], truth, near_structure(truth))
    )


def test_lesions_are_compared_when_asked_for(data):
    plain = SegmentationMetricsd(labels=LABELS)(data)["metrics"]
    spotted = data["label"].as_tensor()[0].clone()
    spotted[11, 11, 11] = 1
    data["preseg"] = probability_of(spotted)
    data["prob"] = probability_of(torch.where(spotted == 2, 0, spotted))
    metrics = SegmentationMetricsd(labels=LABELS, lesions=True)(data)["metrics"]
    front, back = metrics["segmenter"]["labels"]["front"], metrics["ensemble"]["labels"]["back"]
    assert set(plain["segmenter"]["labels"]["front"]) < set(front)
    assert (front["lesion_recall"], front["lesion_precision"], front["false_lesions"]) == (1, 0.5, 1)
    assert front["lesion_f1"] == pytest.approx(2 / 3)
    assert front["volume_difference_percent"] == pytest.approx(100 / 64)
    assert (back["lesion_recall"], back["lesion_f1"], back["volume_difference_percent"]) == (0, 0, 100)


def test_two_dimensions(data):
    flat = {key: MetaTensor(value.as_tensor()[..., 5], affine=AFFINE) for key, value in data.items()}
    metrics = SegmentationMetricsd(labels=LABELS)(flat)["metrics"]
    assert metrics["segmenter"]["labels"]["front"]["dice"] == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prob": torch.full((3, 12, 12, 11), 1 / 3)}, r"\(3, 12, 12, 11\).*\(K, 12, 12, 12\).*invert"),
        ({"prob": torch.full((2, 12, 12, 12), 1 / 2)}, "2 channels.*softmax"),
        ({"prob": MetaTensor(torch.full((3, 12, 12, 12), 5.0))}, "apply a softmax"),
    ],
)
def test_what_does_not_fit_is_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        SegmentationMetricsd(labels=LABELS)({**data, **change})


def test_voxels_without_a_label_are_left_out(data):
    wrong = data["prob"].as_tensor().roll(1, dims=0)  # of another class
    label = data["label"].clone()
    label[:, :, 6:] = -1
    data["prob"].as_tensor()[:, :, 6:] = wrong[:, :, 6:]
    found = SegmentationMetricsd("prob", labels=LABELS)(data | {"label": label})["metrics"]["ensemble"]
    assert found["labels"]["front"]["dice"] == 1
    assert found["labels"]["front"]["true_volume_ml"] == pytest.approx(0.192)
    assert found["near structure"]["nll"] == pytest.approx(-math.log(0.8))


def test_regions_by_hand(data):
    found = SegmentationMetricsd(labels=LABELS, regions={"both": [1, 2]})(data)["metrics"]
    assert found["ensemble"]["regions"]["both"]["true_volume_ml"] == pytest.approx(0.768)
    assert found["segmenter"]["regions"]["both"]["dice"] == 0.875  # 7 of 8 planes after a shift by one
    assert found["segmenter"]["labels"]["front"]["dice"] == 0.75
