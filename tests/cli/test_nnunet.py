"""nnU-Net trains two folds for one short epoch; its files become a bundle, and an ensemble without training.

nnU-Net has an environment of its own, which sees the packages of this one, so that only what it adds is installed.
"""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_pdddpm.__main__ import main
from monai_pdddpm.data import write_phantom

from .conftest import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "hippocampus"
PAGE = (ROOT / "docs" / "how-to" / "existing-segmenter.md").read_text(encoding="utf-8")
# nnU-Net's own command, with a small network that sees a few batches
TRAIN = """
import torch
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

initialize = nnUNetTrainer.initialize

def short(trainer):
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 6, 1
    initialize(trainer)

if __name__ == "__main__":
    nnUNetTrainer.initialize = short
    run_training_entry()
"""


def documented(start, **places):
    """Return the words of the command of the page that begins so, with its places filled in."""
    line = next(line for line in PAGE.splitlines() if line.startswith(start))
    for name, value in places.items():
        assert name in line, line
        line = line.replace(name, str(value))
    return shlex.split(line)


def add_case(root, split, name, image, label=None):
    for folder, file, end in (("images", image, "_0000"), ("labels", label, "")):
        if file is not None:
            target = root / f"{folder}{split}" / f"{name}{end}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


@pytest.fixture
def no_measurement():
    """Let create-bundle measure time and memory, unlike in the other tests."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets in nnU-Net's layout: eight cases to train on; six further labeled cases and two new ones.

    They are hippocampi of the Medical Segmentation Decathlon where these are at hand, else phantoms.
    """
    root = tmp_path_factory.mktemp("nnunet")
    source = HIPPOCAMPUS
    if not source.is_dir():
        few = {"train": 8, "validation": 8, "test": 0, "annotations": 1}
        shape = {"size": (32, 32, 32), "spacing": (1.5, 1.5, 1.5)}
        source = write_phantom(root / "phantom", **few, **shape, seed=3)
    listed = json.loads((source / "dataset.json").read_text())
    labels = {name: int(value) for value, name in listed["labels"].items()}
    content = {"channel_names": listed["modality"], "labels": labels, "file_ending": ".nii.gz"}
    trained, other = root / "raw" / "Dataset001_Name", root / "my_data"
    for place, key, entries in ((trained, "training", 8), (other, "validation", 8)):
        for number, entry in enumerate(listed[key][:entries]):
            name = f"test_{number - 6}" if (new := key == "validation" and number >= 6) else f"{key}_{number}"
            add_case(
                place, "Ts" if new else "Tr", name, source / entry["image"], None if new else source / entry["label"]
            )
        (place / "dataset.json").write_text(json.dumps(content | {"numTraining": len(list(place.glob("labelsTr/*")))}))
    (root / "my_scans").mkdir()
    for file in other.glob("images*/*"):
        shutil.copy(file, root / "my_scans")
    return root


@pytest.fixture(scope="module")
def nnunet(data):
    """Run a program of nnU-Net's environment."""
    folder = data / "environment"
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"])
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "nnunetv2>=2.6", f"torch=={torch.__version__}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install nnunetv2: {done.stderr.strip().splitlines()[-1]}")
    (data / "train.py").write_text(TRAIN)
    places = {name: str(data / name.removeprefix("nnUNet_")) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    few = dict.fromkeys(("nnUNet_def_n_proc", "OMP_NUM_THREADS"), "1")
    environment = os.environ | places | few | {"nnUNet_results": str(data / "results"), "nnUNet_compile": "F"}
    environment.pop("PYTHONPATH", None)

    def run(program, *words, **more):
        command = [str(folder / "bin" / program), *map(str, words)]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False, cwd=data)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    return run


