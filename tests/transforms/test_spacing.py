"""``Spacingd`` does what MONAI's does, and does not stumble over entries named ``image_...``."""

import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged

from monai_pdddpm.transforms.spacing import Spacingd

AFFINE = np.array([[-2.0, 0, 0, 9], [0, 1, 0, -4], [0, 0, 3, 5], [0, 0, 0, 1]])


@pytest.fixture
def case(tmp_path):
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(12), np.arange(8), indexing="ij"))
    blob = np.exp(-((grid - np.array([6, 4, 5])[:, None, None, None]) ** 2).sum(0) / 8).astype(np.float32)
    nib.save(nib.Nifti1Image(blob, AFFINE), tmp_path / "a.nii.gz")
    return {"image": str(tmp_path / "a.nii.gz")}


def pipeline(spacing) -> Compose:
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), spacing("image", pixdim=(1.5, 1.5, 1.5))])


@pytest.mark.parametrize("entry", ["/somewhere/a.nii.gz", 3, None, ["x"], torch.zeros(2)])
def test_entries_beside_the_image_do_no_harm(case, entry):
    expected = pipeline(monai.transforms.Spacingd)(case)
    found = pipeline(Spacingd)({"image_path": entry, **case, 5: "number"})
    assert torch.equal(found["image"].as_tensor(), expected["image"].as_tensor())
    assert torch.equal(found["image"].affine, expected["image"].affine)
    assert found["image_path"] is entry
    assert list(found) == ["image_path", "image", 5]


def test_metadata_beside_the_image_are_still_updated(case):
    found = pipeline(Spacingd)({**case, "image_meta_dict": {"own": 1}})
    assert found["image_meta_dict"]["own"] == 1
    assert torch.equal(found["image_meta_dict"]["affine"], found["image"].affine)


def test_inverse(case):
    transform = pipeline(Spacingd)
    item = transform({**case, "image_path": case["image"]})
    assert item["image"].shape[1:] != (10, 12, 8)
    item["pred"] = item["image"].clone()
    back = Invertd("pred", transform, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (1, 10, 12, 8)
    assert np.allclose(back.affine, AFFINE)
    assert np.unravel_index(int(back.argmax()), (10, 12, 8)) == (6, 4, 5)


def test_lazy(case):
    now = pipeline(Spacingd)({**case, "image_path": "x"})
    steps = Compose(pipeline(Spacingd).transforms, lazy=True)
    later = steps({**case, "image_path": "x"})
    assert torch.allclose(later["image"].as_tensor(), now["image"].as_tensor(), atol=1e-4)


def test_monai_still_crashes(case):
    cause = None
    try:
        pipeline(monai.transforms.Spacingd)({**case, "image_path": "x"})
    except RuntimeError as error:
        cause = error.__cause__
    assert isinstance(cause, AttributeError), "MONAI's Spacingd no longer crashes on 'image_path': the subclass can go"
