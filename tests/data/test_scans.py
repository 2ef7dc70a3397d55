"""Which scans a network takes, by their headers, and which files stand for which channel."""

import itk
import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.data.scans import plan_scan
from monai_pdddpm.utils.errors import UserError

NAMES = {"0": "FLAIR", "1": "T1", "2": "T2"}


def save(path, shape=(6, 7, 5), affine=None):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def shifted(*offset):
    affine = np.eye(4)
    affine[:3, 3] = offset
    return affine


def refused(image, *words, **options):
    with pytest.raises(UserError) as caught:
        plan_scan(image, ScanSpec(**options))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


class TestAxes:
    @pytest.mark.parametrize(
        ("shape", "channels", "fits"),
        [
            ((6, 7, 5), 1, True),
            ((6, 7, 5, 1), 1, True),
            ((6, 7, 5, 1, 1), 1, True),
            ((6, 7, 1), 1, True),
            ((6, 7, 1, 1), 1, True),
            ((6, 7, 5, 4), 4, True),
            ((6, 7, 1, 4), 4, True),
            ((6, 7, 5, 4, 1), 4, True),
            ((6, 7, 5, 1, 4), 4, True),
            ((6, 7, 5, 9), None, True),
            ((6, 7, 5), None, True),
            ((6, 7, 5, 4), 1, False),
            ((6, 7, 5, 1, 4), 1, False),
            ((6, 7, 5), 4, False),
            ((6, 7, 5, 3), 4, False),
            ((6, 7, 5, 2, 2), 2, False),
            ((6, 7, 5, 2, 2), None, False),
            ((6, 7, 5, 2, 2), 4, False),
            ((6, 0, 5), 1, False),
        ],
    )
    def test_channels(self, tmp_path, shape, channels, fits):
        path = save(tmp_path / "a.nii", shape)
        if fits:
            plan_scan(path, ScanSpec(channels=channels))
            assert LoadScan(channels=channels)(path).shape[1:] == shape[:3]  # what is let in can be loaded
        else:
            refused(path, f"{path}: found shape " + " x ".join(map(str, shape)), "3 spatial axes", channels=channels)
            with pytest.raises(UserError):
                LoadScan(channels=channels)(path)

    @pytest.mark.parametrize(
        ("ending", "shape"), [(".nii", (6,)), (".nii", (6, 7)), (".mha", (6, 7)), (".png", (6, 7))]
    )
    @pytest.mark.parametrize("spec", [{"channels": 2}, {"fourth_dimension": "time"}])
    def test_two_axes_or_fewer(self, tmp_path, ending, shape, spec):
        if ending == ".nii":
            save(tmp_path / "a.nii", shape)
        else:
            itk.imwrite(itk.image_from_array(np.eye(7, 6, dtype=np.uint8)), str(tmp_path / f"a{ending}"))
        found = f"found a {len(shape)}D image ({' x '.join(map(str, shape))}), expected a 3D or 4D scan; stack"
        refused(str(tmp_path / f"a{ending}"), found, **spec)

    @pytest.mark.parametrize(
        ("shape", "frames"),
        [
            ((6, 7, 5), 1),
            ((6, 7, 5, 1), 1),
            ((6, 7, 5, 4), 4),
            ((6, 7, 1, 4), 4),
            ((6, 7, 5, 4, 1), 4),
            ((6, 7, 5, 1, 1), 1),
            ((6, 7, 5, 1, 4), None),
            ((6, 7, 5, 2, 2), None),
        ],
    )
    def test_frames(self, tmp_path, shape, frames):
        path = save(tmp_path / "a.nii", shape)
        if frames is None:
            refused(path, "expected 3 spatial axes and frames on a fourth one", fourth_dimension="time")
        else:
            plan_scan(path, ScanSpec(fourth_dimension="time"))
            assert LoadScan(fourth_dimension="time")(path).shape == (frames, *shape[:3])

    def test_two_dimensions(self, tmp_path):
        path = save(tmp_path / "a.nii", (6, 7))
        plan_scan(path, ScanSpec(spatial_dims=2))
        assert LoadScan(spatial_dims=2)(path).shape == (1, 6, 7)
        refused(save(tmp_path / "b.nii", (6, 7, 1)), "6 x 7 x 1", "2 spatial axes", spatial_dims=2)

    def test_volumes_are_named(self, tmp_path):
        refused(save(tmp_path / "a.nii"), "6 x 7 x 5", "3 spatial axes and 4 volumes", channels=4)