@pytest.fixture(scope="module")
def trained(nnunet, data):
    """The results folder of two folds with the probabilities of their validation cases."""
    prepared = data / "preprocessed" / "Dataset001_Name"
    prepared.mkdir(parents=True)
    names = [f"training_{number}" for number in range(8)]
    splits = [{"train": names[4:], "val": names[:4]}, {"train": names[:4], "val": names[4:]}]
    (prepared / "splits_final.json").write_text(json.dumps(splits))
    plan = ["-np", 1, "-npfp", 1, "-gpu_memory_target", 2]
    nnunet(*documented("nnUNetv2_plan_and_preprocess"), *plan, nnUNet_n_proc_DA="1")
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8] * len(network["features_per_stage"])
    (prepared / "nnUNetPlans.json").write_text(json.dumps(plans))
    for fold in range(2):
        _, *words = documented(f"nnUNetv2_train 1 3d_fullres {fold}")
        nnunet("python", "train.py", *words, "-device", "cpu", nnUNet_n_proc_DA="0")
    return data / "results" / "Dataset001_Name" / "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def predicted(nnunet, trained, data):
    """A folder for each fold with its probabilities of the other data set's scans."""
    folders = [data / f"predictions_{fold}" for fold in range(2)]
    for fold, folder in enumerate(folders):
        places = {"$nnUNet_results": data / "results", "my_presegmentations": folder, " -f 0 1 ": f" -f {fold} "}
        words = documented("nnUNetv2_predict_from_modelfolder", **places)
        nnunet(*words, "-device", "cpu", "--disable_tta", "-npp", 1, "-nps", 1)
    return folders


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_bundle_of_a_trained_nnunet(trained, predicted, data, monkeypatch):
    monkeypatch.chdir(data)
    places = {"$nnUNet_raw": data / "raw", "$nnUNet_results": data / "results"}
    _, _, _, *words = documented("python -m monai_pdddpm create-bundle my_segmentation --dataset $nnUNet_raw", **places)
    assert main([*words, "--memory", "8"]) == 0
    folder = data / "bundles" / "my_segmentation"

    run(folder, "train", max_epochs=1, **{"train::sampler::num_samples": 4})
    short = {"members": 2, "num_steps": 1}
    run(folder, "inference", "evaluate", **short)
    with (folder / "eval" / "evaluation_cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = next(file for file in trained.glob(f"fold_*/validation/{rows[0]['case']}.nii.gz"))
    truth = voxels(data / "raw" / "Dataset001_Name" / "labelsTr" / written.name)
    names = json.loads((folder / "configs" / "inference.json").read_text())["labels"]
    for value, name in list(enumerate(names.values()))[1:]:  # the evaluated segmenter is nnU-Net
        row = next(row for row in rows if (row["method"], row["label"]) == ("segmenter", name))
        mine, theirs = voxels(written) == value, truth == value
        assert float(row["dice"]) == pytest.approx(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()), abs=2e-3)
    run(folder, "inference", **short, dataset_dir=str(data / "my_scans"), presegmentation_dir=str(predicted[0]))
    for case in ("test_0", "test_1"):
        given = voxels(predicted[0] / f"{case}.nii.gz")
        assert (voxels(folder / "output" / case / f"{case}_preseg.nii.gz") == given).mean() > 0.999  # ties


def test_calibrated_ensemble_of_two_folds(predicted, data, monkeypatch):
    monkeypatch.chdir(data)
    places = {"predictions_1": predicted[0].name, "predictions_2": predicted[1].name}
    _, _, _, *words = documented("python -m monai_pdddpm calibrate-files", **places)
    assert main(words) == 0
    temperature = json.loads((data / "my_results" / "calibration.json").read_text())["temperature"]
    stored = [np.load(folder / "test_0.npz")["probabilities"].transpose(3, 2, 1, 0) for folder in predicted]
    mean = np.mean(stored, axis=0) ** (1 / temperature)
    prob = voxels(data / "my_results" / "test_0" / "test_0_prob.nii.gz")
    assert np.allclose(prob, mean / mean.sum(axis=-1, keepdims=True), atol=1e-3)
    assert (data / "my_results" / "index.html").is_file()
