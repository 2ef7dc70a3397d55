"""What cannot work is refused with the file, what was found and what was expected; what can work passes."""

import gzip
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_pdddpm.data.checks import CheckImaged, check_file, check_output_dir, check_range, check_scan, check_voxels
from monai_pdddpm.errors import UserError, user_message

VOXELS = np.random.default_rng(0).integers(0, 1000, (6, 7, 5)).astype(np.int16)


def save(path, array=VOXELS, affine=None, image_class=nib.Nifti1Image):
    nib.save(image_class(array, np.eye(4) if affine is None else affine), path)
    return path


def load(path, **options):
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), CheckImaged("image", **options)])(
        {"image": str(path)}
    )


def refused(path, *words, **options):
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        check_scan(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


class TestScan:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII"])
    @pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
    def test_scan_passes(self, tmp_path, name, image_class):
        check_scan(save(tmp_path / name, image_class=image_class))

    def test_big_endian_and_slope_pass(self, tmp_path):
        image = nib.Nifti1Image(VOXELS, np.eye(4), nib.Nifti1Header(endianness=">"))
        image.header.set_slope_inter(0.5, 3)
        nib.save(image, tmp_path / "a.nii.gz")
        check_scan(tmp_path / "a.nii.gz")

    @pytest.mark.parametrize(
        ("shape", "channels", "fits"),
        [
            ((6, 7, 5), 1, True),
            ((6, 7, 5, 1), 1, True),
            ((6, 7, 5, 1, 1), 1, False),
            ((6, 7, 1), 1, True),
            ((6, 7, 5, 4), 4, True),
            ((6, 7, 5, 4, 1), 4, False),
            ((6, 7, 5, 1, 4), 4, False),
            ((6, 7, 5, 9), None, True),
            ((6, 7, 5), None, True),
            ((6, 7, 5, 4), 1, False),
            ((6, 7, 5), 4, False),
            ((6, 7, 5, 3), 4, False),
            ((6, 7), 1, False),
            ((6, 7, 5, 2, 2), 2, False),
            ((6, 7, 5, 2, 2), None, False),
            ((6, 0, 5), 1, False),
        ],
    )
    def test_axes(self, tmp_path, shape, channels, fits):
        path = save(tmp_path / "a.nii", np.arange(np.prod(shape)).reshape(shape).astype(np.float32))
        if fits:
            check_scan(path, 3, channels)
            load(path, channels=channels)  # what is let in can be loaded
        else:
            with pytest.raises(RuntimeError):
                load(path, channels=channels)
            refused(path, "found shape " + " x ".join(map(str, shape)), "expected 3 spatial axes", channels=channels)

    def test_two_dimensions(self, tmp_path):
        path = save(tmp_path / "a.nii", VOXELS[..., 0])
        check_scan(path, spatial_dims=2)
        assert load(path, spatial_dims=2)["image"].shape == (1, 6, 7)
        refused(path, "6 x 7", "3 spatial axes and 1 volume")
        refused(save(tmp_path / "b.nii", VOXELS[..., :1]), "6 x 7 x 1", "2 spatial axes", spatial_dims=2)

    def test_volumes_are_named(self, tmp_path):
        refused(save(tmp_path / "a.nii"), "6 x 7 x 5", "3 spatial axes and 4 volumes", channels=4)

    def test_missing_folder_empty(self, tmp_path):
        refused(tmp_path / "a.nii", "does not exist")
        (tmp_path / "b.nii").mkdir()
        refused(tmp_path / "b.nii", "is a folder")
        for name in ("c.nii", "c.nii.gz", "c.mha"):
            (tmp_path / name).touch()
            refused(tmp_path / name, "empty file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
    def test_unreadable(self, tmp_path):
        save(tmp_path / "a.nii").chmod(0)
        refused(tmp_path / "a.nii", "permission denied")

    def test_text(self, tmp_path):
        (tmp_path / "a.nii").write_text("no scan at all\n" * 100)
        refused(tmp_path / "a.nii", "not a readable NIfTI image")
        with gzip.open(tmp_path / "b.nii.gz", "wt") as file:
            file.write("no scan at all\n" * 100)
        refused(tmp_path / "b.nii.gz", "not a readable NIfTI image")

    def test_names_that_lie(self, tmp_path):
        save(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
        refused(tmp_path / "a.nii.gz", "not compressed", "name it .nii")
        save(tmp_path / "b.nii.gz").rename(tmp_path / "b.nii")
        refused(tmp_path / "b.nii", "compressed", "name it .nii.gz")

    def test_cifti(self, tmp_path):
        axes = (nib.cifti2.ScalarAxis(["a"]), nib.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3)), affine=np.eye(4)))
        nib.save(nib.Cifti2Image(np.zeros((1, 27)), axes), tmp_path / "a.dscalar.nii")
        refused(tmp_path / "a.dscalar.nii", "Cifti2Image", "NIfTI image")

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("left", [0.3, 0.7, 0.999])
    def test_cut_short(self, tmp_path, name, left):
        path = save(tmp_path / name)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * left)])
        refused(path)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_cut_short_is_said(self, tmp_path, name):
        path = save(tmp_path / name, np.random.default_rng(0).integers(0, 1000, (40, 40, 40)).astype(np.int16))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(path, "cut short", "expected 128352")

    def test_whole_header_without_voxels_in_a_sound_gzip(self, tmp_path):
        content = save(tmp_path / "a.nii").read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:400]))
        refused(tmp_path / "b.nii.gz", "cut short", "found 400 bytes")

    def test_gzip_in_several_parts_passes(self, tmp_path):
        content = save(tmp_path / "a.nii").read_bytes()
        parts = gzip.compress(content[:500]) + gzip.compress(content[500:])
        (tmp_path / "b.nii.gz").write_bytes(parts)
        check_scan(tmp_path / "b.nii.gz")
        assert np.array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), VOXELS)

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_affine_of_no_use(self, tmp_path, value):
        image = nib.Nifti1Image(VOXELS, np.eye(4))
        image.header["srow_x"] = value
        with (tmp_path / "a.nii").open("wb") as file:
            nib.Nifti1Image(VOXELS, None, image.header).to_stream(file)
        refused(tmp_path / "a.nii", "affine cannot be inverted")

    @pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
    def test_voxels_of_no_use(self, tmp_path, dtype):
        refused(save(tmp_path / "a.nii", np.zeros((3, 3, 3), dtype)), "voxels of type")

    def test_other_formats_are_left_to_the_loader(self, tmp_path):
        (tmp_path / "a.mha").write_bytes(b"anything")
        check_scan(tmp_path / "a.mha")


