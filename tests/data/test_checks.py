"""Checks of intensities, loaded scans and label maps."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_pdddpm.data.checks import CheckImaged, CheckLabeld, check_voxels
from monai_pdddpm.utils.errors import UserError, user_message

VOXELS = np.random.default_rng(0).integers(0, 1000, (6, 7, 5)).astype(np.int16)


def save(path, array=VOXELS, affine=None, image_class=nib.Nifti1Image):
    nib.save(image_class(array, np.eye(4) if affine is None else affine), path)
    return path


def load(path, **options):
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), CheckImaged("image", **options)])(
        {"image": str(path)}
    )


class TestVoxels:
    @pytest.mark.parametrize(
        "array",
        [VOXELS, torch.tensor(VOXELS), VOXELS.astype(">f4"), MetaTensor(VOXELS), torch.tensor(VOXELS).bfloat16()],
    )
    def test_scan_passes(self, array):
        check_voxels(array, "a.nii")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_some_are_not_finite(self, bad):
        array = VOXELS.astype(np.float32)
        array[0, 0, :3] = bad
        with pytest.raises(UserError, match=r"a\.nii: 3 of 210 voxels are not finite"):
            check_voxels(torch.from_numpy(array), "a.nii")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((3, 3), np.nan), "none of its voxels is finite"),
            (np.full((3, 3), 7, np.uint8), "every voxel is 7"),
            (np.zeros((3, 3), np.float32), "every voxel is 0"),
            (np.zeros((3, 3), bool), "every voxel is 0"),
            (np.zeros((3, 0)), "found no voxels"),
        ],
    )
    def test_nothing_to_see(self, array, message):
        with pytest.raises(UserError, match=rf"a\.nii: {message}"):
            check_voxels(array, "a.nii")


class TestCheckImaged:
    @pytest.mark.parametrize(("shape", "channels"), [((6, 7, 5), 1), ((6, 7, 5, 2), 2), ((6, 7, 5, 2), None)])
    def test_scan_passes_unchanged(self, tmp_path, shape, channels):
        voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        item = load(save(tmp_path / "a.nii", voxels), channels=channels)
        expected = np.moveaxis(voxels.reshape(6, 7, 5, -1), -1, 0)
        assert np.array_equal(item["image"].numpy(), expected)

    @pytest.mark.parametrize(
        ("array", "options", "message"),
        [
            (VOXELS, {"channels": 2}, "1 channels and 3 spatial axes, expected 2 and 3"),
            (VOXELS, {"spatial_dims": 2}, "expected 1 and 2"),
            (VOXELS[..., 0], {"channels": None}, "expected any number of and 3"),
            (np.full((4, 4, 4), np.nan), {}, "none of its voxels"),
        ],
    )
    def test_refusal_names_the_file(self, tmp_path, array, options, message):
        path = save(tmp_path / "a.nii", array)
        with pytest.raises(RuntimeError) as caught:
            load(path, **options)
        assert str(path) in user_message(caught.value)
        assert message in user_message(caught.value)

    @pytest.mark.parametrize("frames", [1, 2, 30])
    def test_any_number_of_frames(self, frames):
        image = torch.arange(float(frames * 27)).reshape(frames, 3, 3, 3)
        assert CheckImaged("image", channels=1, fourth_dimension="time")({"image": image})["image"] is image
        with pytest.raises(UserError, match="frames and 4 spatial axes, expected any number of and 3"):
            CheckImaged("image", fourth_dimension="time")({"image": image[None]})

    def test_frames_of_several_channels_are_refused(self):
        with pytest.raises(UserError, match="fourth_dimension: found 'time' with 2 channels"):
            CheckImaged("image", channels=2, fourth_dimension="time")

    def test_tensor_without_a_file(self):
        with pytest.raises(UserError, match="the entry 'image': every voxel is 0"):
            CheckImaged("image")({"image": torch.zeros(1, 3, 3, 3)})


@pytest.mark.parametrize(("span", "fits"), [(1e-16, False), (1e-14, True), (1e14, True), (1e16, False)])
def test_span_that_float32_has_a_variance_for(span, fits):
    array = np.array([0.0, span])
    if fits:
        check_voxels(array, "a.nii")
    else:
        with pytest.raises(UserError, match="its voxels span"):
            check_voxels(array, "a.nii")


@pytest.mark.parametrize(("offset", "fits"), [(1e6, False), (1e4, True)])
def test_values_far_from_0_that_float32_does_not_resolve(offset, fits):
    array = np.float32(offset) + np.linspace(0, 1, 50, dtype=np.float32)
    if fits:
        check_voxels(array, "a.nii")
    else:
        with pytest.raises(UserError, match="lie between 1000000 and 1000001, where float32 resolves fewer than 100"):
            check_voxels(array, "a.nii")


class TestLabels:
    AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])

    def check(self, label, affine=AFFINE, values=(0, 1, 2)):
        image = MetaTensor(torch.zeros(1, 4, 5, 6), affine=self.AFFINE)
        label = MetaTensor(label, affine=affine, meta={"filename_or_obj": "label.nii"})
        return CheckLabeld("label", values)({"image": image, "label": label})

    def test_classes_pass(self):
        label = torch.arange(120).reshape(1, 4, 5, 6) % 3
        assert torch.equal(self.check(label)["label"], label)
        self.check(torch.zeros(2, 4, 5, 6))  # two empty annotations

    @pytest.mark.parametrize("value", [3, -1, 0.5, 0.998, np.nan])
    def test_value_that_is_no_class(self, value):
        label = torch.zeros(1, 4, 5, 6)
        label[0, 1, 2, 3] = value
        with pytest.raises(UserError, match=rf"label\.nii: found the label values {value:g}, expected .* 0 to 2"):
            self.check(label)

    def test_values_that_float32_left_beside_integers_are_rounded(self, caplog):
        label = torch.zeros(1, 4, 5, 6)
        label[0, 1, 2, :2] = torch.tensor([0.99999994, 2.0009])
        rounded = self.check(label)["label"]
        assert rounded[0, 1, 2, :2].tolist() == [1, 2]
        assert "label.nii: its label values are up to 0.0009 away from integers" in caplog.text

    def test_values_with_gaps(self):
        label = torch.tensor([0.0, 3, 7]).repeat(40).reshape(1, 4, 5, 6)
        assert torch.equal(self.check(label, values=(0, 3, 7))["label"], label)
        self.check(label.byte(), values=(0, 3, 7))
        label[0, 0, 0, :4] = torch.tensor([9.0, 2, -1, 2])
        with pytest.raises(UserError, match=r"found the label values -1, 2, 9, expected none but 0, 3, 7; fix"):
            self.check(label, values=(0, 3, 7))

    def test_other_size(self):
        with pytest.raises(UserError, match="labels of 4 x 6 x 5 voxels, expected the 4 x 5 x 6"):
            self.check(torch.zeros(1, 4, 6, 5))

    @pytest.mark.parametrize(("shift", "fits"), [(0.05, True), (1.0, False)])
    def test_other_place(self, shift, fits):
        affine = self.AFFINE.copy()
        affine[1, 3] += shift
        if fits:
            self.check(torch.zeros(1, 4, 5, 6), affine)
        else:
            with pytest.raises(UserError, match="labels 1 voxels away from their scan"):
                self.check(torch.zeros(1, 4, 5, 6), affine)
