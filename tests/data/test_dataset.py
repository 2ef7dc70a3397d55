"""A case that cannot be read becomes one line, and the cases after it are read."""

import logging
import pickle
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import decollate_batch
from monai.transforms import Compose, Invertd, Lambdad, Orientationd, Spacingd
from torch.utils.data import DataLoader

from monai_pdddpm.data.checks import CheckImaged
from monai_pdddpm.data.dataset import CaseDataset, case_collate
from monai_pdddpm.data.loading import LoadImageScand
from monai_pdddpm.utils.errors import UserError

VOXELS = np.random.default_rng(0).integers(0, 1000, (6, 7, 5)).astype(np.int16)
READ = [LoadImageScand("image", channels=None)]


def scale(image, power):
    return image**power


@pytest.fixture
def scan(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "good.nii.gz")
    return tmp_path / "good.nii.gz"


def test_item_has_the_image_and_its_seconds(scan):
    item = CaseDataset([{"image": str(scan)}], READ)[0]
    assert np.array_equal(item["image"].numpy()[0], VOXELS)
    assert list(item["seconds"]) == ["read and preprocess"]
    assert 0 < item["seconds"]["read and preprocess"] < 60


def test_user_error_of_a_nested_transform_is_reported_as_it_is(tmp_path):
    path = tmp_path / "flat.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    failure = CaseDataset([{"image": str(path)}], Compose([Compose([*READ, CheckImaged("image")])]))[0]["failure"]
    assert failure["error"].startswith(f"{path}: every voxel is 0")


def test_unexpected_error_is_named_by_its_root(scan, caplog):
    data = CaseDataset([{"image": str(scan)}], Compose([*READ, Compose([Lambdad("image", lambda image: 1 // 0)])]))
    with caplog.at_level(logging.DEBUG, "monai_pdddpm"):
        failure = data[0]["failure"]
    assert failure["error"].startswith("unexpected ZeroDivisionError: ")
    assert failure["error"].endswith(" by zero")  # the words between differ between versions of Python
    (record,) = (record for record in caplog.records if record.name.startswith("monai_pdddpm"))
    assert record.levelno == logging.DEBUG
    assert record.exc_info[0] is RuntimeError


@pytest.mark.parametrize("name", ["bad.mha", "bad.nrrd"])
def test_file_that_the_loader_refuses(tmp_path, name):
    (tmp_path / name).write_text("no scan\nat all\n")
    error = CaseDataset([{"image": str(tmp_path / name)}], READ)[0]["failure"]["error"]
    assert error.startswith(f"{tmp_path / name}: cannot be read as an image (")
    assert "\n" not in error


def test_transforms_of_a_worker_are_inverted_by_another_copy(scan):
    # spawn and forkserver give each worker a copy of the transforms
    steps = Compose([*READ, Orientationd("image", "LPS", labels=None), Spacingd("image", (2.0, 1.0, 1.0))])
    (item,) = decollate_batch(case_collate([pickle.loads(pickle.dumps(CaseDataset([{"image": str(scan)}], steps)))[0]]))
    assert item["image"].shape != (1, *VOXELS.shape)
    item["pred"] = item["image"].clone()
    inverted = Invertd("pred", steps, orig_keys="image", nearest_interp=False, to_tensor=True)(item)["pred"]
    assert inverted.shape == (1, *VOXELS.shape)


def test_interrupt_passes(scan):
    def interrupt(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CaseDataset([{"image": str(scan)}], interrupt)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_goes_on_after_a_bad_case(scan, tmp_path, workers):
    cases = [{"image": str(tmp_path / "gone.nii")}, {"image": str(scan), "label": "truth.nii"}]
    steps = [*READ, Lambdad("image", partial(scale, power=1))]
    data = CaseDataset(cases, steps)
    bad, good = DataLoader(data, batch_size=1, collate_fn=case_collate, num_workers=workers)
    assert set(bad) == {"failure"}
    assert bad["failure"]["case"] == "gone"
    gone = tmp_path / "gone.nii"
    assert bad["failure"]["error"] == f"{gone}: does not exist, expected a scan file; check dataset_dir"
    assert good["image"].shape == (1, 1, 6, 7, 5)
    assert torch.equal(good["image"].as_tensor()[0, 0], torch.tensor(VOXELS).float())
    assert good["label"] == ["truth.nii"]
    assert type(good["seconds"][0]["read and preprocess"]) is float


def test_more_than_one_case_is_refused():
    with pytest.raises(UserError, match="batch_size: found 2, expected 1"):
        case_collate([{"image": torch.zeros(1)}, {"image": torch.zeros(1)}])
