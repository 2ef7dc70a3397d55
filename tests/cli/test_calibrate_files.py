"""An ensemble from files: its statistics are those of the files, and new cases get calibrated maps and a page."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.verify import verify

from .conftest import SHAPE, a_label, an_image, change, write_scan

VALUES = (0, 2, 5)
NEW = ("new_0", "new_1")


def smoothed(label, seed, width=1.5):
    """Probabilities that fall off around moved boxes, (X, Y, Z, K)."""
    moved = np.roll(label, np.random.default_rng(seed).integers(-1, 2), axis=1)
    distance = [np.abs(np.indices(SHAPE)[1] - np.argwhere(moved == v)[:, 1].mean()) for v in VALUES[1:]]
    p = np.stack([(moved == v) * 0.8 + 0.1 / (1 + d / width) for v, d in zip(VALUES[1:], distance, strict=True)], -1)
    return np.concatenate([1 - p.sum(-1, keepdims=True), p], axis=-1).astype(np.float32)


@pytest.fixture
def files(decathlon, tmp_path):
    """Eight labeled cases, two new ones, and the probabilities of two networks for all of them."""
    root = decathlon(cases=8, values=VALUES, test=[f"imagesTs/{name}.nii.gz" for name in NEW])
    labels = {file.name: np.asarray(nib.load(file).dataobj) for file in (root / "labelsTr").iterdir()}
    for number, name in enumerate(NEW):
        labels[f"{name}.nii.gz"] = a_label(VALUES, number=number)
        write_scan(root / "imagesTs" / f"{name}.nii.gz", an_image(labels[f"{name}.nii.gz"], number))
    for network in range(2):
        for number, (name, label) in enumerate(sorted(labels.items())):
            write_scan(tmp_path / f"network_{network}" / name, smoothed(label, 10 * network + number))
    return root


@pytest.fixture
def run(files, tmp_path, capsys):
    """Run calibrate-files; return exit code and output."""

    def command(*folders, output="out"):
        words = [str(tmp_path / folder) for folder in folders or ("network_0", "network_1")]
        code = main(["calibrate-files", *words, "--dataset", str(files), "--output_dir", str(tmp_path / output)])
        return code, *capsys.readouterr()

    return command


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_maps_are_those_of_the_mean_of_the_files(run, tmp_path):
    code, _, err = run()
    assert code == 0, err
    calibration = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert calibration["fitted"]["cases"] == 8
    assert calibration["fitted"]["settings"] == {"time_steps": [], "presegmentation_weight": 0.0}
    given = [voxels(tmp_path / f"network_{n}" / "new_0.nii.gz") for n in range(2)]
    tempered = np.mean(given, axis=0) ** (1 / calibration["temperature"])
    tempered /= tempered.sum(axis=-1, keepdims=True)
    case = tmp_path / "out" / "new_0"
    assert np.allclose(voxels(case / "new_0_prob.nii.gz"), tempered, atol=1e-4)
    assert (voxels(case / "new_0_seg.nii.gz") == np.array(VALUES)[tempered.argmax(axis=-1)]).all()
    assert np.allclose(voxels(case / "new_0_variance.nii.gz"), np.var(given, axis=0)[..., 1:], atol=1e-4)
    members = np.stack([np.array(VALUES)[p.argmax(axis=-1)] for p in given], axis=-1)
    assert (voxels(case / "new_0_members.nii.gz") == members).all()
    report = json.loads((case / "new_0_report.json").read_text())
    assert report["settings"]["probabilities"] == [str(tmp_path / f"network_{n}") for n in range(2)]
    assert "interval_90" in report["result"]["volume_ml"]["a"]
    assert 'href="new_1/' in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    rows = (tmp_path / "out" / "evaluation_cases.csv").read_text().splitlines()
    assert sum(row.startswith("case_1,segmenter,near structure,") for row in rows) == 1
    assert sum(row.startswith("case_1,ensemble,near structure,") for row in rows) == 1
    verified = verify(tmp_path / "out")
    assert (verified.content["cases"], verified.problems) == (2, [])


def test_no_subject_is_split(run, files, tmp_path):
    training = change(files)["training"]
    entries = [entry | {"subject": f"s{number // 2}"} for number, entry in enumerate(training)]
    change(files, training=entries)
    code, _, err = run()
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "evaluation_summary.json").read_text())["subjects"] == 4
    change(files, training=[entry | {"subject": f"s{number // 4}"} for number, entry in enumerate(training)])
    code, _, err = run(output="other")  # without a subject's four cases, four are left
    assert code == 1
    assert "found 8 cases with a label, expected at least 9" in err


def test_only_a_new_or_empty_folder_is_written(run, tmp_path):
    for file in (tmp_path / "network_0").glob("new_*"):  # in the layout of this package's outputs
        case = tmp_path / "network_0" / file.name.removesuffix(".nii.gz")
        case.mkdir()
        file.rename(case / f"{case.name}_prob.nii.gz")
    before = {file: file.read_bytes() for file in (tmp_path / "network_0").rglob("*.nii.gz")}
    code, _, err = run(output="network_0")
    folder = tmp_path / "network_0"
    expected = f"error: {folder}: found files in it, expected a new or empty folder; give another --output_dir\n"
    assert (code, err) == (1, expected)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_one_folder_with_the_folds_of_a_network(run, tmp_path):
    for number, file in enumerate(sorted((tmp_path / "network_0").iterdir())):
        fold = tmp_path / "network_0" / f"fold_{number % 2}" / "validation"
        fold.mkdir(parents=True, exist_ok=True)
        file.rename(fold / file.name)
    code, _, err = run("network_0")
    assert code == 0, err
    assert not voxels(tmp_path / "out" / "new_0" / "new_0_variance.nii.gz").any()


def test_case_that_one_network_lacks(run, tmp_path):
    for name in ("new_0", "case_1"):
        (tmp_path / "network_1" / f"{name}.nii.gz").unlink()
    code, out, err = run()
    assert code == 1
    assert "warning: 1 labeled cases are left out, the first since" in out
    assert "7 cases" in out
    assert "error: 1 of 2 cases failed (new_0)" in err
    assert (tmp_path / "out" / "new_1" / "new_1_report.json").is_file()
    assert "found no pre-segmentation" in (tmp_path / "out" / "failures" / "new_0.json").read_text()


def test_too_few_labeled_cases(run, tmp_path):
    for file in (tmp_path / "network_0", tmp_path / "network_1"):
        for number in range(1, 5):
            (file / f"case_{number}.nii.gz").unlink()
    code, _, err = run()
    assert code == 1
    assert "found 4 labeled cases with probabilities of each network, expected at least 6" in err
    assert not (tmp_path / "out").exists()


def test_cases_of_one_name_and_a_folder_given_twice_are_refused(run, files, tmp_path):
    code, _, err = run("network_0", "network_0")
    assert (code, "expected each folder once" in err) == (1, True)
    entry = {"image": "other/case_1.nii.gz", "label": "labelsTr/case_1.nii.gz"}
    write_scan(files / "other" / "case_1.nii.gz", an_image(a_label(VALUES)))
    change(files, training=[*change(files)["training"], entry])
    code, _, err = run()
    assert (code, "both have the name 'case_1'" in err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_unlabeled_cases_are_named_and_unlabeled_voxels_left_out(run, files, tmp_path):
    content = change(files)
    for entry in content["training"][:-1]:
        label = np.asarray(nib.load(files / entry["label"]).dataobj).copy()
        label[:, :2] = 9
        write_scan(files / entry["label"], label)
    last = {"image": content["training"][-1]["image"]}
    change(files, labels=content["labels"] | {"9": "ignore"}, training=[*content["training"][:-1], last])
    code, out, err = run()
    assert code == 0, err
    assert "warning: no-label: case_7: no label map is listed" in out
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["fitted"]["cases"] == 7
