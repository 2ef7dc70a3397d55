"""nnU-Net trains two folds for one short epoch; its files become a bundle, and an ensemble without training.

nnU-Net has an environment of its own, which sees the packages of this one, so that only what it adds is installed.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_pdddpm.__main__ import main
from monai_pdddpm.data import write_phantom

pytestmark = pytest.mark.slow

LABELS = {"background": 0, "body": 1, "nodule": 2}
CONTENT = {"channel_names": {"0": "phantom"}, "labels": LABELS, "file_ending": ".nii.gz"}
TRAIN = """
import sys
import torch
from nnunetv2.run.run_training import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

initialize = nnUNetTrainer.initialize

def short(trainer):
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 6, 1
    initialize(trainer)

if __name__ == "__main__":
    torch.set_num_threads(1)
    nnUNetTrainer.initialize = short
    run_training("1", "3d_fullres", sys.argv[1], export_validation_probabilities=True, device=torch.device("cpu"))
"""


def add_case(root, split, name, image, label=None):
    for folder, file, end in (("images", image, "_0000"), ("labels", label, "")):
        if file is not None:
            target = root / f"{folder}{split}" / f"{name}{end}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets in nnU-Net's layout: eight cases to train on; six further labeled cases and two new ones."""
    root = tmp_path_factory.mktemp("nnunet")
    few = {"train": 8, "validation": 6, "test": 2, "series": 0, "annotations": 1}
    phantom = write_phantom(root / "phantom", **few, size=(32, 32, 32), spacing=(1.5, 1.5, 1.5), seed=3, progress=False)
    listed = json.loads((phantom / "dataset.json").read_text())
    trained, other = root / "raw" / "Dataset001_Phantom", root / "other"
    for place, key, split in ((trained, "training", "Tr"), (other, "validation", "Tr"), (other, "test", "Ts")):
        for number, entry in enumerate(listed[key]):
            image = phantom / (entry if isinstance(entry, str) else entry["image"])
            label = phantom / entry["label"] if split == "Tr" else None
            add_case(place, split, f"{key}_{number}", image, label)
    for place, count in ((trained, 8), (other, 6)):
        (place / "dataset.json").write_text(json.dumps(CONTENT | {"numTraining": count}))
    for file in other.glob("images*/*"):
        (root / "scans").mkdir(exist_ok=True)
        shutil.copy(file, root / "scans")
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
    prepared = data / "preprocessed" / "Dataset001_Phantom"
    prepared.mkdir(parents=True)
    names = [f"training_{number}" for number in range(8)]
    splits = [{"train": names[4:], "val": names[:4]}, {"train": names[:4], "val": names[4:]}]
    (prepared / "splits_final.json").write_text(json.dumps(splits))
    plan = ["-d", 1, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "-gpu_memory_target", 2]
    nnunet("nnUNetv2_plan_and_preprocess", *plan, nnUNet_n_proc_DA="1")
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8] * len(network["features_per_stage"])
    (prepared / "nnUNetPlans.json").write_text(json.dumps(plans))
    for fold in range(2):
        nnunet("python", "train.py", fold, nnUNet_n_proc_DA="0")
    return data / "results" / "Dataset001_Phantom" / "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def predicted(nnunet, trained, data):
    """A folder for each fold with its probabilities of the other data set's scans."""
    quick = ["--save_probabilities", "-device", "cpu", "--disable_tta", "-npp", 1, "-nps", 1]
    for fold in range(2):
        words = ["-m", trained, "-f", fold, "-i", data / "scans", "-o", data / f"fold_{fold}_predictions"]
        nnunet("nnUNetv2_predict_from_modelfolder", *words, *quick)
    return [data / f"fold_{fold}_predictions" for fold in range(2)]


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_bundle_of_a_trained_nnunet(trained, predicted, data, tmp_path):
    words = ["phantom_segmentation", "--dataset", data / "raw" / "Dataset001_Phantom", "--nnunet", trained]
    assert main(["create-bundle", *map(str, words), "--output_dir", str(tmp_path), "--memory", "8"]) == 0
    folder = tmp_path / "phantom_segmentation"

    def run(*names, kind="infer", **more):
        files = [str(folder / "configs" / f"{name}.json") for name in names]
        settings = {"device": "cpu", "precision": "float32", "bundle_root": str(folder), **more}
        workflow = ConfigWorkflow(files, workflow_type=kind, **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    run("train", kind="train", max_epochs=1, **{"train::dataloader::sampler::num_samples": 4})
    short = {"members": 2, "num_steps": 1}
    run("inference", "evaluate", **short)
    assert "segmenter" in (folder / "eval" / "evaluation_cases.csv").read_text()
    run("inference", **short, dataset_dir=str(data / "other"), presegmentation_dir=str(predicted[0]))
    for case in ("test_0", "test_1"):
        given = voxels(predicted[0] / f"{case}.nii.gz")
        assert (voxels(folder / "output" / case / f"{case}_preseg.nii.gz") == given).mean() > 0.999  # ties


def test_calibrated_ensemble_of_two_folds(predicted, data, tmp_path):
    words = [*predicted, "--dataset", data / "other", "--output_dir", tmp_path / "out"]
    assert main(["calibrate-files", *map(str, words)]) == 0
    temperature = json.loads((tmp_path / "out" / "calibration.json").read_text())["temperature"]
    stored = [np.load(folder / "test_0.npz")["probabilities"].transpose(3, 2, 1, 0) for folder in predicted]
    mean = np.mean(stored, axis=0) ** (1 / temperature)
    prob = voxels(tmp_path / "out" / "test_0" / "test_0_prob.nii.gz")
    assert np.allclose(prob, mean / mean.sum(axis=-1, keepdims=True), atol=1e-3)
    assert (Path(tmp_path) / "out" / "index.html").is_file()
