"""The choice of output files, as users write it."""

from pathlib import Path

import pytest

from monai_pdddpm.transforms.save_maps import MAP_FILES
from monai_pdddpm.utils.chosen_outputs import DEFAULT_OUTPUTS, OUTPUTS, chosen_outputs, is_case_file
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(f"a.b_{file.postfix}.nii.gz", True) for file in MAP_FILES.values()],
        *[(f"a.b_{end}", True) for end in ("report.json", "overview.png", "viewer.html", "scene.mrml", "slices.csv")],
        *[(f"a.b_seg{end}", True) for end in (".ctbl", "_itksnap.txt", ".dcm", ".seg.nrrd", "_frame-12.seg.nrrd")],
        *[(name, False) for name in ("a.b_seg.nii", "a.b_seg_mine.nii.gz", "aab_seg.nii.gz", "a_seg.nii.gz", "a.b")],
        *[(name, False) for name in ("seg.nii.gz", "xa.b_seg.nii.gz", "a.b_seg_frame-.seg.nrrd", "a.b_seg.nii.gz~")],
    ],
)
def test_files_of_a_case_are_known_by_their_names(name, expected):
    assert is_case_file(Path("out", "a.b", name)) == expected
    assert not is_case_file(Path("out", "other", name))
