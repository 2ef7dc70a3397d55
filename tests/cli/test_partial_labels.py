"""Regions, voxels without a label and time series, from the data set to trained networks and reports."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.__main__ import main

from .conftest import a_label, an_image, config, run, shorten, write_scan

FEW = {"max_epochs": 1, "train::sampler::num_samples": 4}
LABELS = {"background": 0, "both": [1, 3], "core": 3, "ignore": 4}


def trained(dataset, place):
    words = ["boxes_segmentation", "--dataset", str(dataset), "--output_dir", str(place), "--memory", "8", "--quiet"]
    assert main(["create-bundle", *words]) == 0
    folder = place / "boxes_segmentation"
    for name in ("train_segmenter", "train"):
        run(folder, name, **FEW)
    run(folder, "inference", "evaluate", members=2, num_steps=1)
    return folder


def rows(folder):
    with (folder / "eval" / "evaluation_cases.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def partial(tmp_path):
    """Two boxes in nnU-Net's layout, two regions, and a slab without a label that covers a part of each box."""
    root = tmp_path / "Dataset001_Partial"
    for number in range(6):
        label = a_label((0, 1, 3), number=number)
        write_scan(root / "imagesTr" / f"box_{number}_0000.nii.gz", an_image(label, number))
        label[:, :6] = 4
        write_scan(root / "labelsTr" / f"box_{number}.nii.gz", label)
    content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 6}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_regions_and_voxels_without_a_label(partial, tmp_path, capsys):
    assert main(["check", str(partial)]) == 0
    folder = trained(partial, tmp_path / "b")
    assert config(folder, "train_segmenter")["loss"]["_target_"].endswith("PartialDiceCELoss")
    assert config(folder, "inference")["labels"] == {"0": "background", "1": "both 1", "2": "core"}
    found = {(row["method"], row["label"]): row for row in rows(folder) if row["case"] == "box_5"}
    label = np.asarray(nib.load(partial / "labelsTr" / "box_5.nii.gz").dataobj)
    for name, values in (("both 1", (1,)), ("core", (3,)), ("both", (1, 3))):
        expected = np.isin(label, values).sum() / 1000
        assert float(found["ensemble", name]["true_volume_ml"]) == pytest.approx(expected)
    run(folder, "inference", members=2, num_steps=1, data_list_key="validation")
    report = json.loads((folder / "output" / "box_5" / "box_5_report.json").read_text())
    volumes = {name: volume["segmentation"] for name, volume in report["result"]["volume_ml"].items()}
    assert volumes["both"] == pytest.approx(volumes["both 1"] + volumes["core"], abs=2e-4)
    assert set(report["result"]["structures"]) == {"both 1", "core", "both"}
    seg = np.asarray(nib.load(folder / "output" / "box_5" / "box_5_seg.nii.gz").dataobj)
    assert set(np.unique(seg)) <= {0, 1, 3}


@pytest.mark.slow
def test_frames_are_cases_of_one_subject(series, tmp_path):
    assert main(["check", str(series)]) == 1  # the scans are alike
    folder = trained(series, tmp_path / "b")
    assert config(folder, "train")["scan"]["fourth_dimension"] == "time"
    assert {row["case"] for row in rows(folder)} == {"heart_2 frame 0", "heart_2 frame 1"}
    truth = {row["case"]: float(row["true_volume_ml"]) for row in rows(folder) if row["label"] == "box"}
    assert truth == pytest.approx({f"heart_2 frame {n}": a_label((0, 1), number=n).sum() / 1000 for n in range(2)})
    run(folder, "inference", members=2, num_steps=1, dataset_dir=str(series / "imagesTr" / "heart_2.nii.gz"))
    assert nib.load(folder / "output" / "heart_2" / "heart_2_seg.nii.gz").shape == (20, 24, 16, 2)
    shorten(folder)
    assert main(["train-folds", str(folder), "--folds", "2", "--max_epochs", "1", "--quiet"]) == 0
    folds = folder / "runs" / "folds"
    out_of_fold = sorted(file.relative_to(folds).as_posix() for file in folds.rglob("*frame*"))
    expected = [f"fold_{n}/validation/heart_{n} frame {frame}.nii.gz" for n in range(2) for frame in range(2)]
    assert out_of_fold == [*expected, *(f"heart_2 frame {frame}.nii.gz" for frame in range(2))]
    run(folder, "train", **FEW, presegmentation_dir=str(folds), resume=False)
    more = {"presegmentation_dir": str(folds), "output_dir": str(tmp_path / "again")}
    run(folder, "inference", "evaluate", members=2, num_steps=1, **more)
    with (tmp_path / "again" / "evaluation_cases.csv").open(encoding="utf-8") as file:
        found = {r["case"]: float(r["dice"]) for r in csv.DictReader(file) if r["method"] == "segmenter" and r["dice"]}
    for frame in range(2):
        given = np.asarray(nib.load(folds / f"heart_2 frame {frame}.nii.gz").dataobj).argmax(axis=-1)
        label = a_label((0, 1), number=frame)
        dice = 2 * (given & label).sum() / (given.sum() + label.sum())
        assert found[f"heart_2 frame {frame}"] == pytest.approx(dice, abs=2e-3)
