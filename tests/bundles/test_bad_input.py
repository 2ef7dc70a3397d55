"""What cannot work is told in one line, and what can work is done all the same."""

import gzip
import json
import pickle
import re
import shutil
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

BAD = {
    "text": "cannot be read as an image",
    "truncated": "cut short|cannot be read",
    "cifti": "found a CIFTI file",
    "five_axes": "24 x 24 x 24 x 4 x 2",
    "flat": "24 x 24",
    "some_nan": "1 of 13824 voxels are not finite",
    "all_nan": "none of its voxels is finite",
    "empty": "empty file",
    "constant": "every voxel is 7",
    "no_affine": "affine",
}


def save_cifti(path):
    axes = [nib.cifti2.ScalarAxis(["a"]), nib.cifti2.BrainModelAxis.from_mask(np.ones(5, bool), name="cortex_left")]
    nib.save(nib.Cifti2Image(np.zeros((1, 5), np.float32), axes), path)


@pytest.fixture(scope="module")
def folder(phantom, tmp_path_factory):
    """A good scan, last in the alphabet, among bad ones."""
    target = tmp_path_factory.mktemp("bad")
    good = nib.load(phantom / "imagesTs" / "phantom_006.nii.gz")
    voxels = np.asanyarray(good.dataobj)
    nib.save(good, target / "well.nii.gz")
    whole = (target / "well.nii.gz").read_bytes()

    def save(name, array, affine=good.affine):
        nib.save(nib.Nifti1Image(array, affine), target / f"{name}.nii.gz")

    (target / "text.nii.gz").write_text("patient 17, second visit\n" * 20)
    (target / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    save_cifti(target / "cifti.dscalar.nii")
    (target / "cifti.nii.gz").write_bytes(gzip.compress((target / "cifti.dscalar.nii").read_bytes()))
    (target / "cifti.dscalar.nii").unlink()
    save("five_axes", np.stack([np.stack([voxels] * 4, -1)] * 2, -1))
    save("flat", voxels[..., 0])
    with_nan = voxels.copy()
    with_nan[3, 4, 5] = np.nan
    save("some_nan", with_nan)
    save("all_nan", np.full_like(voxels, np.nan))
    (target / "empty.nii.gz").write_bytes(b"")
    save("constant", np.full_like(voxels, 7))
    singular = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.0, 1.0]))
    singular.header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
    nib.save(nib.Nifti1Image(voxels, None, singular.header), target / "no_affine.nii.gz")
    return target


@pytest.fixture(scope="module")
def mixed(fresh_command, bundle, folder, tmp_path_factory):
    """The run over the whole folder, and where it wrote."""
    target = tmp_path_factory.mktemp("mixed") / "output"
    options = {"config_file": bundle / "configs" / "inference.json", "members": 1, "num_steps": 1}
    return fresh_command("run", "inference", **options, dataset_dir=folder, output_dir=target), target


def test_good_scan_is_finished_and_bad_ones_leave_a_note_alone(mixed):
    _, output = mixed
    assert sorted(path.name for path in output.iterdir()) == ["cases.csv", "failures", "index.html", "run.json", "well"]
    assert (output / "well" / "well_report.json").is_file()
    assert len(list((output / "well").iterdir())) == 12 + bool(find_spec("ipyniivue"))  # with a viewer page


def test_bad_scans_are_noted_and_on_the_page(mixed):
    _, output = mixed
    assert {path.stem for path in (output / "failures").iterdir()} == set(BAD)
    page = (output / "index.html").read_text(encoding="utf-8")
    assert f"{len(BAD)} failed" in page
    assert all(f'data-value="{name}">{name}</td>' in page for name in BAD)


def test_run_ends_with_one_line_and_no_traceback(mixed):
    done, _ = mixed
    assert done.error, done
    assert f"{len(BAD)} of {len(BAD) + 1} cases failed" in done.error


