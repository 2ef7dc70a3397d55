import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import LabelValuesd
from monai_pdddpm.utils.errors import UserError


def test_values_become_classes():
    label = MetaTensor(torch.tensor([[0.0, 2.0, 5.0, 2.0]]), affine=torch.eye(4) * 2)
    found = LabelValuesd("label", [0, 2, 5])({"label": label, "other": 1})
    assert found["label"].tolist() == [[0, 1, 2, 1]]
    assert found["label"].affine[0, 0] == 2  # keeps its place
    assert found["other"] == 1


@pytest.mark.parametrize("value", [1, 0.5, -1, float("nan")])
def test_other_values_are_refused(value):
    label = MetaTensor(torch.tensor([[0, 2, value]]), meta={"filename_or_obj": "scan.nii.gz"})
    with pytest.raises(UserError, match=r"scan\.nii\.gz: found the label values .* expected none but 0, 2, 5"):
        LabelValuesd("label", [0, 2, 5])({"label": label})
