"""A data set as BraTS has it (nnU-Net's layout, two channels, labels 0, 1, 2, 4), from its files to its results."""

import csv
import json
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.__main__ import main
from monai_pdddpm.transforms import SaveImageMapsd

pytestmark = pytest.mark.slow

LABELS = {0: "background", 1: "necrosis", 2: "edema", 4: "enhancing"}
SHORT = {"max_epochs": 3, "val_interval": 3, "batch_size": 2, "roi_size": [24, 24, 16], "learning_rate": 0.003}


def write_scan(folder, name, number, affine):
    """Write two channels; the label map has a box of each value, of another brightness in each channel."""
    rng = np.random.default_rng(number)
    label = np.zeros((26, 24, 16), np.uint8)
    for index, value in enumerate((1, 2, 4)):
        label[2 + 8 * index : 8 + 8 * index, 4 + number % 3 : 16 + number % 3, 3:13] = value
    for channel, brightness in enumerate(((0, 300, 0, 0, 600), (0, 0, 400, 0, 400))):
        image = rng.normal(100, 10, label.shape) + np.array(brightness)[label]
        file = folder / f"images{name}" / f"BraTS_{number:03d}_{channel:04d}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), file)
    return label


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("Dataset001_BraTS")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    (root / "labelsTr").mkdir()
    for number in range(6):
        label = write_scan(root, "Tr", number, affine)
        nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / f"BraTS_{number:03d}.nii.gz")
    truth = {f"BraTS_{number:03d}": write_scan(root, "Ts", number, affine) for number in (10, 11)}
    content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "file_ending": ".nii.gz", "numTraining": 6}
    content["labels"] = {name: value for value, name in LABELS.items()}
    (root / "dataset.json").write_text(json.dumps(content))
    return root, truth


@pytest.fixture(scope="module")
def results(command, data, tmp_path_factory):
    root, _ = data
    place = tmp_path_factory.mktemp("bundles")
    assert main(["create-bundle", "brats_segmentation", "--dataset", str(root), "--output_dir", str(place)]) == 0
    bundle = place / "brats_segmentation"
    configs = bundle / "configs"
    for name in ("train_segmenter", "train"):
        done = command("run", "training", config_file=configs / f"{name}.json", **SHORT)
        assert done.code == 0, done
    output = place / "output"
    options = {"config_file": configs / "inference.json", "roi_size": [24, 24, 16], "members": 2}
    done = command("run", "inference", dataset_dir=root / "imagesTs", output_dir=output, **options)
    assert done.code == 0, done
    return bundle, output, done


def test_each_scan_has_its_name_and_the_values_of_the_data_set(data, results):
    _, truth = data
    _, output, done = results
    assert "2 cases: 2 done, 0 failed, 0 finished before" in done.out
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == sorted(truth)
    for case, label in truth.items():
        seg = np.asanyarray(nib.load(output / case / f"{case}_seg.nii.gz").dataobj)
        assert set(np.unique(seg)) <= set(LABELS)
        for value in (1, 2, 4):
            dice = 2 * ((seg == value) & (label == value)).sum() / ((seg == value).sum() + (label == value).sum())
            assert dice > 0.7, (case, value, dice)


def test_values_in_report_files_and_card(data, results, capsys):
    _, truth = data
    bundle, output, _ = results
    named = {name: value for value, name in LABELS.items() if value}
    for case, label in truth.items():
        folder = output / case
        report = json.loads((folder / f"{case}_report.json").read_text(encoding="utf-8"))
        assert [file[-11:] for file in report["image"]] == ["0000.nii.gz", "0001.nii.gz"]
        assert report["labels"] == {str(value): name for name, value in named.items()}
        seg = np.asanyarray(nib.load(folder / f"{case}_seg.nii.gz").dataobj)
        for name, value in named.items():
            assert report["result"]["volume_ml"][name]["segmentation"] == pytest.approx((seg == value).sum() / 1000)
            truly = (label == value).sum() / 1000
            assert report["result"]["volume_ml"][name]["segmentation"] == pytest.approx(truly, rel=0.5)
        for table in folder.glob("*.ctbl"):
            rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]
            colored = {int(row[0]): row[1] for row in rows if int(row[0])}
            assert colored == {value: name for name, value in named.items()}
    if (output / "cases.csv").is_file():
        rows = list(csv.DictReader((output / "cases.csv").open(encoding="utf-8-sig")))
        assert [row["case"] for row in rows] == sorted(truth)
    assert main(["info", str(bundle)]) == 0
    assert "labels: 0 background, 1 necrosis, 2 edema, 4 enhancing" in capsys.readouterr().out
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert "Labels: 0 background, 1 necrosis, 2 edema, 4 enhancing." in card
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["label_classes"] == "0 background, 1 necrosis, 2 edema, 4 enhancing"
    assert metadata["network_data_format"]["post_processed_outputs"]["seg"]["value_range"] == [0, 4]


def test_the_data_set_itself_as_input(command, data, results, tmp_path):
    root, truth = data
    bundle, _, _ = results
    options = {"config_file": bundle / "configs" / "inference.json", "roi_size": [24, 24, 16], "members": 1}
    done = command("run", "inference", dataset_dir=root, output_dir=tmp_path / "out", num_steps=1, **options)
    assert done.code == 0, done
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == sorted(truth)
    (run,) = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["runs"]
    assert run["input"]["cases"] == 2
    assert len(run["input"]["unused"]) == 6 * 3  # what is there for training


def test_all_maps_of_a_full_scan_are_small(tmp_path):
    size, members = (240, 240, 155), 8
    axes = [np.linspace(-n / 2, n / 2, n, dtype=np.float32) for n in size]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))  # mm from the center
    inside = [np.ones(size, np.float32), *(1 / (1 + np.exp((distance - r) / 2)) for r in (45, 35, 25, 15)), 0]
    prob = np.stack([whole - part for whole, part in pairwise(inside)])
    rng = np.random.default_rng(0)
    brain = distance < 75
    prob[:, brain] += rng.uniform(0, 1e-3, (5, brain.sum()))  # what networks leave there
    prob[:, ~brain] = np.array([1, 0, 0, 0, 0])[:, None]
    prob /= prob.sum(axis=0)
    entropy = -(prob * np.log(prob + 1e-9)).sum(axis=0, keepdims=True)
    label = prob.argmax(axis=0)[None]
    drawn = [np.where(entropy[0] > rng.uniform(0, 1.5, size), (label[0] + 1) % 5, label[0]) for _ in range(members)]
    maps = {"seg": label, "prob": prob, "entropy": entropy, "mutual_information": entropy / 2, "preseg_seg": label}
    maps |= {"members": np.stack(drawn), "variance": prob[1:] * (1 - prob[1:]) / 2}
    meta = {"affine": torch.eye(4), "filename_or_obj": "scan.nii.gz"}
    tensors = {
        key: MetaTensor(torch.from_numpy(np.ascontiguousarray(values)), meta=meta) for key, values in maps.items()
    }
    save = SaveImageMapsd(tmp_path, {str(index): f"label {index}" for index in range(5)})
    save(tensors | {"image": tensors["seg"]})
    files = list((tmp_path / "scan").iterdir())
    assert len(files) == len(maps)
    assert sum(file.stat().st_size for file in files) < 40e6
