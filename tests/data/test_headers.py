"""Headers of scans, and the errors for headers that cannot be right."""

import gzip
import os

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from monai_pdddpm.data import headers
from monai_pdddpm.data.headers import read_header
from monai_pdddpm.utils.errors import UserError

VOXELS = np.random.default_rng(0).integers(0, 1000, (6, 7, 5)).astype(np.int16)


def save(path, array=VOXELS, affine=None, image_class=nib.Nifti1Image):
    nib.save(image_class(array, np.eye(4) if affine is None else affine), path)
    return path


def save_forms(path, sform, qform, codes, pixdim=None, array=VOXELS):
    """Write a file whose sform, qform and voxel sizes are those given, whether they agree or not."""
    image = nib.Nifti1Image(array, None)
    image.header.set_qform(qform, codes[1])
    image.header.set_sform(sform, codes[0])
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    with path.open("wb") as file:
        # nibabel would make the header consistent
        header = image.header.copy()
        header["vox_offset"] = 352
        header["magic"] = b"n+1"
        file.write(header.binaryblock + bytes(4) + np.asfortranarray(array).tobytes(order="F"))
    return path


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


class TestNifti:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII"])
    @pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
    def test_scan_passes(self, tmp_path, name, image_class):
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        header = read_header(save(tmp_path / name, affine=affine, image_class=image_class))
        assert (header.spatial, header.extra, header.notes) == ((6, 7, 5), (), ())
        assert np.array_equal(header.affine, affine)

    def test_axes_beside_the_spatial_ones(self, tmp_path):
        header = read_header(save(tmp_path / "a.nii", np.zeros((4, 3, 2, 1, 5), np.uint8)))
        assert (header.spatial, header.extra) == ((4, 3, 2), (1, 5))

    def test_big_endian_and_slope_pass(self, tmp_path):
        image = nib.Nifti1Image(VOXELS, np.eye(4), nib.Nifti1Header(endianness=">"))
        image.header.set_slope_inter(0.5, 3)
        nib.save(image, tmp_path / "a.nii.gz")
        assert read_header(tmp_path / "a.nii.gz").notes == ()

    def test_missing_empty(self, tmp_path):
        refused(tmp_path / "a.nii", "does not exist")
        (tmp_path / "b.nii").mkdir()
        refused(tmp_path / "b.nii", "a folder without slices of a scan")
        for name in ("c.nii", "c.nii.gz", "c.mha"):
            (tmp_path / name).touch()
            refused(tmp_path / name, "empty file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
    def test_unreadable(self, tmp_path):
        save(tmp_path / "a.nii").chmod(0)
        refused(tmp_path / "a.nii", "permission denied")

    def test_text(self, tmp_path):
        (tmp_path / "a.nii").write_text("no scan at all\n" * 100)
        refused(tmp_path / "a.nii", "cannot be read as an image (")
        with gzip.open(tmp_path / "b.nii.gz", "wt") as file:
            file.write("no scan at all\n" * 100)
        refused(tmp_path / "b.nii.gz", "cannot be read as an image (")

    def test_names_that_lie(self, tmp_path):
        save(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
        refused(tmp_path / "a.nii.gz", "cannot be read as an image (")
        save(tmp_path / "b.nii.gz").rename(tmp_path / "b.nii")
        refused(tmp_path / "b.nii", "cannot be read as an image (")

    def test_cifti(self, tmp_path):
        axes = (nib.cifti2.ScalarAxis(["a"]), nib.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3)), affine=np.eye(4)))
        nib.save(nib.Cifti2Image(np.zeros((1, 27)), axes), tmp_path / "a.dscalar.nii")
        refused(tmp_path / "a.dscalar.nii", "a CIFTI file, expected a NIfTI image")

    @pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
    def test_voxels_of_no_use(self, tmp_path, dtype):
        refused(save(tmp_path / "a.nii", np.zeros((3, 3, 3), dtype)), "voxels of type")

    @pytest.mark.parametrize(("unit", "fits"), [("mm", True), ("unknown", True), ("meter", False), ("micron", False)])
    def test_unit(self, tmp_path, unit, fits):
        image = nib.Nifti1Image(VOXELS, np.eye(4))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        if fits:
            read_header(tmp_path / "a.nii")
        else:
            refused(
                tmp_path / "a.nii", f"found {unit.replace('micron', 'micrometer')} as its unit of length, expected mm"
            )


