"""Results lie on the grid of their source, field by field, and appear only when they are complete."""

import gzip
import json
import math
import os

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImage, LoadImaged, Orientationd
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from monai_pdddpm import __version__
from monai_pdddpm.data import writer
from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.dataset import case_collate
from monai_pdddpm.data.writer import find_grid, write_nifti
from monai_pdddpm.transforms.spacing import Spacingd
from monai_pdddpm.utils.errors import UserError

SHAPE = (14, 11, 9)
MARK = (9, 3, 6)
PLACE = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
FORMS = ((1, 1), (0, 1), (2, 0), (2, 1), (4, 4), (0, 0))  # codes of sform and qform


def grid(codes="RAS", spacing=(1.0, 1.5, 2.5), degrees=0.0) -> np.ndarray:
    """Affine of a grid whose axes run as ``codes`` says, turned about an oblique axis."""
    flip = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(codes))
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    affine[:3, :3] = turn @ inv_ornt_aff(flip, SHAPE)[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 17.25, 240.0)
    return affine


def blob(shape=SHAPE) -> np.ndarray:
    """Float image that is 100 at `MARK` and falls off around it, the faster the higher the fourth index."""
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    squared = sum((axis - mark) ** 2 for axis, mark in zip(axes, MARK, strict=False))
    return (100 * np.exp(-squared / (12.0 if len(shape) == 3 else 12.0 + axes[3]))).astype(np.float32)


def source(path, array=None, sform=None, qform=None, codes=(1, 1), endianness="<", units=("mm", "sec"), cls=None):
    cls = cls or nib.Nifti1Image
    header = cls.header_class(endianness=endianness)
    header.set_data_dtype(np.dtype("f4").newbyteorder(endianness))
    array = blob() if array is None else array
    header.set_data_shape(array.shape)
    sform = grid() if sform is None else sform
    header.set_qform(sform if qform is None else qform, codes[1])
    header.set_sform(sform, codes[0])
    header.set_xyzt_units(*units)
    if array.ndim == 4:
        header["pixdim"][4] = 2.2
    nib.save(cls(array, None, header), path)
    return path


def save(out, image, labels=None):
    """Write a map beside its scan's name, as the bundles do."""
    out.mkdir(exist_ok=True)
    path = out / f"{case_of(image.meta).name}_x.nii.gz"
    write_nifti(path, image, find_grid(image.meta, tuple(image.shape[1:4])), labels)
    return path


def through_the_pipeline(path, out, predict=lambda image: image):
    """Read, preprocess, batch, "predict", invert and save as the bundles do; return the file."""
    read = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", pixdim=(1.25, 1.25, 1.25)),
        ]
    )
    (item,) = decollate_batch(case_collate([read({"image": str(path)})]))
    item["pred"] = predict(item["image"])
    item = Invertd("pred", read, orig_keys="image", nearest_interp=False, to_tensor=True)(item)
    return save(out, item["pred"])


def assert_same_place(found, expected):
    """Compare header fields as they stand in the files, and what nibabel makes of them."""
    found, expected = nib.load(found), nib.load(expected)
    for field in PLACE:
        assert np.array_equal(found.header[field], expected.header[field]), field
    assert np.array_equal(found.header["pixdim"][:4], expected.header["pixdim"][:4])
    assert np.array_equal(found.affine, expected.affine)
    assert found.shape[:3] == expected.shape[:3]


def assert_mark_in_place(file):
    array = nib.load(file).get_fdata()
    assert np.unravel_index(array.argmax(), array.shape)[:3] == MARK
    assert array.max() > 60


