"""Tags that change the meaning of a stored value: the right intensities, or one clear refusal."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut
from pydicom.uid import RLELossless

from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

VOXELS = np.random.default_rng(3).integers(-900, 900, (6, 5, 4)).astype(np.int16)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def series(tmp_path, write_series):
    def write(change, array=VOXELS, folder="ct"):
        write_series(tmp_path / folder, array, AFFINE, change=change)
        return tmp_path / folder

    return write


def set_tags(**tags):
    def change(index, ds):
        for name, value in tags.items():
            setattr(ds, name, value)

    return change


def read(folder):
    image = LoadScan()(folder)
    return image.numpy()[0], image.meta["case"].notes


@pytest.mark.parametrize(
    ("tags", "padding"),
    [
        ({"PixelPaddingValue": -900}, VOXELS == -900),
        ({"PixelPaddingValue": -900, "PixelPaddingRangeLimit": -500}, VOXELS <= -500),
        ({"PixelPaddingValue": -500, "PixelPaddingRangeLimit": -900}, VOXELS <= -500),
        ({"PixelPaddingValue": 900, "PixelPaddingRangeLimit": 700}, VOXELS >= 700),
    ],
)
def test_padding_gets_the_smallest_other_value(series, tags, padding):
    array = VOXELS.copy()
    array[0, 0, 0], padding = tags["PixelPaddingValue"], padding.copy()
    padding[0, 0, 0] = True
    voxels, notes = read(series(set_tags(**tags), array))
    assert np.array_equal(voxels, np.where(padding, array[~padding].min(), array))
    (note,) = notes
    assert note.startswith(f"{padding.mean():.1%} of its voxels are padding (DICOM tag 0028,0120)")


def test_padding_that_does_not_occur_changes_nothing(series):
    voxels, notes = read(series(set_tags(PixelPaddingValue=-2000)))
    assert np.array_equal(voxels, VOXELS)
    assert notes == ()


def test_padding_written_as_an_unsigned_number(series):
    def change(index, ds):
        ds.add_new("PixelPaddingValue", "US", 65536 - 2000)

    array = VOXELS.copy()
    array[:2] = -2000
    voxels, _ = read(series(change, array))
    assert np.array_equal(voxels[2:], VOXELS[2:])
    assert np.unique(voxels[:2]) == VOXELS[2:].min()


def test_padding_counts_before_rescaling(series):
    array = VOXELS.copy()
    array[0] = -2000
    voxels, _ = read(series(set_tags(PixelPaddingValue=-2000, RescaleSlope=2, RescaleIntercept=-1000), array))
    assert np.array_equal(voxels[1:], 2.0 * VOXELS[1:] - 1000)
    assert np.unique(voxels[0]) == 2.0 * VOXELS[1:].min() - 1000


def test_table_in_place_of_slope_and_intercept(series):
    table = np.random.default_rng(0).integers(0, 4000, 1801).astype("<u2")

    def change(index, ds):
        item = pydicom.Dataset()
        item.add_new("LUTDescriptor", "SS", [1801, -900, 16])
        item.ModalityLUTType = "HU"
        item.add_new("LUTData", "OW", table.tobytes())
        ds.ModalityLUTSequence = [item]

    voxels, _ = read(series(change))
    assert np.array_equal(voxels, table[VOXELS.astype(int) + 900])


def test_twelve_signed_bits(series):
    def change(index, ds):
        stored = np.frombuffer(ds.PixelData, "<i2") & 0x0FFF  # the upper bits are not part of the value
        ds.BitsStored, ds.HighBit, ds.PixelData = 12, 11, stored.astype("<u2").tobytes()

    assert np.array_equal(read(series(change))[0], VOXELS)


def test_compressed_slices(series):
    voxels, _ = read(series(lambda index, ds: ds.compress(RLELossless)))
    assert np.array_equal(voxels, VOXELS)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "found pixels of the kind MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "found pixels of the kind PALETTE COLOR"),
        ({"SamplesPerPixel": 3}, "found 3 values a voxel"),
        ({"NumberOfFrames": 2}, "found 2 frames"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "found an image of the type MOSAIC"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "found an image of the type LOCALIZER"),
        ({"NumberOfSlices": 5}, "found 4 slices, expected 5 as their headers count"),
        ({"ImagesInAcquisition": 6}, "found 4 slices, expected 6 as their headers count"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "found a rescale slope of 0"),
        ({"RealWorldValueMappingSequence": [pydicom.Dataset()]}, "found real-world values without a rescale slope"),
    ],
)
def test_series_of_other_kinds_are_refused(series, tags, message):
    with pytest.raises(UserError, match=message) as caught:
        LoadScan()(series(set_tags(**tags)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": 1, "RescaleIntercept": -1024}, "found no rescale slope in 1 of 4 slices"),
        ({"PixelPaddingValue": -900}, "found no padding value in 1 of 4 slices"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "found no table of values in 1 of 4 slices"),
    ],
)
def test_a_slice_without_the_tag_that_the_others_have_is_refused(series, tags, message):
    def change(index, ds):
        if index != 2:
            set_tags(**tags)(index, ds)

    with pytest.raises(UserError, match=message):
        LoadScan()(series(change))


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((1, 2, 4, 5), "refused"),
        ((3, 4, 5, 6), "refused"),
        ((5, 6, 7, 8), "its instance numbers begin at 5"),
        ((1, 3, 5, 7), ""),
        ((4, 3, 2, 1), ""),
    ],
)
def test_instance_numbers_tell_of_missing_slices(series, numbers, found):
    def change(index, ds):
        ds.InstanceNumber = numbers[index]

    folder = series(change)
    if found == "refused":
        missing = (
            "found no slices between the instance numbers 2 and 4|found instance numbers from 3, expected the 2 sl"
        )
        with pytest.raises(UserError, match=missing):
            LoadScan()(folder)
    else:
        assert [note.split(":")[0] for note in read(folder)[1]] == ([found] if found else [])


def test_images_of_an_acquisition_that_are_more_than_the_series(series):
    def change(index, ds):
        ds.ImagesInAcquisition, ds.InstanceNumber = 6, index + 9

    _, notes = read(series(change))
    assert notes == ("its headers count 6 images and 4 were found: the series may be incomplete",)


def test_computed_values_get_a_note(series):
    voxels, notes = read(series(set_tags(ImageType=["DERIVED", "SECONDARY", "MPR"])))
    assert np.array_equal(voxels, VOXELS)
    assert notes == ("its image type is DERIVED and SECONDARY: its values were computed, not acquired",)


def test_slices_of_one_series_in_subfolders_and_without_preamble(series):
    folder = series(lambda index, ds: None)
    (folder / "more").mkdir()
    first, second, *_ = sorted(folder.glob("IM*"))
    first.rename(folder / "more" / first.name)
    second.write_bytes(second.read_bytes()[132:])
    assert np.array_equal(read(folder)[0], VOXELS)


def test_reports_are_no_slices_and_files_without_metadata_are(series):
    folder = series(lambda index, ds: None)
    first, second, *_ = sorted(folder.glob("IM*"))
    report = pydicom.dcmread(first)
    report.Modality, report.SeriesInstanceUID = "SR", "1.2.9"
    report.save_as(folder / "A")  # the first file of the folder
    for file in (first, second):
        ds = pydicom.dcmread(file)
        del ds.file_meta
        pydicom.dcmwrite(file, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    voxels, notes = read(folder)
    assert np.array_equal(voxels, VOXELS)
    assert notes == ("files beside its slices hold none and were not used: A",)


def test_a_slice_whose_copy_did_not_end_is_refused(series):
    folder = series(lambda index, ds: None)
    last = sorted(folder.glob("IM*"))[-1]
    last.rename(folder / f".{last.name}.x7Yz")
    with pytest.raises(UserError, match="found a hidden DICOM file, as a copy leaves that did not end"):
        LoadScan()(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
        *("MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm"),
    ],
)
def test_files_of_pydicom_are_read_as_pydicom_does(tmp_path, name):
    expected = pydicom_values(tmp_path, name)
    assert np.array_equal(read(tmp_path)[0][..., 0].T, expected)


def test_compression_that_pydicom_cannot_decode_is_left_to_itk(tmp_path, monkeypatch):
    expected = pydicom_values(tmp_path, "MR_small_RLE.dcm")
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda self: False))
    assert np.array_equal(read(tmp_path)[0][..., 0].T, expected)


def pydicom_values(folder, name):
    """Copy a test file of pydicom to a folder and return its values."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this installation of pydicom has no such file")
    (folder / name).write_bytes(Path(path).read_bytes())
    header = pydicom.dcmread(path)
    return apply_modality_lut(header.pixel_array, header)


def test_number_that_is_none_is_one_line(series):
    folder = series(lambda index, ds: None)
    file = sorted(folder.iterdir())[0]
    content = file.read_bytes()
    assert content.count(b"IS\x02\x001 ") == 1
    file.write_bytes(content.replace(b"IS\x02\x001 ", b"IS\x02\x001A"))
    with pytest.raises(UserError, match=r"ct: cannot be read as an image \(ValueError"):
        LoadScan()(folder)
