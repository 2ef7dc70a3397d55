"""Enhanced multi-frame files: the voxels and the place of the classic series that highdicom converts to one."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.uid import RLELossless

from monai_pdddpm.data.dicom import read_series
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

VOXELS = np.random.default_rng(5).integers(-900, 900, (6, 5, 4)).astype(np.int16)
PLAIN = np.diag([1.0, 1.5, 2.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]]) * (1.0, 1.5, 2.0)
OBLIQUE[:3, 3] = 11, -7, 3
TILTED = PLAIN.copy()
TILTED[1, 2] = 0.5
NEEDED = {
    **{"PatientID": "1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "O", "AccessionNumber": ""},
    **{"StudyID": "1", "StudyDate": "20260101", "StudyTime": "120000", "ReferringPhysicianName": ""},
    **{"FrameOfReferenceUID": "1.2.3.9", "PositionReferenceIndicator": "", "SeriesNumber": 1, "Manufacturer": "x"},
    **{"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BurnedInAnnotation": "NO", "Laterality": "L"},
    **{"ContentDate": "20260101", "ContentTime": "120000", "AcquisitionDateTime": "20260101120000"},
}


@pytest.fixture
def enhanced(tmp_path, write_series):
    """Convert a series to one file; ``change`` gets the index and data set of a slice, ``frames`` the file's."""

    def make(array=VOXELS, affine=PLAIN, change=lambda index, ds: None, frames=lambda ds: None):
        def prepare(index, ds):
            for name, value in NEEDED.items():
                setattr(ds, name, value)
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = index + 1, -10 * index, "HU"
            change(index, ds)

        files = write_series(tmp_path / "classic", array, affine, change=prepare)
        slices = [pydicom.dcmread(file) for file in files[::-1]]
        one = LegacyConvertedEnhancedCTImage(slices, hd.UID(), 2, hd.UID(), 1)
        frames(one)
        (tmp_path / "enhanced").mkdir()
        one.save_as(tmp_path / "enhanced" / "one.dcm")
        return tmp_path / "classic", tmp_path / "enhanced"

    return make


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE, TILTED], ids=["plain", "oblique", "tilted"])
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_and_place_are_those_of_the_classic_series(enhanced, affine, compressed):
    classic, folder = enhanced(affine=affine, frames=lambda ds: ds.compress(RLELossless) if compressed else None)
    image = LoadScan()(folder)
    assert np.array_equal(image.numpy()[0], VOXELS * np.arange(1.0, 5) - 10 * np.arange(4))
    assert np.abs(image.affine.numpy() - np.diag([-1, -1, 1, 1]) @ affine).max() < 1e-4
    assert np.array_equal(image.numpy(), LoadScan()(classic).numpy())
    assert [note for note in image.meta["case"].notes if "tilted" not in note] == []


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE], ids=["plain", "oblique"])
def test_voxels_and_place_are_those_that_highdicom_reads(enhanced, affine):
    _, folder = enhanced(affine=affine)
    image = LoadScan()(folder)
    volume = hd.imread(folder / "one.dcm").get_volume(apply_modality_transform=True).to_patient_orientation("RAF")
    found = np.asarray(volume.array)
    index = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), -1).reshape(-1, 3)
    lps = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ image.affine.numpy())
    place = lps @ to_index[:3, :3].T + to_index[:3, 3]
    assert np.abs(place - place.round()).max() < 1e-4
    assert np.array_equal(image.numpy()[0][tuple(place.round().astype(int).T)], found.ravel())


def test_padding_of_all_frames(enhanced):
    array = VOXELS.copy()
    array[0] = -1000
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0, "PixelPaddingValue": -1000}
    _, folder = enhanced(array, change=lambda index, ds: [setattr(ds, name, value) for name, value in tags.items()])
    image = LoadScan()(folder)
    assert np.array_equal(image.numpy()[0], np.where(array == -1000, array[1:].min(), array))
    assert len(image.meta["case"].notes) == 1


def test_frames_are_sorted_by_position(enhanced):
    classic, folder = enhanced()
    assert read_series(folder).frames == (3, 2, 1, 0)
    assert read_series(classic).frames == (0, 0, 0, 0)


def first_twice(ds):
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence


def other_slope(ds):
    ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = 0


def localizer(ds):
    kind = pydicom.Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.PerFrameFunctionalGroupsSequence[2].CTImageFrameTypeSequence = [kind]


def no_place(ds):
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def too_few(ds):
    del ds.PerFrameFunctionalGroupsSequence[2]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (first_twice, r"found 4 slices at 3 places \(frame \d and frame \d lie at the same\)"),
        (other_slope, "found a rescale slope of 0 in one DICOM file"),
        (localizer, "found an image of the type LOCALIZER in one DICOM file"),
        (no_place, "found no position in its DICOM header"),
        (too_few, "found 4 frames in one DICOM file"),
    ],
)
def test_frames_that_are_no_stack(enhanced, frames, message):
    _, folder = enhanced(frames=frames)
    with pytest.raises(UserError, match=message):
        LoadScan()(folder)


def test_frames_that_pydicom_cannot_decode(enhanced, monkeypatch):
    _, folder = enhanced()

    def none(uid):
        raise NotImplementedError

    monkeypatch.setattr("pydicom.pixels.get_decoder", none)
    with pytest.raises(UserError, match="found frames compressed as Explicit VR Little Endian, which pydicom cannot"):
        LoadScan()(folder)
