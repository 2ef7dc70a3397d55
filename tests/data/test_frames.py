"""Frames of a time series are cases of their own."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.data import OneFramed, ScanSpec, frame_cases
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.utils.errors import UserError

SERIES = ScanSpec(fourth_dimension="time")


@pytest.fixture
def case(tmp_path):
    def make(frames, labeled=None):
        for name, count in (("image", frames), ("label", labeled or frames)):
            array = np.zeros((3, 4, 5, count) if count > 1 else (3, 4, 5), np.uint8)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
        return {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}

    return make


def test_each_frame_is_listed(case):
    listed = case(3) | {"fold": 1}
    assert frame_cases([listed], SERIES) == [listed | {"frame": frame} for frame in range(3)]
    assert frame_cases([listed], ScanSpec()) == [listed]
    single = case(1)
    assert frame_cases([single], SERIES) == [single]


def test_other_number_of_frames(case):
    with pytest.raises(UserError, match=r"label\.nii\.gz: found 2 frames, expected the 3 of .*image\.nii\.gz"):
        frame_cases([case(3, 2)], SERIES)


def test_one_frame_is_kept():
    volumes = torch.arange(3.0)[:, None, None, None].expand(3, 2, 2, 2)
    image = MetaTensor(volumes, meta={"case": Case("heart 7", ("heart 7.nii.gz",))})
    found = OneFramed()({"image": image, "label": MetaTensor(volumes), "frame": 2})
    assert found["image"].shape == (1, 2, 2, 2)
    assert (found["image"] == 2).all()
    assert (found["label"] == 2).all()
    assert found["image"].meta["case"].name == "heart 7 frame 2"
    assert subject_of("heart 7 frame 2") == "heart 7"
    assert OneFramed()({"image": image})["image"] is image
