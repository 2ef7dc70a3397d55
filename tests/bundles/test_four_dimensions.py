"""A fourth dimension through the bundles' own command: frames of the phantom, modalities of the lesion bundle."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_pdddpm.data.phantom_distribution import make_phantom_scan, phantom_affine

pytestmark = pytest.mark.slow

FRAMES, MEMBERS, SIZE = 3, 2, (32, 36, 30)


def save(path, array, seconds=None):
    image = nib.Nifti1Image(array, phantom_affine())
    image.header.set_xyzt_units("mm", None if seconds is None else "msec")
    if seconds is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], seconds))
        image.header["toffset"] = 7.5
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


@pytest.fixture(scope="module")
def frames():
    return [make_phantom_scan(SIZE, seed=number).image for number in range(FRAMES)]


@pytest.fixture(scope="module")
def results(frames, command, bundle, tmp_path_factory):
    """The folder with the results of a series, of its first frame as a series, and of each frame alone.

    All have the same case name, because the noise depends on it.
    """
    folder = tmp_path_factory.mktemp("series")
    save(folder / "scans" / "series" / "beating.nii.gz", np.stack(frames, -1), seconds=40.0)
    save(folder / "scans" / "one_frame" / "beating.nii.gz", frames[0][..., None], seconds=40.0)
    for number, frame in enumerate(frames):
        save(folder / "scans" / f"frame{number}" / "beating.nii.gz", frame)
    for scans in (folder / "scans").iterdir():
        options = {"members": MEMBERS, "num_steps": 2, "dataset_dir": scans, "output_dir": folder / scans.name}
        done = command("run", "inference", config_file=bundle / "configs" / "inference.json", **options)
        assert done.code == 0, done
    return folder


def read(folder, case, name):
    image = nib.load(folder / case / f"{case}_{name}.nii.gz")
    return image, np.asanyarray(image.dataobj)


SHAPES = {
    "seg": (),
    "entropy": (),
    "mutual-information": (),
    "preseg": (),
    "prob": (3,),
    "variance": (2,),
    "members": (MEMBERS,),
}


@pytest.mark.parametrize("name", SHAPES)
def test_series_is_its_frames_one_by_one(results, name):
    _, together = read(results / "series", "beating", name)
    assert together.shape == (*SIZE, FRAMES, *SHAPES[name])
    for number in range(FRAMES):
        _, alone = read(results / f"frame{number}", "beating", name)
        assert np.array_equal(together[:, :, :, number], alone), number


@pytest.mark.parametrize("name", SHAPES)
def test_time_axis_is_kept(results, name):
    image, _ = read(results / "series", "beating", name)
    assert image.header["pixdim"][4] == 40.0
    assert image.header["toffset"] == 7.5
    assert image.header.get_xyzt_units() == ("mm", "msec")


def test_one_frame_is_a_scan(results):
    _, one = read(results / "one_frame", "beating", "prob")
    _, scan = read(results / "frame0", "beating", "prob")
    assert np.array_equal(one, scan)


def test_itk_reads_the_frames_where_they_are(results):
    image = sitk.ReadImage(str(results / "series" / "beating" / "beating_seg.nii.gz"))
    assert image.GetDimension() == 4
    assert image.GetSize() == (*SIZE, FRAMES)
    assert image.GetNumberOfComponentsPerPixel() == 1
    one = sitk.ReadImage(str(results / "frame1" / "beating" / "beating_seg.nii.gz"))
    assert image.GetSpacing()[3] == pytest.approx(0.04)  # in seconds
    assert image.GetOrigin()[:3] == pytest.approx(one.GetOrigin())
    found = sitk.GetArrayFromImage(image)[1]
    assert np.array_equal(found, sitk.GetArrayFromImage(one))


def test_report_has_each_frame_s_numbers(results):
    def read_report(run):
        return json.loads((results / run / "beating" / "beating_report.json").read_text(encoding="utf-8"))

    report = read_report("series")
    assert report["inference"]["frames"] == FRAMES
    assert report["inference"]["windows_run"] + report["inference"]["windows_skipped"] == FRAMES
    for number, result in enumerate(report["result"]["frames"]):
        assert result == read_report(f"frame{number}")["result"]


class TestChannels:
    NAMES = ("flair", "t1", "t1c", "t2")

    @pytest.fixture(scope="class")
    def modalities(self):
        rng = np.random.default_rng(0)
        x = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 70, 66)), indexing="ij"))
        brain = (np.linalg.norm(x, axis=0) < 0.9) * (200 + 20 * rng.standard_normal((4, 64, 70, 66)))
        lesion = np.linalg.norm(x - 0.2, axis=0) < 0.1
        return [
            (channel + factor * 100 * lesion).astype(np.int16)
            for channel, factor in zip(brain, (2, -1, 0, 1), strict=True)
        ]

    @pytest.fixture(scope="class")
    def output(self, modalities, copy_bundle, command, tmp_path_factory):
        folder = tmp_path_factory.mktemp("channels")
        bundle = copy_bundle("ms_lesion_mri_segmentation")
        data = folder / "data"
        save(data / "four.nii.gz", np.stack(modalities, -1))
        # of the same name as the list, because the noise depends on it
        save(folder / "stacked" / "list_flair.nii.gz", np.stack(modalities, -1))
        for name, volume in zip(self.NAMES, modalities, strict=True):
            save(data / f"list_{name}.nii.gz", volume)
        save(data / "without_t1.nii.gz", modalities[1])  # named after the first file that is there
        save(data / "mixed_flair.nii.gz", modalities[0])
        half = modalities[3][::2, ::2, ::2]
        affine = phantom_affine((2.0, 2.0, 2.0))
        affine[:3, 3] = phantom_affine()[:3, 3]
        nib.save(nib.Nifti1Image(half, affine), data / "coarse_t2.nii.gz")
        files = [f"list_{name}.nii.gz" for name in self.NAMES]
        entries = [{"image": files}, "four.nii.gz", {"image": ["gone_flair.nii.gz", "without_t1.nii.gz", *files[2:]]}]
        entries.append({"image": ["mixed_flair.nii.gz", *files[1:3], "coarse_t2.nii.gz"]})
        (data / "dataset.json").write_text(json.dumps({"test": entries}))
        options = {
            "members": 2,
            "num_steps": 1,
            "config_file": bundle / "configs" / "inference.json",
        }
        stacked = {"dataset_dir": folder / "stacked", "output_dir": folder / "out_stacked"}
        done = command("run", "inference", **stacked, **options)
        assert done.code == 0, done
        options["dataset_dir"] = data
        strict = command("run", "inference", output_dir=folder / "out", **options)
        lenient = command("run", "inference", output_dir=folder / "zero", missing_channels="zero", **options)
        return folder, strict, lenient

    def report(self, folder, case):
        return json.loads((folder / case / f"{case}_report.json").read_text(encoding="utf-8"))

    def test_a_list_of_files_is_the_4d_image(self, output):
        folder, *_ = output
        for name in ("seg", "prob", "members"):
            _, four = read(folder / "out_stacked", "list_flair", name)
            _, listed = read(folder / "out", "list_flair", name)
            assert np.array_equal(four, listed), name

    def test_a_missing_modality_is_one_clear_error_and_the_others_are_done(self, output):
        folder, strict, _ = output
        assert strict.error is not None, strict
        (reason,) = {line for line in strict.out.splitlines() if "--missing_channels zero" in line}
        assert "FLAIR" in reason
        done = sorted(path.parent.name for path in (folder / "out").glob("*/*_report.json"))
        assert done == ["four", "list_flair", "mixed_flair"]

    def test_zeros_in_its_place_are_reported(self, output):
        folder, _, lenient = output
        assert lenient.code == 0, lenient
        (note,) = self.report(folder / "zero", "without_t1")["notes"]
        assert "FLAIR" in note
        assert "zeros" in note
        assert self.report(folder / "zero", "four")["notes"] == []

    def test_another_grid_is_resampled_and_reported(self, output):
        folder, *_ = output
        notes = self.report(folder / "out", "mixed_flair")["notes"]
        assert any("coarse_t2" in note or "T2" in note for note in notes), notes
        _, seg = read(folder / "out", "mixed_flair", "seg")
        assert seg.shape == (64, 70, 66)
