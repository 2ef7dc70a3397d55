"""Checkpoints with a pickle payload, in every place where one is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from attacks_payload import PAYLOADS, bare_pickle
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai_pdddpm.cli.foreign import read_segmenter

from monai_pdddpm.bundle import load_calibration, load_network, load_segmenter
from monai_pdddpm.handlers.checkpoint import TrainingCheckpoint
from monai_pdddpm.labelserver.put_bundle import put_bundle
from monai_pdddpm.labelserver.training import load_segmenter_alone, validation_dice

PHANTOM = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [2, 4],
    "strides": [2],
}


def _linear() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


def _pair() -> torch.nn.Module:
    pair = torch.nn.Module()
    pair.segmenter = _linear()
    return pair


def _resumed(file: Path) -> None:
    TrainingCheckpoint(file, {"network": _linear()}).load(Engine(lambda engine, batch: None))


def _foreign(file: Path) -> None:
    bundle = file.parent
    (bundle / "configs").mkdir()
    (bundle / "models").mkdir()
    config = {"network_def": NETWORK, "preprocessing": {"_target_": "Compose", "transforms": []}}
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    file.rename(bundle / "models" / "model.pt")
    read_segmenter(bundle, channels=1, classes=2)


def _calibrated(file: Path) -> None:
    load_calibration(file.rename(file.with_name("calibration.json")))


def _inference(file: Path) -> None:
    parser = ConfigParser()
    parser.read_config(PHANTOM / "configs" / "inference.json")
    parser.read_meta(PHANTOM / "configs" / "metadata.json")
    parser.update({"bundle_root": str(PHANTOM), "device": "cpu", "model_file": str(file)})
    parser.get_parsed_content("network")


def _label_training(file: Path) -> None:
    case = {key: str(file.parent / f"{key}.nii.gz") for key in ("image", "label")}
    for part in case.values():
        nib.save(nib.Nifti1Image(np.arange(512, dtype=np.uint8).reshape(8, 8, 8) % 3, np.eye(4)), part)
    validation_dice(PHANTOM, file, [case], "cpu")


PLACES = {
    "model file, `load_network`": lambda file: load_network(_linear(), file),
    "`inference.json`, `--model_file`": _inference,
    "segmenter file of `train.json`": lambda file: load_segmenter(_pair(), [str(file)]),
    "checkpoint that a training goes on from": _resumed,
    "`create-bundle --segmenter`": _foreign,
    "training of the MONAI Label app, the pair": _label_training,
    "training of the MONAI Label app, the segmenter": lambda file: load_segmenter_alone(_linear(), str(file), "cpu"),
}


def _attack(make, place):
    def run(folder: Path, mark: Path) -> None:
        make(folder / "model.pt", mark)
        place(folder / "model.pt")

    return run


def _as_export(name):
    def run(folder: Path, mark: Path) -> None:
        bare_pickle(folder / name, mark)
        load_network(_linear(), folder / name)

    return run


def _as_calibration(folder: Path, mark: Path) -> None:
    bare_pickle(folder / "model.pt", mark)
    _calibrated(folder / "model.pt")


def _put(folder: Path, mark: Path) -> str:
    """Copy a bundle whose model file is a payload into MONAI Label's app: a copy, nothing is loaded."""
    bundle, app = folder / "bundle", folder / "app"
    shutil.copytree(PHANTOM / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    app.mkdir()
    (app / "main.py").touch()
    bare_pickle(bundle / "models" / "model.pt", mark)
    put_bundle(app, bundle)
    return "copied, not loaded"


CHECKPOINTS = [
    *[
        ("checkpoint", payload, place, _attack(make, load), "refused")
        for place, load in PLACES.items()
        for payload, make in PAYLOADS.items()
    ],
    ("checkpoint", "pickle named ensemble.ts", "`--model_file`", _as_export("ensemble.ts"), "refused"),
    ("checkpoint", "pickle named ensemble.onnx", "`--model_file`", _as_export("ensemble.onnx"), "refused"),
    ("checkpoint", "pickle", "`calibration.json`", _as_calibration, "refused"),
    ("checkpoint", "pickle", "`labelserver.put_bundle`", _put, "harmless"),
]
