"""Evaluation by MONAI's command, and its numbers made again by hand from files."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

CASES = ("phantom_004", "phantom_005")
LABELS = {1: "body", 2: "core"}
SHORT = {"members": 2, "num_steps": 2, "data_list_key": "validation"}


@pytest.fixture(scope="module")
def evaluation(fresh_command, bundle, phantom, tmp_path_factory):
    target = tmp_path_factory.mktemp("evaluation") / "eval"
    options = {
        "config_file": [bundle / f"configs/{name}.json" for name in ("inference", "evaluate")],
        "dataset_dir": phantom,
        "output_dir": target,
    }
    done = fresh_command("run", "evaluating", **options, **SHORT)
    assert done.code == 0, done
    return done, target


@pytest.fixture(scope="module")
def rows(evaluation):
    with (evaluation[1] / "evaluation_cases.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def inferred(command, bundle, phantom, tmp_path_factory):
    """The same cases as files."""
    target = tmp_path_factory.mktemp("inferred")
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": phantom, "output_dir": target}
    done = command("run", "inference", **options, **SHORT)
    assert done.code == 0, done
    return target


def test_files_and_table(evaluation):
    done, folder = evaluation
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation_cases.csv", "evaluation_summary.json"]
    for word in ("segmenter", "ensemble", "dice", "ece"):
        assert word in done.out.lower(), done


def test_every_case_has_rows_of_both_methods(rows):
    for method in ("segmenter", "ensemble"):
        for label in LABELS.values():
            assert [row["case"] for row in rows if (row["method"], row["label"]) == (method, label)] == list(CASES)


@pytest.mark.parametrize(("method", "name"), [("segmenter", "preseg"), ("ensemble", "seg")])
def test_dice_is_that_of_the_files(rows, inferred, phantom, method, name):
    for case in CASES:
        truth = np.asanyarray(nib.load(phantom / "labelsTr" / f"{case}.nii.gz").dataobj)
        found = np.asanyarray(nib.load(inferred / case / f"{case}_{name}.nii.gz").dataobj)
        for label, word in LABELS.items():
            a, b = truth == label, found == label
            expected = 2 * (a & b).sum() / (a.sum() + b.sum())
            (row,) = [row for row in rows if (row["case"], row["method"], row["label"]) == (case, method, word)]
            assert float(row["dice"]) == pytest.approx(expected, abs=1e-6)


def test_case_without_a_label_is_told(command, bundle, phantom, tmp_path):
    content = json.loads((phantom / "dataset.json").read_text())
    for entry in content["validation"]:
        del entry["label"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    options = {
        "config_file": [bundle / f"configs/{name}.json" for name in ("inference", "evaluate")],
        "output_dir": tmp_path / "eval",
    }
    done = command("run", "evaluating", **options, dataset_dir=tmp_path)
    assert done.error, done
    assert "without a label" in done.error


def test_the_phantoms_bundle_makes_its_scans_first(command, copy_bundle, tmp_path):
    bundle = copy_bundle()
    options = {"config_file": [bundle / f"configs/{name}.json" for name in ("inference", "evaluate")]}
    done = command("run", "evaluating", **options, output_dir=tmp_path, **SHORT | {"members": 1, "num_steps": 1})
    assert done.code == 0, done
    assert json.loads((tmp_path / "evaluation_summary.json").read_text(encoding="utf-8"))["cases"] == 12