class TestPaths:
    @pytest.mark.parametrize("image", [3, None, [3], {"0": "a.nii"}])
    def test_no_path(self, image):
        refused(image, "expected a path, or a list")


class TestList:
    @pytest.fixture
    def files(self, tmp_path):
        return [save(tmp_path / f"{name}.nii.gz") for name in ("flair", "t1", "t2")]

    def test_files_on_one_grid(self, files):
        plan = plan_scan(files, ScanSpec(channels=3))
        assert plan.case.files == tuple(files)
        assert (plan.other_grids, plan.case.notes) == (frozenset(), ())

    def test_hundredth_of_a_voxel_is_the_same_grid(self, files):
        save(files[1], affine=shifted(0.005, 0, 0))
        assert plan_scan(files, ScanSpec(channels=3)).case.notes == ()

    @pytest.mark.parametrize("gone", [None, "", "gone.nii"])
    def test_missing_channel(self, files, gone):
        files[1] = gone
        refused(files, "flair.nii.gz: its channel 1 (T1) is missing", "zero", channels=3, channel_names=NAMES)
        plan = plan_scan(files, ScanSpec(channels=3, missing="zero", channel_names=NAMES))
        assert plan.case.files == (files[0], None, files[2])
        assert plan.case.notes == ("channel 1 (T1) is missing: zeros in its place",)

    def test_missing_channel_is_told_with_its_file_and_the_remedy(self, files):
        files[2] = "gone.nii"
        refused(files, "channel 2 is missing (gone.nii does not exist)", "--missing_channels zero", channels=3)

    @pytest.mark.parametrize("image", [[], [None, ""], ["gone.nii", None]])
    @pytest.mark.parametrize("missing", ["error", "zero"])
    def test_all_missing(self, image, missing):
        refused(image, "none of the files of a case is there", channels=2, missing=missing)

    def test_missing_volume_stays_an_error(self, tmp_path):
        refused(save(tmp_path / "a.nii", (6, 7, 5, 2)), "6 x 7 x 5 x 2", channels=3, missing="zero")

    def test_number_of_files(self, files):
        refused(files[:2], "found a list of 2 files, expected 3", "(FLAIR, T1, T2)", channels=3, channel_names=NAMES)
        plan_scan(files[:2], ScanSpec(channels=None))

    def test_file_of_a_list_is_3d(self, files, tmp_path):
        refused([files[0], save(tmp_path / "4d.nii", (6, 7, 5, 2))], "4d.nii: found shape 6 x 7 x 5 x 2", channels=2)
        plan_scan([files[0], save(tmp_path / "one.nii", (6, 7, 5, 1, 1))], ScanSpec(channels=2))

    def test_frames_are_no_list(self, files):
        refused(files, "found a list of 3 files, expected one file with the frames", fourth_dimension="time")

    @pytest.mark.parametrize(
        ("shape", "affine", "covered"),
        [
            ((6, 7, 5), shifted(0.1, 0, 0), ""),
            ((12, 14, 10), np.diag([0.5, 0.5, 0.5, 1]), ""),
            ((6, 7, 5), shifted(3, 0, 0), ", of which it covers 50% (zeros elsewhere)"),
        ],
    )
    def test_other_grid_is_noted(self, files, shape, affine, covered):
        save(files[2], shape, affine)
        plan = plan_scan(files, ScanSpec(channels=3, channel_names=NAMES))
        assert plan.other_grids == {2}
        assert plan.case.notes == (
            f"channel 2 (T2) lies on another grid: resampled to that of channel 0 (FLAIR){covered}",
        )

    def test_first_file_that_is_there_gives_the_grid(self, files):
        files[0] = None
        save(files[2], affine=shifted(1, 0, 0))
        plan = plan_scan(files, ScanSpec(channels=3, missing="zero"))
        assert plan.other_grids == {2}
        assert "resampled to that of channel 1" in plan.case.notes[1]

    def test_files_of_different_places(self, files):
        save(files[1], affine=shifted(0, 0, 100))
        refused(files, f"{files[1]}: channel 1 lies nowhere where channel 0 lies", channels=3)

    def test_notes_of_a_file_name_its_channel(self, files):
        sheared = np.eye(4)
        sheared[0, 1] = 0.2
        for file in files:
            save(file, affine=sheared)
        notes = plan_scan(files, ScanSpec(channels=3, channel_names=NAMES)).case.notes
        assert any(note.startswith("channel 1 (T1): its axes are not at right angles") for note in notes)
