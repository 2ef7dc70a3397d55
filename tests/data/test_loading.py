"""Scans are loaded as by MONAI where MONAI is right, return to their own grid, and carry notes."""

import gzip
import itertools
import logging

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImage, LoadImaged, Orientationd
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.checks import CheckImaged
from monai_pdddpm.data.dataset import case_collate
from monai_pdddpm.data.loading import LoadImageScand, LoadScan
from monai_pdddpm.transforms.save_maps import SaveImageMapsd
from monai_pdddpm.transforms.spacing import Spacingd
from monai_pdddpm.utils.errors import UserError, user_message

SHAPE = (9, 8, 7)
VOXELS = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.float32)
MONAI = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)
]
ADDED = {"case"}


def grid(codes="RAS", spacing=(1.0, 1.0, 1.0), degrees=0.0, shape=SHAPE):
    """Affine of a grid with axes along ``codes``, turned about an oblique axis."""
    flip = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(codes))
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    affine[:3, :3] = turn @ inv_ornt_aff(flip, shape)[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 17.25, 240.0)
    return affine


def save(path, array=VOXELS, affine=None, header=None, image_class=nib.Nifti1Image):
    nib.save(image_class(array, grid() if affine is None else affine, header), path)
    return str(path)


def notes(image):
    return list(image.meta["case"].notes)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("monai_pdddpm")]


def preprocessing(pixdim=(1.0, 1.0, 1.0), **options):
    """Steps of inference.json up to the intensities."""
    return Compose(
        [
            LoadImageScand("image", **options),
            CheckImaged("image", channels=None),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", pixdim=pixdim, mode="bilinear"),
        ]
    )


def there_and_back(path, **options):
    """Return the preprocessed item, batched and taken out again, and a network's answer that is its input, inverted."""
    read = preprocessing(**options)
    (item,) = decollate_batch(case_collate([read({"image": path})]))
    item["pred"] = item["image"].clone()
    return item, Invertd("pred", read, orig_keys="image", nearest_interp=False, to_tensor=True)(item)["pred"]


class TestAsMonai:
    @pytest.mark.parametrize(
        ("shape", "options"),
        [
            (SHAPE, {}),
            ((9, 8, 1), {}),
            ((*SHAPE, 1), {}),
            ((*SHAPE, 4), {"channels": 4}),
            ((*SHAPE, 4), {"channels": None}),
            ((*SHAPE, 4), {"fourth_dimension": "time"}),
        ],
    )
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_nifti(self, tmp_path, shape, options, name):
        path = save(tmp_path / name, np.random.default_rng(1).random(shape, np.float32), grid("LPI", (1, 1.5, 2), 20))
        found, expected = LoadImageScand("image", **options)({"image": path})["image"], MONAI({"image": path})["image"]
        assert isinstance(found, MetaTensor)
        assert found.dtype == torch.float32
        assert torch.equal(found.as_tensor(), expected.as_tensor())
        assert torch.equal(found.affine, expected.affine)
        assert set(found.meta) - ADDED == set(expected.meta)
        assert found.meta["original_channel_dim"] == 0  # MONAI keeps where the file has them
        for key in set(expected.meta) - {"affine", "original_channel_dim"}:
            one, two = np.asarray(found.meta[key]), np.asarray(expected.meta[key])
            if "pixdim" in key:
                one, two = one[:4], two[:4]  # MONAI overwrites the time step
            np.testing.assert_array_equal(one, two, err_msg=key)
        assert notes(found) == []
        assert found.meta["case"] == Case("a", (path,))

    @pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_other_formats(self, tmp_path, name, channels):
        array = np.random.default_rng(1).random((*SHAPE[::-1], channels), np.float32)
        itk.imwrite(itk.image_from_array(array, is_vector=True), str(tmp_path / name))
        image = LoadScan(channels=channels)(tmp_path / name)
        assert np.array_equal(image.numpy(), array.T)
        theirs = LoadImage(reader="ITKReader", image_only=True, ensure_channel_first=True)(tmp_path / name)
        assert torch.equal(image.as_tensor(), theirs.as_tensor())

    @pytest.mark.parametrize("shape", [(*SHAPE, 1, 1), (*SHAPE, 1, 3), (*SHAPE, 3, 1), (9, 8, 1, 3, 1)])
    def test_axes_of_length_one(self, tmp_path, shape):
        array = np.random.default_rng(1).random(shape, np.float32)
        image = LoadScan(channels=None)(save(tmp_path / "a.nii", array))
        assert np.array_equal(image.numpy(), np.moveaxis(array.reshape(*shape[:3], -1), -1, 0))
        assert np.array_equal(image.affine, grid())

    def test_metadata_beside_the_image_for_monai_label(self, tmp_path):
        load = LoadImageScand("image")
        assert isinstance(load, LoadImaged)
        load._loader.image_only = False  # what MONAI Label does with each LoadImaged
        item = load({"image": save(tmp_path / "a.nii"), "image_path": "a.nii"})
        assert item["image"].shape == (1, *SHAPE)
        assert item["image_meta_dict"]["filename_or_obj"] == str(tmp_path / "a.nii")

    def test_metadata_survive_a_batch(self, tmp_path):
        item = LoadImageScand("image", channels=2, missing="zero")(
            {"image": [save(tmp_path / "ä.nii"), None], "subject": "Ann"}
        )
        (back,) = decollate_batch(case_collate([item]))
        assert notes(back["image"]) == notes(item["image"]) != []
        assert back["image"].meta["case"].files == (str(tmp_path / "ä.nii"), None)
        assert (back["image"].meta["case"].subject, "subject" in back) == ("Ann", False)


