import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import LabelValuesd


def test_values_become_classes():
    label = MetaTensor(torch.tensor([[0.0, 2.0, 5.0, 2.0]]), affine=torch.eye(4) * 2)
    found = LabelValuesd("label", [0, 2, 5])({"label": label, "other": 1})
    assert found["label"].tolist() == [[0, 1, 2, 1]]
    assert found["label"].affine[0, 0] == 2  # keeps its place
    assert found["other"] == 1