@pytest.mark.parametrize("name", BAD)
def test_bad_scan_is_named_on_one_line_that_says_why(mixed, folder, name):
    done, _ = mixed
    file = str(folder / f"{name}.nii.gz")
    lines = [line for line in (done.out + done.err).splitlines() if file in line and not line.startswith("error: ")]
    assert len(lines) == 1, done
    assert any(reason in lines[0] for reason in BAD[name].split("|")), lines[0]


@pytest.mark.parametrize("kind", ["listed", "linked"])
def test_missing_file_does_not_stop_the_others(command, bundle, phantom, tmp_path, kind):
    data = tmp_path / "data"
    shutil.copytree(phantom if kind == "listed" else phantom / "imagesTs", data)
    missing = data / ("imagesTs" if kind == "listed" else "") / "phantom_007.nii.gz"
    missing.unlink()
    if kind == "linked":
        missing.symlink_to(tmp_path / "gone.nii.gz")
    options = {"config_file": bundle / "configs" / "inference.json", "output_dir": tmp_path / "output"}
    done = command("run", "inference", **options, dataset_dir=data, members=1, num_steps=1)
    assert done.error, done
    assert "1 of " in done.error
    assert f"{missing}: does not exist" in done.out + done.err
    finished = [path.parent.name for path in (tmp_path / "output").glob("*/*_report.json")]
    assert finished
    assert "phantom_007" not in finished