class TestOddNifti:
    def test_big_endian_slope_and_intercept(self, tmp_path):
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(">i2")
        image = nib.Nifti1Image(VOXELS, grid("LAS"), header)
        image.header.set_slope_inter(0.5, 3)
        nib.save(image, tmp_path / "a.nii")
        raw = (tmp_path / "a.nii").read_bytes()
        assert raw[:4] == (348).to_bytes(4, "big")
        assert raw[352:354] == int(VOXELS[0, 0, 0]).to_bytes(2, "big")
        assert np.array_equal(LoadScan()(tmp_path / "a.nii").numpy()[0], 0.5 * VOXELS + 3)

    def test_nifti_2(self, tmp_path):
        path = save(tmp_path / "a.nii", image_class=nib.Nifti2Image)
        assert np.array_equal(LoadScan()(path).numpy()[0], VOXELS)

    def test_not_a_number(self, tmp_path):
        path = save(tmp_path / "a.nii", np.where(VOXELS > 500, np.nan, VOXELS))
        with pytest.raises(RuntimeError) as caught:
            preprocessing()({"image": path})
        assert f"{path}: {(VOXELS > 500).sum()} of {VOXELS.size} voxels are not finite" in user_message(caught.value)

    @pytest.mark.parametrize("codes", [(1, 1), (2, 4)])
    def test_sform_counts_before_qform(self, tmp_path, codes, caplog):
        image = nib.Nifti1Image(VOXELS, grid("LAS", degrees=20))
        image.header.set_sform(grid("LAS", degrees=20), codes[0])
        image.header.set_qform(grid("RAS", degrees=-5), codes[1])
        nib.save(image, tmp_path / "a.nii")
        with caplog.at_level(logging.WARNING, "monai_pdddpm"):
            found = LoadImageScand("image")({"image": tmp_path / "a.nii"})["image"]
        assert np.allclose(found.affine, grid("LAS", degrees=20), atol=1e-5)
        assert notes(found) == ["its sform and qform place it differently: the sform was used"]
        assert warnings(caplog) == [f"{tmp_path / 'a.nii'}: {notes(found)[0]}"]

    def test_sform_counts_where_monai_takes_an_empty_qform(self, tmp_path):
        image = nib.Nifti1Image(VOXELS, grid("LAS", (2, 2, 2)))
        image.header["qform_code"] = 0
        image.header["pixdim"][1:4] = 2.001
        nib.save(image, tmp_path / "a.nii")
        assert image.header["sform_code"] > 0
        found = LoadScan()(tmp_path / "a.nii")
        assert np.array_equal(found.affine, grid("LAS", (2, 2, 2)))
        assert np.array_equal(found.meta["original_affine"], found.affine)
        assert not np.allclose(MONAI({"image": tmp_path / "a.nii"})["image"].affine, found.affine)

    def test_damage_inside_a_gzip_names_its_file(self, tmp_path):
        good = save(tmp_path / "good.nii.gz", np.random.default_rng(0).random((20, 20, 20), np.float32))
        content = bytearray((tmp_path / "good.nii.gz").read_bytes())
        content[2000:3000] = bytes(1000)
        (tmp_path / "bad.nii.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.nii\.gz: cannot be read as an image \("):
            LoadScan(channels=2)([good, tmp_path / "bad.nii.gz"])


