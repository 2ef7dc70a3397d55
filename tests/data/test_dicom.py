"""Position and order of the slices of a DICOM series, and series that are refused."""

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.data import decollate_batch
from monai.transforms import Compose, Invertd, LoadImage, Orientationd
from scipy.spatial.transform import Rotation

from monai_pdddpm.data.dataset import case_collate
from monai_pdddpm.data.dicom import read_series
from monai_pdddpm.data.dicom_files import find_series
from monai_pdddpm.data.loading import LoadImageScand, LoadScan
from monai_pdddpm.transforms.save_maps import SaveImageMapsd
from monai_pdddpm.transforms.spacing import Spacingd
from monai_pdddpm.utils.errors import UserError

SHAPE = (14, 11, 12)
VOXELS = np.random.default_rng(0).integers(-100, 1000, SHAPE).astype(np.int16)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(spacing=(0.8, 1.1, 2.5)) -> np.ndarray:
    """LPS affine, turned about all three axes."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
    affine[:3] = np.c_[turn @ np.diag(spacing), (10.0, -20.0, 30.0)]
    return affine


def tilted() -> np.ndarray:
    """The gantry is tilted: each slice lies 0.8 mm further along its own columns."""
    affine = oblique()
    affine[:3, 2] += 0.8 * affine[:3, 1] / 1.1
    return affine


def refused(folder, *words):
    with pytest.raises(UserError) as caught:
        read_series(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    for word in words:
        assert word in message


class TestSeries:
    def test_slices_are_sorted_by_position(self, tmp_path, write_series):
        files = write_series(tmp_path, VOXELS, oblique())
        (tmp_path / "readme.txt").write_text("no DICOM")
        series = read_series(tmp_path)
        assert series.notes == ("files beside its slices hold none and were not used: readme.txt",)
        assert series.files == tuple(map(str, files))
        assert sorted(series.files) != list(series.files)
        assert series.shape == SHAPE
        assert np.allclose(series.affine, LPS_TO_RAS @ oblique(), atol=1e-6)

    def test_loaded_as_monai_does(self, tmp_path, write_series):
        write_series(tmp_path, VOXELS, oblique())
        found, expected = LoadScan()(tmp_path), LoadImage(ensure_channel_first=True)(tmp_path)
        assert np.array_equal(found.numpy()[0], VOXELS)
        assert np.array_equal(found.numpy(), expected.numpy())
        assert np.allclose(found.affine, expected.affine, atol=1e-6)
        assert found.meta["case"].notes == ()

    def test_several_frames_as_itk_writes_them(self, tmp_path):
        image = itk.image_from_array(np.ascontiguousarray(VOXELS.T).astype(np.uint8))
        image.SetSpacing([1.0, 2.0, 3.0])
        image.SetOrigin([4.0, 5.0, 6.0])
        itk.imwrite(image, str(tmp_path / "a.dcm"))
        found = LoadScan()(tmp_path)
        assert np.array_equal(found.numpy()[0], VOXELS.astype(np.uint8))
        assert np.allclose(found.affine, [[-1, 0, 0, -4], [0, -2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1]])

    def test_tilted_gantry_is_a_sheared_grid(self, tmp_path, write_series):
        write_series(tmp_path, VOXELS, tilted())
        image = LoadScan()(tmp_path)
        assert np.allclose(image.affine, LPS_TO_RAS @ tilted(), atol=1e-6)
        assert np.allclose(image.meta["original_affine"], image.affine)
        assert "not at right angles" in image.meta["case"].notes[0]
        assert not np.allclose(LoadImage()(tmp_path).affine, image.affine, atol=0.05)  # ITK stands the stack upright

    def test_slopes_that_differ_from_slice_to_slice(self, tmp_path, write_series):
        slopes = ["1"] * 6 + ["0.5"] * 6

        def rescale(index, ds):
            ds.RescaleSlope, ds.RescaleIntercept = slopes[index], -3

        write_series(tmp_path, VOXELS, oblique(), change=rescale)
        expected = VOXELS * np.array([float(slope) for slope in slopes]) - 3
        assert np.array_equal(LoadScan()(tmp_path).numpy()[0], expected)
        assert not np.array_equal(LoadImage()(tmp_path).numpy(), expected)  # ITK cuts off halves

    def test_one_slice_is_as_thick_as_it_says(self, tmp_path, write_series):
        write_series(tmp_path, VOXELS[..., :1], oblique(), thickness=4)
        image = LoadScan()(tmp_path)
        assert image.shape == (1, *SHAPE[:2], 1)
        assert np.allclose(image.affine, LPS_TO_RAS @ oblique((0.8, 1.1, 4)), atol=1e-6)

    def test_table_of_contents_is_no_slice(self, tmp_path):
        (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        assert find_series(tmp_path) == []
        (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
        assert find_series(tmp_path) == [str(tmp_path)]


class TestRefused:
    @pytest.mark.parametrize("missing", [1, 5, 10])
    def test_missing_slice(self, tmp_path, write_series, missing):
        write_series(tmp_path, VOXELS, oblique(), fold=(missing,))
        refused(tmp_path, "not evenly spaced, found 5 mm between", "2.5 mm elsewhere")

    def test_doubled_slice(self, tmp_path, write_series):
        write_series(tmp_path, VOXELS, oblique())
        write_series(tmp_path, VOXELS[..., :1], oblique(), names="again{}")
        refused(tmp_path, "found 13 slices at 12 places", "IM0000", "again0")

    @pytest.mark.parametrize(("count", "end"), [(2, ")"), (4, ", ...)")])
    def test_several_series(self, tmp_path, write_series, count, end):
        uids = [f"1.2.3.{number}" for number in range(count)]
        for uid in uids:
            write_series(tmp_path, VOXELS, oblique(), uid=uid, names=f"{uid}-{{}}.dcm")
        refused(tmp_path, f"found {count} DICOM series ({', '.join(uids[:3])}{end}", "a folder of its own")
        with pytest.raises(UserError, match=f"found {count} DICOM series"):
            find_series(tmp_path)

    @pytest.mark.parametrize(
        ("shape", "affine", "what"),
        [
            ((9, 11, 12), oblique(), "size"),
            (SHAPE, oblique((0.9, 1.1, 2.5)), "pixel spacing"),
            (SHAPE, np.diag([0.8, 1.1, 2.5, 1.0]), "orientation"),
        ],
    )
    def test_slices_of_another_stack(self, tmp_path, write_series, shape, affine, what):
        write_series(tmp_path, VOXELS, oblique())
        write_series(tmp_path, np.zeros(shape, np.int16), affine, names="b{}")
        refused(tmp_path, f"differ in {what} (IM0000 and b0)")

    def test_slice_that_is_cut_short(self, tmp_path, write_series):
        files = write_series(tmp_path, VOXELS, oblique())
        files[3].write_bytes(files[3].read_bytes()[:-100])
        with pytest.raises(UserError, match=f"{tmp_path}: cannot be read as an image"):
            LoadScan()(tmp_path)

    @pytest.mark.parametrize(
        ("lose", "message"),
        [
            (lambda file: file.write_bytes(b""), "an empty file"),
            (lambda file: (file.unlink(), file.symlink_to("gone")), "a broken link"),
            (lambda file: file.rename(file.with_suffix(".dcm")).write_bytes(bytes(200)), "no DICOM content"),
        ],
    )
    def test_last_slice_that_is_damaged(self, tmp_path, write_series, lose, message):
        lose(write_series(tmp_path, VOXELS, oblique())[-1])
        refused(tmp_path, message, "expected a slice")

    def test_no_position(self, tmp_path, write_series):
        file = write_series(tmp_path, VOXELS[..., :1], oblique())[0]
        tag = b"\x20\x00\x32\x00"
        assert file.read_bytes().count(tag) == 1
        file.write_bytes(file.read_bytes().replace(tag, b"\x20\x00\x33\x00"))
        refused(tmp_path, str(file), "no position")

    def test_several_frames_without_their_places(self, tmp_path):
        image = itk.image_from_array(np.ascontiguousarray(VOXELS.T).astype(np.uint8))
        itk.imwrite(image, str(tmp_path / "a.dcm"))
        file = pydicom.dcmread(tmp_path / "a.dcm")
        del file.PerFrameFunctionalGroupsSequence
        file.save_as(tmp_path / "a.dcm")
        refused(tmp_path, "a.dcm", "found 12 frames")

    def test_folder_without_slices(self, tmp_path):
        (tmp_path / "a.txt").touch()
        refused(tmp_path, "without slices of a scan")


@pytest.mark.parametrize("affine", [oblique(), tilted()], ids=["upright", "tilted"])
@pytest.mark.parametrize("name", ["series", "1.2.840.7"])
def test_result_lies_where_the_headers_say(tmp_path, write_series, affine, name):
    mark = (9, 3, 6)
    axes = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    distance = sum((axis - at) ** 2 for axis, at in zip(axes, mark, strict=True))
    write_series(tmp_path / name, (1000 * np.exp(-distance / 6)).astype(np.int16), affine)
    read = Compose(
        [
            LoadImageScand("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
        ]
    )
    (item,) = decollate_batch(case_collate([read({"image": str(tmp_path / name)})]))
    item["pred"] = item["image"] / 1000  # as a probability
    item = Invertd("pred", read, orig_keys="image", nearest_interp=False, to_tensor=True)(item)
    SaveImageMapsd(tmp_path / "out", {"0": "background"}, outputs="prob")(
        {"image": item["image"], "prob": item["pred"]}
    )
    written = nib.load(tmp_path / "out" / name / f"{name}_prob.nii.gz")
    array = written.get_fdata()
    assert array.shape == SHAPE
    assert np.unravel_index(array.argmax(), SHAPE) == mark
    # the world position of a voxel is LPS in DICOM and RAS in NIfTI
    for voxel in (mark, (0, 0, 0), (13, 10, 11)):
        in_dicom = affine @ (*voxel, 1)
        assert np.allclose(written.affine @ (*voxel, 1), LPS_TO_RAS @ in_dicom, atol=1e-4)