def test_unreadable_scan_in_training_is_told_on_one_line(command, bundle, phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    bad = tmp_path / "data" / "imagesTr" / "phantom_001.nii.gz"
    bad.write_bytes(bad.read_bytes()[:1000])
    options = {"config_file": bundle / "configs" / "train_segmenter.json", "output_dir": tmp_path / "o"}
    done = command("run", "training", **options, dataset_dir=tmp_path / "data")
    assert done.error, done
    assert str(bad) in done.error
    assert "cannot be read as an image" in done.error


@pytest.fixture(scope="module")
def strange_label(phantom, tmp_path_factory):
    """A data set in which one label map to train on and one to validate on hold a 9."""
    folder = shutil.copytree(phantom, tmp_path_factory.mktemp("strange") / "data")
    for case in ("phantom_001", "phantom_004"):
        image = nib.load(folder / "labelsTr" / f"{case}.nii.gz")
        voxels = np.array(image.dataobj)
        voxels[0, 0, 0] = 9
        nib.save(nib.Nifti1Image(voxels, image.affine), folder / "labelsTr" / f"{case}.nii.gz")
    return folder


@pytest.mark.parametrize("stage", ["train_segmenter", "train"])
def test_value_that_is_no_class_stops_the_training(command, bundle, strange_label, tmp_path, stage):
    options = {"config_file": bundle / "configs" / f"{stage}.json", "output_dir": tmp_path / "o"}
    done = command("run", "training", **options, dataset_dir=strange_label)
    assert done.error, done
    file = re.escape(f"{strange_label}/labelsTr/")  # the one to validate on is read first
    told = rf"error: {file}phantom_00[14]\.nii\.gz: found the label values 9, expected whole numbers from 0 to 2; fix"
    assert re.match(told, done.error)
    assert not list(tmp_path.rglob("*.pt"))  # nothing was learnt from it


def test_value_that_is_no_class_stops_one_case_of_an_evaluation(command, bundle, strange_label, tmp_path):
    options = {
        "config_file": [bundle / f"configs/{name}.json" for name in ("inference", "evaluate")],
        "output_dir": tmp_path,
        "members": 2,
        "num_steps": 1,
    }
    done = command("run", "evaluating", **options, dataset_dir=strange_label)
    assert done.error, done
    assert "1 of 2 cases failed (phantom_004)" in done.error
    assert f"{strange_label}/labelsTr/phantom_004.nii.gz: found the label values 9" in done.out
    rows = (tmp_path / "evaluation_cases.csv").read_text(encoding="utf-8")
    assert "phantom_005" in rows
    assert "phantom_004" not in rows


class Payload:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def wrong(phantom, tmp_path_factory):
    """Files that are not what they should be, by name."""
    target = tmp_path_factory.mktemp("wrong")
    (target / "empty").mkdir()
    (target / "file").write_text("")
    (target / "text.pt").write_text("weights, honestly")
    torch.save({"model": {"conv.weight": torch.zeros(2, 2)}}, target / "other_network.pt")
    torch.save({"model": {"weight": Payload(target / "executed")}}, target / "payload.pt")
    (target / "plain_pickle.pt").write_bytes(pickle.dumps(Payload(target / "executed")))
    (target / "dataset").mkdir()
    (target / "dataset" / "dataset.json").write_text('{"test": [')
    (target / "outside").mkdir()
    (target / "outside" / "dataset.json").write_text(json.dumps({"test": ["../secret.nii.gz"]}))
    return target


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("dataset_dir", "{wrong}/no/such/scans", "no/such/scans: does not exist"),
        ("dataset_dir", "{wrong}/empty", "empty: no scan found"),
        ("dataset_dir", "{wrong}/file", "file: not a scan by its name"),
        ("dataset_dir", "{wrong}/dataset", "dataset.json: not valid JSON"),
        ("dataset_dir", "{wrong}/outside", "leaves the folder"),
        ("data_list_key", "tests", "data_list_key: found 'tests'"),
        ("model_file", "{wrong}/none.pt", "none.pt, expected weights"),
        ("model_file", "{wrong}/other_network.pt", "weights of another network"),
        ("model_file", "{wrong}/payload.pt", "cannot be read as weights"),
        ("model_file", "{wrong}/plain_pickle.pt", "cannot be read as weights"),
        ("model_file", "{wrong}/text.pt", "cannot be read as weights"),
        ("output_dir", "{wrong}/file", "file: cannot be written to"),
        ("output_dir", "{wrong}/file/below", "below: cannot be written to"),
        ("members", "eight", "members: found 'eight'"),
        ("start_step", 1001, "start_step: found 1001, expected a whole number from 0 to 1000"),
        ("end_step", 1000, "end_step: found 1000, expected a whole number from 0 to 999"),
        ("end_share", 0.6, "end_share: found a key of version 0.1, expected 'end_step'"),
        ("device", "cuda:7", "device: found 'cuda:7', expected a device of this computer, which has no CUDA device"),
        ("device", "gpu", "device: found 'gpu'"),
        ("precision", "float8", "precision: found 'float8'"),
        ("precision", "float16", "float16"),
        ("training_process", "magic", "training_process: found 'magic'"),
        ("inferer#overlap", 1, "overlap: found 1, expected a number from 0 to below 1"),
    ],
)
def test_setting_that_cannot_work_is_told_before_any_scan_is_read(
    command, bundle, folder, wrong, tmp_path, key, value, told
):
    # the folder's bad scans would be reported if they were read
    options = {
        "config_file": bundle / "configs" / "inference.json",
        "dataset_dir": folder,
        "output_dir": tmp_path / "o",
    }
    done = command("run", "inference", **options | {key: str(value).format(wrong=wrong)})
    assert done.error, done
    assert told in done.error
    assert "failed" not in done.out + done.err
    assert not (tmp_path / "o").exists()
    assert not (wrong / "executed").exists()
    assert not (wrong / "no").exists()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("max_epochs", 0, "max_epochs: found 0"),
        ("fold", 2, "fold: found 2"),
        ("device", "cuda:7", "device: found 'cuda:7'"),
        ("dataset_dir", "{wrong}/no/such/scans", "no/such/scans: not a folder"),
    ],
)
def test_setting_that_cannot_work_in_training(command, bundle, phantom, wrong, tmp_path, key, value, told):
    config = bundle / "configs" / "train_segmenter.json"
    options = {"config_file": config, "dataset_dir": phantom, "output_dir": tmp_path / "o", "folds": 2}
    done = command("run", "training", **options | {key: str(value).format(wrong=wrong)})
    assert done.error, done
    assert told in done.error
    assert not list(tmp_path.glob("o/*.pt"))
    assert not (wrong / "no").exists()
