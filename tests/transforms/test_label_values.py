import re

import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import LabelValuesd, LeaveOutUnlabeledd, named_values
from monai_pdddpm.transforms.label_values import to_values
from monai_pdddpm.utils.errors import UserError


def test_values_become_classes():
    label = MetaTensor(torch.tensor([[0.0, 2.0, 5.0, 2.0, 9.0]]), affine=torch.eye(4) * 2)
    found = LabelValuesd("label", [0, 2, 5])({"label": label, "other": 1})
    assert found["label"].tolist() == [[0, 1, 2, 1, 0]]  # 9 is no label
    assert found["label"].affine[0, 0] == 2  # keeps its place
    assert found["other"] == 1


def test_classes_become_values_again():
    classes = MetaTensor(torch.tensor([[0, 1, 2, 1]]), affine=torch.eye(4) * 2)
    found = to_values(classes, [0, 2, 500])
    assert found.tolist() == [[0, 2, 500, 2]]
    assert found.affine[0, 0] == 2
    for same in (None, [0, 1, 2]):
        assert to_values(classes, same) is classes
    assert to_values(torch.tensor([1.0]), [0, 7]).tolist() == [7]


def test_names_by_value():
    labels = {"0": "background", "1": "edema", "2": "tumor"}
    assert named_values(labels, [0, 2, 4]) == {"0": "background", "2": "edema", "4": "tumor"}
    assert named_values(labels, None) == labels
    for wrong in ([0, 2], [0, 2, 2], [1, 2, 3]):
        with pytest.raises(
            UserError, match=rf"label_values: found {re.escape(str(wrong))}, expected .* the 3 labels, 0"
        ):
            named_values(labels, wrong)


def test_voxels_without_a_label():
    label = LabelValuesd("label", [0, 2], ignored=9)({"label": torch.tensor([[0, 9, 2, 9]])})["label"]
    assert label.tolist() == [[0, -1, 1, -1]]
    pred = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]])
    found = LeaveOutUnlabeledd("pred")({"label": label, "pred": pred})
    assert found["label"].tolist() == [[0, 0, 1, 0]]
    assert torch.equal(found["pred"], torch.tensor([[0.1, 1, 0.3, 1], [0.9, 0, 0.7, 0]]))
