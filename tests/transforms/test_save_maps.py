"""Files of maps, read back by nibabel."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import SaveImageMapsd

AFFINE = torch.diag(torch.tensor([0.5, 2.0, 5.0, 1.0], dtype=torch.float64))


def test_label_maps_hold_the_values_of_the_labels_and_probabilities_stay(tmp_path):
    seg = torch.arange(3)[None, :, None, None]
    prob = torch.arange(9.0).view(3, 3, 1, 1) / 9
    item = {"image": MetaTensor(seg.float(), affine=AFFINE, meta={"filename_or_obj": "a.nii"})}
    item |= {key: MetaTensor(value, affine=AFFINE) for key, value in (("seg", seg), ("prob", prob), ("members", seg))}
    labels = {"0": "background", "1": "head", "2": "tail"}
    SaveImageMapsd(tmp_path, labels, label_values=[0, 2, 7], outputs="seg,prob,members")(item)
    for name in ("seg", "members"):
        (note,) = nib.load(tmp_path / "a" / f"a_{name}.nii.gz").header.extensions
        assert json.loads(note.get_content()) == {"labels": {"0": "background", "2": "head", "7": "tail"}}
        assert nib.load(tmp_path / "a" / f"a_{name}.nii.gz").get_fdata().ravel().tolist() == [0, 2, 7]
    found = nib.load(tmp_path / "a" / "a_prob.nii.gz")
    assert np.abs(found.get_fdata()[:, 0, 0].T - prob[:, :, 0, 0].numpy()).max() < 1e-4
    assert np.array_equal(found.affine, AFFINE)
    assert found.dataobj.slope == pytest.approx(1 / 32767)  # a signed integer holds the highest value


def test_the_frames_of_a_series_have_the_place_of_their_scan(tmp_path):
    source = nib.Nifti1Image(np.zeros((3, 2, 2, 4), np.float32), AFFINE.numpy())
    source.set_qform(AFFINE.numpy(), code=3)
    nib.save(source, tmp_path / "a.nii")
    meta = {"filename_or_obj": str(tmp_path / "a.nii"), "affine": AFFINE}
    item = {key: MetaTensor(torch.zeros(1, 3, 2, 2, 4, dtype=torch.uint8), meta=meta) for key in ("image", "seg")}
    SaveImageMapsd(tmp_path, {"0": "background", "1": "head"}, outputs="seg")(item)
    found = nib.load(tmp_path / "a" / "a_seg.nii.gz")
    assert found.shape == source.shape
    assert found.header["qform_code"] == 3


def test_maps_use_all_bits_and_folders_may_exist(tmp_path):
    flat = MetaTensor(torch.zeros(1, 2, 2, 2), affine=AFFINE, meta={"filename_or_obj": "a.nii"})
    save = SaveImageMapsd(tmp_path / "new" / "folder", {"0": "background", "1": "head"}, outputs="variance,entropy,seg")
    for _ in range(2):
        save({"image": flat, "variance": flat, "entropy": flat})
    folder = tmp_path / "new" / "folder" / "a"
    assert nib.load(folder / "a_variance.nii.gz").dataobj.slope == pytest.approx(0.25 / 32767)
    assert nib.load(folder / "a_entropy.nii.gz").dataobj.slope == pytest.approx(np.log(2) / 32767)
    assert not (folder / "a_seg.nii.gz").exists()  # the case has none
