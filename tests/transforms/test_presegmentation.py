"""Pre-segmentations from disk reach the image's grid, with its orientation and spacing."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Orientationd, SpatialPadd

from monai_pdddpm.data import LoadImageScand
from monai_pdddpm.transforms import LoadPresegmentationd, Spacingd
from monai_pdddpm.utils.errors import UserError

AFFINE = np.diag([-2.0, -1.0, 1.0, 1.0])  # left, posterior, superior
LABELS = {"0": "background", "3": "box"}


@pytest.fixture
def prepared(tmp_path):
    """Prepare a scan whose box is brighter, with a pre-segmentation of it; return image and pre-segmentation."""
    label = np.zeros((10, 12, 8), np.uint8)
    label[2:5, 3:10, 2:7] = 3
    nib.save(nib.Nifti1Image(label.astype(np.float32) + np.float32(1), AFFINE), tmp_path / "scan.nii.gz")
    (tmp_path / "pre").mkdir()

    def run(array=label, spacing=None, folder=tmp_path / "pre", more=()):
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "pre" / "scan.nii.gz")
        transforms = [LoadImageScand("image"), Orientationd("image", "RAS", labels=None)]
        transforms += [Spacingd("image", spacing, mode="bilinear")] if spacing else []
        transforms += [*more, LoadPresegmentationd(str(folder), LABELS)]
        return Compose(transforms)({"image": str(tmp_path / "scan.nii.gz")})

    run.label = label
    return run


def test_a_missing_folder_is_refused_before_a_scan_is_read(tmp_path):
    with pytest.raises(UserError, match=r"presegmentation_dir: found no folder .*nowhere, expected one"):
        LoadPresegmentationd(str(tmp_path / "nowhere"), LABELS)
    assert LoadPresegmentationd("", LABELS).folders == []


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)])
def test_label_map_lies_on_the_prepared_image(prepared, spacing):
    found = prepared(spacing=spacing)
    inside = found["presegmentation"].argmax(dim=0).numpy() == 1
    bright = found["image"][0].numpy() > 2.5
    assert found["presegmentation"].shape == (2, *found["image"].shape[1:])
    assert inside.any()
    assert (inside == bright).mean() > 0.98  # of interpolated voxels at the border, some differ
    if spacing is None:
        assert (inside == bright).all()
    assert torch.allclose(found["presegmentation"].sum(dim=0), torch.ones(1))
    assert found["image"].meta["presegmentation_file"].endswith("scan.nii.gz")


def test_probabilities_stay_as_they_are(prepared):
    p = np.random.default_rng(0).uniform(size=(10, 12, 8)).astype(np.float32)
    found = prepared(np.stack([1 - p, p], axis=-1))["presegmentation"]
    assert np.allclose(found[1].numpy(), p[::-1, ::-1], atol=1e-5)


def test_a_padded_image_has_the_presegmentation_of_its_border_beyond(prepared):
    p = np.random.default_rng(0).uniform(size=(10, 12, 8)).astype(np.float32)
    pad = SpatialPadd("image", (14, 12, 8), method="end")
    found = prepared(np.stack([1 - p, p], axis=-1), more=[pad])["presegmentation"]
    assert found.shape == (2, 14, 12, 8)
    assert np.allclose(found[1, 9:].numpy(), p[0, ::-1], atol=1e-5)


def test_without_a_folder_nothing_is_added(prepared):
    assert set(prepared(folder="")) == {"image"}


def test_scan_without_a_presegmentation(prepared, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(RuntimeError, match="applying transform") as caught:  # Compose wraps the error
        prepared(folder=tmp_path / "other")
    assert isinstance(caught.value.__cause__, UserError)
