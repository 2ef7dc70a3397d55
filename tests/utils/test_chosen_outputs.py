"""The choice of output files, as users write it."""

import pytest

from monai_pdddpm.transforms.save_maps import MAP_FILES
from monai_pdddpm.utils.chosen_outputs import DEFAULT_OUTPUTS, OUTPUTS, chosen_outputs
from monai_pdddpm.utils.errors import UserError


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ("seg", {"seg"}),
        ("prob, mutual_information", {"seg", "prob", "mutual-information"}),  # the label map is always written
        (("prob", "seg-nrrd"), {"seg", "prob", "seg-nrrd"}),
        (["default", "dicom-seg"], {*DEFAULT_OUTPUTS, "dicom-seg"}),
        ("default", set(DEFAULT_OUTPUTS)),
    ],
)
def test_forms(outputs, expected):
    assert chosen_outputs(outputs) == expected


@pytest.mark.parametrize("outputs", ["sge", ["seg", "sge"], 5, "", None, True])
def test_unknown_names_are_refused(outputs):
    with pytest.raises(UserError, match=r"outputs: found '.*', expected some of seg, prob, members"):
        chosen_outputs(outputs)


def test_every_map_can_be_chosen():
    assert {file.postfix for file in MAP_FILES.values()} <= set(OUTPUTS)