class TestDamage:
    @pytest.fixture(params=["a.nii", "a.nii.gz"])
    def content(self, tmp_path, request):
        path = tmp_path / request.param
        save(path, np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16))
        return path, path.read_bytes()

    @pytest.mark.parametrize("left", [0.3, 0.7, 0.999])
    def test_cut_short(self, content, left):
        path, whole = content
        path.write_bytes(whole[: int(len(whole) * left)])
        with pytest.raises(UserError, match=rf"{path.name}: (cut short, found|cannot be read as an image \()"):
            LoadScan()(path)

    def test_whole_header_without_voxels_in_a_sound_gzip(self, tmp_path):
        save(tmp_path / "a.nii")
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:400]))
        with pytest.raises(UserError, match=r"b\.nii\.gz: cut short, found 400 bytes of data, expected"):
            LoadScan()(tmp_path / "b.nii.gz")

    def test_gzip_in_several_members(self, tmp_path):
        save(tmp_path / "a.nii")
        content = (tmp_path / "a.nii").read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
        assert np.array_equal(LoadScan()(tmp_path / "b.nii.gz").numpy()[0], VOXELS)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize(("more", "fits"), [(10, True), (8 * 7 * 4, False)])
    def test_more_than_the_header_describes(self, tmp_path, name, more, fits):
        save(tmp_path / "whole.nii")
        content = (tmp_path / "whole.nii").read_bytes() + bytes(more)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        if fits:
            assert notes(LoadScan()(tmp_path / name)) == ["10 bytes more than its header describes were ignored"]
        else:
            with pytest.raises(UserError, match="at least a slice of data more than its header describes"):
                LoadScan()(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.mha", "a.nrrd"])
    def test_missing_or_short_voxels_of_other_formats(self, tmp_path, name):
        itk.imwrite(itk.image_from_array(VOXELS), str(tmp_path / name))
        data = next((path for path in tmp_path.iterdir() if path.name != name), tmp_path / name)
        data.write_bytes(data.read_bytes()[:-500])
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image \("):
            LoadScan()(tmp_path / name)
        data.unlink()
        with pytest.raises(UserError, match=rf"{name}: (cannot be read as an image|does not exist)"):
            LoadScan()(tmp_path / name)


class TestList:
    def test_one_file_a_channel(self, tmp_path):
        arrays = [VOXELS, VOXELS[::-1].copy(), VOXELS**2]
        files = [save(tmp_path / f"{i}.nii", array, grid("LPS")) for i, array in enumerate(arrays)]
        image = LoadScan(channels=3)(files)
        assert np.array_equal(image.numpy(), np.stack(arrays))
        assert np.array_equal(image.affine, grid("LPS"))
        assert image.meta["filename_or_obj"] == files[0]
        assert image.meta["case"].files == tuple(files)
        assert notes(image) == []

    def test_missing_channel_is_zero(self, tmp_path, caplog):
        files = ["", save(tmp_path / "t1.nii", affine=grid("LAS")), str(tmp_path / "gone.nii")]
        with caplog.at_level(logging.WARNING, "monai_pdddpm"):
            image = LoadImageScand("image", channels=3, missing="zero", channel_names={"0": "FLAIR"})({"image": files})[
                "image"
            ]
        assert image.shape == (3, *SHAPE)
        assert not image[0].any()
        assert np.array_equal(image.numpy()[1], VOXELS)
        assert not image[2].any()
        assert np.array_equal(image.affine, grid("LAS"))
        assert image.meta["filename_or_obj"] == files[1]
        assert notes(image) == [
            "channel 0 (FLAIR) is missing: zeros in its place",
            "channel 2 is missing: zeros in its place",
        ]
        assert len(warnings(caplog)) == 2

    def test_other_grid_is_resampled(self, tmp_path):
        # a linear ramp in mm survives trilinear interpolation
        def ramp(affine, shape):
            index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)])
            return np.tensordot((affine @ index.reshape(4, -1))[:3].T @ (1.0, 2.0, 3.0), 1, axes=0).reshape(shape)

        first, other = grid("LPS", (1, 1, 1.5)), grid("RAI", (0.5, 0.75, 1), 10)
        other[:3, 3] = (first @ (8, 7, 0, 1))[:3] + np.array((-10, -11, 14))
        shape = (40, 36, 30)
        files = [
            save(tmp_path / "a.nii", ramp(first, SHAPE).astype(np.float32), first),
            save(tmp_path / "b.nii", ramp(other, shape).astype(np.float32), other),
        ]
        image = LoadScan(channels=2)(files)
        (note,) = notes(image)
        assert note.startswith("channel 1 lies on another grid: resampled to that of channel 0")
        index = np.stack([*np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), np.ones(SHAPE)]).reshape(4, -1)
        inside = np.linalg.solve(other, first @ index)[:3]
        inside = ((inside >= 0) & (inside <= np.array(shape)[:, None] - 1)).all(axis=0).reshape(SHAPE)
        assert inside.mean() > 0.3
        assert np.allclose(image.numpy()[1][inside], image.numpy()[0][inside], atol=0.01)
        assert np.array_equal(image.affine, first)

    def test_written_as_the_first_file(self, tmp_path):
        files = [save(tmp_path / f"{name}.nii.gz", affine=grid("LPS", degrees=9)) for name in ("flair", "t1")]
        item, pred = there_and_back(files, channels=2)
        SaveImageMapsd(tmp_path, {"0": "background"}, outputs="prob")({"image": item["image"], "prob": pred / 1000})
        written = nib.load(tmp_path / "flair" / "flair_prob.nii.gz")
        assert written.shape == (*SHAPE, 2)
        assert np.array_equal(written.affine, nib.load(files[0]).affine)


class TestThereAndBack:
    def test_all_orientations_are_there(self):
        assert len(set(ORIENTATIONS)) == 48

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_at_its_own_voxel_size_nothing_changes(self, tmp_path, codes):
        path = save(tmp_path / "a.nii", affine=grid(codes))
        item, pred = there_and_back(path)
        canonical = nib.as_closest_canonical(nib.load(path))
        assert np.array_equal(item["image"].numpy()[0], canonical.get_fdata())
        assert np.allclose(item["image"].affine, canonical.affine)
        assert np.array_equal(pred.numpy()[0], VOXELS)
        assert np.allclose(pred.affine, grid(codes), atol=1e-6)

    def test_frames(self, tmp_path):
        series = np.random.default_rng(1).random((*SHAPE, 5), np.float32)
        item, pred = there_and_back(save(tmp_path / "a.nii", series, grid("PIR")), fourth_dimension="time")
        assert item["image"].shape[0] == 5
        assert np.array_equal(pred.numpy(), np.moveaxis(series, -1, 0))