class TestGrid:
    @pytest.mark.parametrize("codes", FORMS)
    def test_codes(self, tmp_path, codes):
        path = source(tmp_path / "a.nii.gz", sform=grid("LAS", degrees=9), codes=codes)
        file = through_the_pipeline(path, tmp_path / "out")
        assert_same_place(file, path)
        assert (nib.load(file).header["sform_code"], nib.load(file).header["qform_code"]) == codes
        assert_mark_in_place(file)

    @pytest.mark.parametrize("codes", [(2, 1), (1, 2), (1, 4)])
    def test_forms_that_disagree(self, tmp_path, codes):
        forms = {"sform": grid("LAS", degrees=20), "qform": grid("RAS", degrees=-5)}
        path = source(tmp_path / "a.nii.gz", codes=codes, **forms)
        file = through_the_pipeline(path, tmp_path / "out")
        header = nib.load(file).header
        assert (header["sform_code"], header["qform_code"]) == (codes[0], 0)
        assert np.allclose(header.get_sform(), forms["sform"], atol=1e-4)
        assert np.allclose(header.get_qform(), forms["sform"], atol=1e-4)  # MONAI reads it in spite of its code
        assert_mark_in_place(file)

    def test_form_that_monai_replaces_on_loading(self, tmp_path):
        # an sform with other voxel sizes than pixdim: MONAI works with the qform, the file has to keep its sform
        sform = grid(spacing=(2.0, 2.0, 2.0))
        path = source(tmp_path / "a.nii.gz", sform=sform, qform=grid("LAS"), codes=(2, 1))
        assert not np.allclose(LoadImaged("image")({"image": path})["image"].affine, sform)
        file = through_the_pipeline(path, tmp_path / "out")
        assert_mark_in_place(file)
        header = nib.load(file).header
        assert (header["sform_code"], header["qform_code"]) == (2, 0)
        assert header["pixdim"][1:4].tolist() == [2, 2, 2]
        for affine in (header.get_sform(), LoadImaged("image")({"image": file})["image"].affine):
            assert np.allclose(affine, sform)

    @pytest.mark.parametrize(("off", "kept"), [(0.0, True), (0.002, True), (0.05, False)])
    def test_a_qform_that_is_slightly_off_is_made_from_the_sform(self, tmp_path, off, kept):
        sform = grid("LAS", degrees=9)
        qform = sform.copy()
        qform[0, 3] += off  # mm, along voxels of 1 mm
        path = source(tmp_path / "a.nii.gz", sform=sform, qform=qform, codes=(1, 1))
        header = nib.load(through_the_pipeline(path, tmp_path / "out")).header
        assert int(header["qform_code"]) == kept
        assert np.allclose(header.get_qform(), sform, atol=5e-5)

    def test_sheared_sform(self, tmp_path):
        sform = grid()
        sform[0, 1] = 0.3
        path = source(tmp_path / "a.nii.gz", sform=sform)
        file = through_the_pipeline(path, tmp_path / "out")
        assert nib.load(file).header["qform_code"] == 0
        assert np.array_equal(nib.load(file).affine, nib.load(path).affine)
        assert_mark_in_place(file)
        path.unlink()
        save(tmp_path, MetaTensor(blob()[None], affine=torch.tensor(sform), meta={"filename_or_obj": str(path)}))
        header = nib.load(tmp_path / "a_x.nii.gz").header
        assert (header["sform_code"], header["qform_code"]) == (1, 0)
        assert np.allclose(header.get_sform(), sform)

    @pytest.mark.parametrize("options", [{"endianness": ">"}, {"cls": nib.Nifti2Image}, {"units": ("micron", "msec")}])
    def test_kinds_of_nifti(self, tmp_path, options):
        path = source(tmp_path / "a.nii.gz", sform=grid("LPS", degrees=33), **options)
        file = through_the_pipeline(path, tmp_path / "out")
        assert_same_place(file, path)
        assert_mark_in_place(file)
        assert type(nib.load(file)) is type(nib.load(path))
        assert nib.load(file).header.endianness == "<"

    def test_slice_thin_scan_keeps_its_third_axis(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", blob()[:, :, MARK[2] : MARK[2] + 1])
        file = through_the_pipeline(path, tmp_path / "out")
        assert_same_place(file, path)
        assert nib.load(file).shape == (*SHAPE[:2], 1)

    def test_file_that_is_gone(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", sform=grid("LAS", degrees=9), codes=(2, 4))

        def move_away(image):
            path.rename(tmp_path / "b.nii.gz")
            return image

        file = through_the_pipeline(path, tmp_path / "out", move_away)
        assert file.name == "a_x.nii.gz"
        assert np.allclose(nib.load(file).affine, grid("LAS", degrees=9), atol=1e-4)
        assert_mark_in_place(file)

    def test_file_that_was_replaced_by_another_shape(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", sform=grid("LAS"), codes=(2, 4))

        def replace(image):
            source(path, np.zeros((4, 4, 4), np.float32))
            return image

        file = through_the_pipeline(path, tmp_path / "out", replace)
        assert np.allclose(nib.load(file).affine, grid("LAS"), atol=1e-4)


class TestOtherGrids:
    def item(self, path, codes):
        item = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", codes, labels=None)])(
            {"image": str(path)}
        )
        return {"pred": item["image"]}

    def test_array_that_was_not_inverted_gets_its_own_affine(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", sform=grid("LAS"), codes=(2, 4))
        item = self.item(path, "RAS")
        save(tmp_path, item["pred"])
        image = nib.load(tmp_path / "a_x.nii.gz")
        assert np.allclose(image.affine, item["pred"].affine)
        assert not np.allclose(image.affine, nib.load(path).affine)
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)

    def test_tensor_without_an_affine_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="affine: found a map without one"):
            find_grid({"filename_or_obj": "a"}, SHAPE)


class TestChannels:
    def test_channels_come_last_in_their_order(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", sform=grid("LAS"))
        file = through_the_pipeline(path, tmp_path / "out", lambda image: torch.cat([image, 0 * image + 2, -image]))
        assert_same_place(file, path)
        array = nib.load(file).get_fdata()
        assert array.shape == (*SHAPE, 3)
        assert np.allclose(array[..., 1], 2, atol=1e-5)
        assert np.array_equal(array[..., 2], -array[..., 0])
        assert nib.load(file).header["pixdim"][4] == 1

    @pytest.mark.parametrize("codes", FORMS)
    def test_series(self, tmp_path, codes):
        path = source(tmp_path / "a.nii.gz", blob((*SHAPE, 5)), grid("LAS"), codes=codes)
        file = through_the_pipeline(path, tmp_path / "out")
        assert_same_place(file, path)
        assert_mark_in_place(file)
        assert nib.load(file).shape == (*SHAPE, 5)
        assert nib.load(file).header["pixdim"][4] == np.float32(2.2)  # MONAI's metadata have lost it

    def test_one_map_of_a_series(self, tmp_path):
        path = source(tmp_path / "a.nii.gz", blob((*SHAPE, 5)), grid("LAS"))
        file = through_the_pipeline(path, tmp_path / "out", lambda image: image[:1])
        assert_same_place(file, path)
        assert nib.load(file).shape == SHAPE


class TestFile:
    def write(self, tmp_path, array, **options):
        pred = MetaTensor(torch.as_tensor(array)[None], affine=torch.eye(4), meta={"filename_or_obj": "a"})
        return nib.load(save(tmp_path, pred, **options))

    @pytest.mark.parametrize(
        ("array", "dtype"),
        [
            (np.array([[[0, 255]]]), np.uint8),
            (np.array([[[0, 256]]]), np.uint16),
            (np.array([[[0, 70000]]]), np.uint32),
            (np.array([[[False, True]]]), np.uint8),
            (np.array([[[-1, 1]]]), np.float32),
            (np.array([[[0.25, 0.5]]]), np.float32),
        ],
    )
    def test_type_chosen(self, tmp_path, array, dtype):
        image = self.write(tmp_path, array)
        assert image.header.get_data_dtype() == dtype
        assert np.array_equal(np.asanyarray(image.dataobj), array)

    def test_half_precision(self, tmp_path):
        array = torch.full((2, 2, 2), 0.5, dtype=torch.bfloat16)
        assert np.array_equal(self.write(tmp_path, array).get_fdata(), np.full((2, 2, 2), 0.5))

    def test_no_scaling_and_own_name_in_the_header(self, tmp_path):
        image = self.write(tmp_path, np.array([[[0.25, 0.5]]]))
        raw = nib.Nifti1Header(gzip.decompress((tmp_path / "a_x.nii.gz").read_bytes())[:348], check=False)
        assert (raw["scl_slope"], raw["scl_inter"]) in ((1, 0), (0, 0))
        assert image.header["descrip"] == f"monai_pdddpm {__version__}".encode()

    def test_equal_arrays_give_equal_files(self, tmp_path):
        array = np.random.default_rng(0).normal(size=(5, 5, 5))
        for folder in ("first", "second"):
            self.write(tmp_path / folder, array)
        first, second = ((tmp_path / folder / "a_x.nii.gz").read_bytes() for folder in ("first", "second"))
        assert first == second
        assert first[3:8] == bytes(5)  # gzip's flags, so no name, and its time

    def test_labels(self, tmp_path):
        labels = {"0": "background", "1": "Läsion"}
        image = self.write(tmp_path, np.ones((2, 3, 4), np.uint8), labels=labels)
        (extension,) = image.header.extensions
        assert extension.get_code() == 6
        content = json.loads(extension.get_content())
        assert content == {"labels": labels}
        assert np.array_equal(image.get_fdata(), np.ones((2, 3, 4)))
        read_by_itk = itk.array_from_image(itk.imread(str(tmp_path / "a_x.nii.gz")))
        assert np.array_equal(read_by_itk, np.ones((4, 3, 2)))

    @pytest.mark.parametrize("shape", [(1, 4, 5, 6), (3, 4, 5, 6), (2, 4, 5, 6, 3)])
    @pytest.mark.parametrize("highest", [1.0, 0.25, math.log(5)])
    def test_scaled_maps_read_equal_everywhere(self, tmp_path, shape, highest):
        values = highest * torch.rand(shape, generator=torch.Generator().manual_seed(0))
        values.view(-1)[:3] = torch.tensor([0.0, highest, highest / 2])
        image = MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
        write_nifti(tmp_path / "a.nii.gz", image, find_grid(image.meta, shape[1:4]), highest=highest, labels={"1": "x"})
        expected = values.numpy()[0] if shape[0] == 1 else np.moveaxis(values.numpy(), 0, -1)
        read = nib.load(tmp_path / "a.nii.gz")
        assert read.get_data_dtype() == np.int16
        assert json.loads(read.header.extensions[0].get_content())["labels"] == {"1": "x"}
        by_itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
        by_monai = LoadImage(image_only=True)(tmp_path / "a.nii.gz")
        for found in (read.get_fdata(), sitk.GetArrayFromImage(by_itk).T, by_monai.numpy()):
            assert np.abs(found - expected).max() <= highest / 65534 + 1e-7
            assert found.min() == 0
        assert np.allclose(by_itk.GetSpacing()[:3], (2, 3, 4))
        assert torch.allclose(by_monai.affine.float(), image.affine.float())

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
    def test_scaled_maps_must_be_in_range(self, tmp_path, wrong):
        image = MetaTensor(torch.tensor([[[[0.0, wrong]]]]))
        with pytest.raises(UserError, match=r"a\.nii\.gz: found values from .* expected 0 to 1"):
            write_nifti(tmp_path / "a.nii.gz", image, find_grid(image.meta, (1, 1, 2)), highest=1.0)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left on device")])
    def test_nothing_half_written_stays(self, tmp_path, monkeypatch, error):
        self.write(tmp_path, np.zeros((2, 2, 2)))
        before = (tmp_path / "a_x.nii.gz").read_bytes()

        def fail(stream, header, voxels):
            stream.write(b"half")
            assert len(os.listdir(tmp_path)) == 2
            raise error

        monkeypatch.setattr(writer, "_write", fail)
        kind = UserError if isinstance(error, OSError) else type(error)
        with pytest.raises(kind) as caught:
            self.write(tmp_path, np.ones((2, 2, 2)))
        assert os.listdir(tmp_path) == ["a_x.nii.gz"]
        assert (tmp_path / "a_x.nii.gz").read_bytes() == before
        if isinstance(error, OSError):
            assert "a_x.nii.gz: cannot be written (No space left on device)" in str(caught.value)