class TestPlace:
    @pytest.mark.parametrize("value", [0.0, np.nan, 1000.0, 1e-5])
    def test_sform_of_no_use(self, tmp_path, value):
        sform = np.eye(4)
        sform[0, 0] = value
        path = save_forms(tmp_path / "a.nii", sform, np.eye(4), (1, 0))
        refused(path, "affine cannot be inverted" if np.isnan(value) else f"found voxels of {value:g} x 1 x 1 mm")

    @pytest.mark.parametrize("codes", [(0, 1), (0, 0)])
    @pytest.mark.parametrize("value", [0.0, -2.0, np.nan, np.inf])
    def test_voxel_sizes_of_no_use(self, tmp_path, codes, value):
        path = save_forms(tmp_path / "a.nii", np.eye(4), np.eye(4), codes, (1, value, 1))
        refused(path, f"found voxels of 1 x {value:g} x 1 mm (pixdim), expected positive numbers")

    @pytest.mark.parametrize("value", [1000.0, 1e-5])
    def test_voxel_sizes_that_are_absurd(self, tmp_path, value):
        path = save_forms(tmp_path / "a.nii", np.eye(4), np.eye(4), (0, 1), (1, value, 1))
        refused(path, f"found voxels of 1 x {value:g} x 1 mm")

    @pytest.mark.parametrize(("shift", "notes"), [(0.05, 0), (0.3, 1)])
    def test_forms_that_disagree(self, tmp_path, shift, notes):
        qform = np.eye(4)
        qform[0, 3] = shift
        header = read_header(save_forms(tmp_path / "a.nii", np.eye(4), qform, (1, 1)))
        assert header.notes == ("its sform and qform place it differently: the sform was used",) * notes
        assert np.array_equal(header.affine, np.eye(4))

    def test_form_without_a_code_does_not_count(self, tmp_path):
        shifted = np.eye(4)
        shifted[0, 3] = 9
        header = read_header(save_forms(tmp_path / "a.nii", np.eye(4), shifted, (1, 0)))
        assert (header.notes, header.affine[0, 3]) == ((), 0)
        header = read_header(save_forms(tmp_path / "a.nii", np.eye(4), shifted, (0, 1)))
        assert (header.notes, header.affine[0, 3]) == ((), 9)

    def test_sform_counts_where_monai_takes_an_empty_qform(self, tmp_path):
        sform = np.diag([-2.0, 2.0, 2.0, 1.0])
        sform[:3, 3] = (40, -30, 20)
        path = save_forms(tmp_path / "a.nii", sform, np.eye(4), (1, 0), (1, 1, 1))
        assert np.allclose(LoadImage()(path).affine, np.eye(4))  # so MONAI puts it elsewhere, and mirrored
        header = read_header(path)
        assert np.array_equal(header.affine, sform)
        assert header.notes == ("its voxel sizes (pixdim) are not those of its sform: the sform was used",)

    def test_no_form_is_said(self, tmp_path):
        header = read_header(save_forms(tmp_path / "a.nii", np.eye(4), np.eye(4), (0, 0)))
        assert header.notes == ("it has neither sform nor qform, so left and right are a guess",)

    def test_shear_is_said(self, tmp_path):
        sform = np.eye(4)
        sform[0, 1] = 0.3
        path = save(tmp_path / "a.nii", affine=sform)
        (note,) = (note for note in read_header(path).notes if "right angles" in note)
        assert "interpolated" in note


class TestOtherFormats:
    @pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
    def test_place(self, tmp_path, name):
        image = itk.image_from_array(np.ascontiguousarray(VOXELS.T))
        image.SetSpacing((1.0, 1.5, 2.5))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(itk.matrix_from_array(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])))
        itk.imwrite(image, str(tmp_path / name))
        header = read_header(tmp_path / name)
        assert (header.spatial, header.extra) == ((6, 7, 5), ())
        expected = [[0, -1.5, 0, -10], [1, 0, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]  # LPS to RAS
        assert np.allclose(header.affine, expected)
        assert np.allclose(header.affine, LoadImage(reader="ITKReader")(tmp_path / name).affine)

    @pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
    @pytest.mark.parametrize("vector", [True, False])
    def test_fourth_axis(self, tmp_path, name, vector):
        shape = (5, 7, 6, 2) if vector else (2, 5, 7, 6)
        itk.imwrite(itk.image_from_array(np.zeros(shape, np.float32), is_vector=vector), str(tmp_path / name))
        header = read_header(tmp_path / name)
        assert (header.spatial, header.extra) == ((6, 7, 5), (2,))

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_text(self, tmp_path, name):
        (tmp_path / name).write_text("no scan\nat all\n")
        refused(tmp_path / name, "cannot be read as an image (", "expected an intact scan")

    def test_colours(self, tmp_path):
        image = itk.Image[itk.RGBPixel[itk.UC], 3].New(Regions=[4, 4, 4])
        image.Allocate(True)
        itk.imwrite(image, str(tmp_path / "a.nrrd"))
        refused(tmp_path / "a.nrrd", "voxels of type rgb")


def test_itk_s_source_files_and_addresses_are_left_out():
    error = RuntimeError("/build/itkNrrd.cxx:410:\nitk::ERROR: NrrdImageIO(0x5569f25b): Error reading a.nrrd")
    found = headers.unreadable("a.nrrd", error)
    assert found.startswith("a.nrrd: cannot be read as an image (RuntimeError: Error reading a.nrrd), expected")