class TestVoxels:
    @pytest.mark.parametrize("array", [VOXELS, torch.tensor(VOXELS), VOXELS.astype(">f4"), MetaTensor(VOXELS)])
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

    def test_tensor_without_a_file(self):
        with pytest.raises(UserError, match="the entry 'image': every voxel is 0"):
            CheckImaged("image")({"image": torch.zeros(1, 3, 3, 3)})


class TestOutputDir:
    def test_trial_leaves_nothing(self, tmp_path):
        check_output_dir(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    def test_content_stays(self, tmp_path):
        (tmp_path / "a").touch()
        check_output_dir(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_file_in_the_way(self, tmp_path):
        (tmp_path / "a").touch()
        for path in (tmp_path / "a", tmp_path / "a" / "b"):
            with pytest.raises(UserError, match=r"cannot be written to.*set output_dir"):
                check_output_dir(path)

    def test_nothing_stays_when_writing_fails(self, tmp_path, monkeypatch):
        def full(self, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            check_output_dir(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []


def test_file(tmp_path):
    (tmp_path / "model.pt").touch()
    check_file(tmp_path / "model.pt", "checkpoint", "train first")
    with pytest.raises(UserError, match=r"no\.pt: does not exist, expected a checkpoint file; train first"):
        check_file(tmp_path / "no.pt", "checkpoint", "train first")
    with pytest.raises(UserError, match="is a folder"):
        check_file(tmp_path, "checkpoint", "train first")


@pytest.mark.parametrize("value", [1, 10, np.int64(5)])
def test_range_holds(value):
    check_range("members", value, 1, 10)


@pytest.mark.parametrize("value", [0, 11, -1, 5.0, "5", None, True, np.bool_(True), [5]])
def test_range_is_enforced(value):
    with pytest.raises(UserError, match=r"members: found .*, expected a whole number from 1 to 10; set members"):
        check_range("members", value, 1, 10)


def test_range_without_an_end():
    check_range("seed", 10**30, 0)
    with pytest.raises(UserError, match="of at least 0"):
        check_range("seed", -1, 0)
