"""Labels, weights, checkpoints, calibrations and settings."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from kind import INF, NAN, Kind, Look, kind
from monai.transforms import Compose
from spoil import AFFINE, VOXELS, Make, save

from monai_pdddpm.bundle import load_network
from monai_pdddpm.bundle.calibration_file import load_calibration
from monai_pdddpm.bundle.settings import check_settings
from monai_pdddpm.data import LoadScand
from monai_pdddpm.data.checks import CheckLabeld
from monai_pdddpm.handlers.checkpoint import TrainingCheckpoint


class Payload:
    """Unpickling this makes a folder, as an attacker's would run a program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder / "executed"),)


def _nothing_executed(folder: Path, load: Callable[[], Any]) -> tuple[str, str]:
    """Load, and tell whether a payload ran whatever came of it."""
    try:
        load()
    finally:
        if (folder / "executed").exists():
            raise AssertionError("the payload was executed")
    return "done", ""


PAYLOADS: dict[str, Callable[[Path, Path], Any]] = {
    "among the weights": lambda file, folder: torch.save({"model": {"weight": Payload(folder)}}, file),
    "beside the weights": lambda file, folder: torch.save(
        {"model": network().state_dict(), "x": Payload(folder)}, file
    ),
    "alone": lambda file, folder: torch.save(Payload(folder), file),
    "in the format before PyTorch 1.6": lambda file, folder: torch.save(
        {"model": {"weight": Payload(folder)}}, file, _use_new_zipfile_serialization=False
    ),
    "as a bare pickle": lambda file, folder: file.write_bytes(pickle.dumps({"model": Payload(folder)})),
    "as a pickle of protocol 0": lambda file, folder: file.write_bytes(pickle.dumps(Payload(folder), 0)),
    "in an array of objects": lambda file, folder: torch.save({"model": np.array([Payload(folder)])}, file),
}


def network() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def _labels() -> list[Kind]:
    f = kind("labels of a training")
    right = (VOXELS > 300).astype(np.uint8)

    def pair(label: np.ndarray = right, affine: np.ndarray = AFFINE) -> Make:
        return lambda folder: (save(folder / "image.nii"), save(folder / "label.nii", label, affine))

    def look(folder: Path) -> tuple[str, str]:
        read = Compose([LoadScand("image"), LoadScand("label", channels=None), CheckLabeld("label", (0, 1))])
        read({key: str(folder / f"{key}.nii") for key in ("image", "label")})
        return "done", ""

    beside, mirrored = AFFINE.copy(), AFFINE.copy()
    beside[:3, 3] += 1
    mirrored[0] *= -1
    wrong = [
        ("a value that is no class", pair(right * 7), "label values 7,"),
        ("a negative value", pair(-right.astype(np.int16)), "label values -1,"),
        ("a fraction", pair(right * np.float32(0.5)), "label values 0.5,"),
        ("NaN", pair(np.where(right, np.float32(NAN), np.float32(0))), "label values nan,"),
        ("another size", pair(right[1:]), "13 x 12 x 10"),
        ("axes in another order", pair(right.transpose(1, 0, 2)), "12 x 14 x 10"),
        ("another place", pair(affine=beside), "voxels away"),
        ("left and right exchanged in the header", pair(affine=mirrored), "voxels away"),
        (
            "cut in the data",
            lambda d: (pair()(d), (d / "label.nii").write_bytes((d / "label.nii").read_bytes()[:999])),
            "cut short",
        ),
    ]
    return [
        f("as they should be", pair(), "done", beside=False, look=look),
        f("background alone", pair(right * 0), "done", beside=False, look=look),
        *[f(name, make, "stops", says, beside=False, look=look) for name, make, says in wrong],
    ]


def _weights() -> list[Kind]:
    f = kind("weights (model.pt)")

    def look(folder: Path) -> tuple[str, str]:
        return _nothing_executed(folder, lambda: load_network(network(), folder / "model.pt"))

    def saved(content: Any) -> Make:
        return lambda folder: torch.save(content, folder / "model.pt")

    def state(**changes: Any) -> dict[str, Any]:
        return {"model": {**network().state_dict(), **changes}}

    def whole(folder: Path) -> bytes:
        torch.save(state(), folder / "model.pt")
        return (folder / "model.pt").read_bytes()

    def script(folder: Path) -> None:
        torch.jit.script(network()).save(str(folder / "model.pt"))

    def written(change: Callable[[bytes], bytes]) -> Make:
        return lambda folder: (folder / "model.pt").write_bytes(change(whole(folder)))

    wrong = [
        ("not there", lambda d: None, "does not exist"),
        ("a folder", lambda d: (d / "model.pt").mkdir(), "does not exist"),
        ("a pipe", lambda d: os.mkfifo(d / "model.pt"), "does not exist"),
        ("a link to nowhere", lambda d: (d / "model.pt").symlink_to("gone"), "does not exist"),
        ("empty", written(lambda b: b""), "cannot be read as weights"),
        ("text", written(lambda b: b"weights, honestly"), "cannot be read as weights"),
        ("cut", written(lambda b: b[: len(b) // 2]), "cannot be read as weights"),
        ("another archive", lambda d: zipfile.ZipFile(d / "model.pt", "w").close(), "cannot be read as weights"),
        ("a whole module", saved(network()), "cannot be read as weights"),
        ("a TorchScript archive", script, "cannot be read as weights"),
        ("a tensor alone", saved(torch.zeros(3)), "cannot be read as weights"),
        ("no weights in it", saved({"model": {}}), "cannot be read as weights"),
        ("numbers in the place of names", saved({1: torch.zeros(3)}), "cannot be read as weights"),
        ("a number in the place of a tensor", saved(state(weight=3.0)), "cannot be read as weights"),
        ("of another shape", saved(state(weight=torch.zeros(3, 2))), "weights of another network"),
        ("one entry too many", saved(state(more=torch.zeros(3))), "weights of another network"),
        ("one NaN", saved(state(bias=torch.tensor([0, NAN]))), "not finite"),
        ("one infinity", saved(state(bias=torch.tensor([0, INF]))), "not finite"),
        ("complex", saved(state(bias=torch.zeros(2, dtype=torch.complex64))), "not finite"),
        *[
            (f"a payload {name}", lambda d, make=make: make(d / "model.pt", d), "cannot be read as weights")
            for name, make in PAYLOADS.items()
        ],
    ]
    right = [("as it should be", saved(state())), ("without the key model", saved(state()["model"]))]
    return [
        *[f(name, make, "done", beside=False, look=look) for name, make in right],
        *[f(name, make, "stops", says, beside=False, look=look) for name, make, says in wrong],
    ]


def _checkpoints() -> list[Kind]:
    f = kind("checkpoint of a training (checkpoint.pt)")

    def look(folder: Path) -> tuple[str, str]:
        handler = TrainingCheckpoint(folder / "checkpoint.pt", {"network": network()})
        engine = Engine(lambda *_: None)
        engine.state.max_epochs, engine.state.epoch_length = 5, 1
        return _nothing_executed(folder, lambda: handler.load(engine))

    progress = {"epoch": 1, "iteration": 1, "best_metric": 0.5, "best_metric_epoch": 1}

    def saved(**content: Any) -> Make:
        return lambda folder: torch.save(content, folder / "checkpoint.pt")

    wrong = [
        ("empty", lambda d: (d / "checkpoint.pt").touch(), "cannot be read as a checkpoint"),
        ("text", lambda d: (d / "checkpoint.pt").write_text("x" * 99), "cannot be read as a checkpoint"),
        (
            "of another network",
            saved(network=torch.nn.Linear(3, 3).state_dict(), progress=progress),
            "not a checkpoint",
        ),
        ("without its progress", saved(network=network().state_dict()), "progress"),
        ("progress of a wrong type", saved(network=network().state_dict(), progress=3), "not a checkpoint"),
        *[
            (f"a payload {name}", lambda d, make=make: make(d / "checkpoint.pt", d), "cannot be read as a checkpoint")
            for name, make in PAYLOADS.items()
        ],
    ]
    return [
        f("as it should be", saved(network=network().state_dict(), progress=progress), "done", beside=False, look=look),
        *[f(name, make, "stops", says, beside=False, look=look) for name, make, says in wrong],
    ]


def _calibrations() -> list[Kind]:
    f = kind("calibration.json")

    def look(folder: Path) -> tuple[str, str]:
        load_calibration(folder / "calibration.json")
        return "done", ""

    def saved(text: str | dict | list) -> Make:
        data = text if isinstance(text, str) else json.dumps(text)
        return lambda folder: (folder / "calibration.json").write_text(data)

    wrong: list[tuple[str, Any]] = [
        ("empty", ""),
        ("cut", '{"temperature"'),
        ("a list", []),
        ("null", "null"),
        ("brackets, 100 000 deep", "[" * 100_000),
        ("an unknown key", {"temperatur": 1.0}),
        ("temperature 0", {"temperature": 0}),
        ("temperature -1", {"temperature": -1}),
        ("temperature 1e9", {"temperature": 1e9}),
        ("temperature NaN", '{"temperature": NaN}'),
        ("temperature a word", {"temperature": "warm"}),
        ("interval_factor a list", {"interval_factor": [1]}),
        ("interval_factor a word", {"interval_factor": {"a": "b"}}),
        ("interval_factor NaN", '{"interval_factor": {"a": NaN}}'),
        ("dice_line of two numbers", {"dice_line": [1, 2]}),
        ("ranges of one number", {"ranges": {"a": [1]}}),
        ("fitted a number", {"fitted": 3}),
        ("settings of a wrong type", {"fitted": {"settings": 3}}),
    ]
    return [
        f("as it should be", saved({"temperature": 1.2}), "done", beside=False, look=look),
        f("not there", lambda d: None, "done", beside=False, look=look),
        *[f(name, saved(text), "stops", "calibration.json", beside=False, look=look) for name, text in wrong],
    ]


def _settings() -> list[Kind]:
    f = kind("settings")

    def checked(name: str, value: Any) -> Look:
        usual = {
            "members": 2,
            "num_steps": 5,
            "seed": 0,
            "overlap": 0.5,
            "presegmentation_weight": 0.0,
            "overwrite": False,
            "start_step": 1000,
            "end_step": 0,
            "num_train_timesteps": 1000,
            "device": "cpu",
            "precision": "float32",
            "training_process": "ddpm",
        }

        def look(_: Path) -> tuple[str, str]:
            check_settings(usual | {name: value})
            return "done", ""

        return look

    wrong = [
        ("members", 0),
        ("members", -1),
        ("members", 1.5),
        ("members", "eight"),
        ("members", None),
        ("members", True),
        ("members", NAN),
        ("members", [8]),
        ("num_steps", 0),
        ("seed", -1),
        ("overlap", 1),
        ("overlap", -0.1),
        ("overlap", NAN),
        ("overlap", "half"),
        ("presegmentation_weight", 2),
        ("overwrite", "yes"),
        ("overwrite", 1),
        ("start_step", 1001),
        ("start_step", -1),
        ("end_step", 1000),
        ("end_step", -1),
        ("device", "gpu"),
        ("device", "cuda:99"),
        ("device", 3.5),
        ("precision", "float8"),
        ("precision", 16),
        ("training_process", "magic"),
        ("training_process", 3),
    ]
    return [
        f(f"{name} {value!r}", lambda d: None, "stops", name, beside=False, look=checked(name, value))
        for name, value in wrong
    ]


KINDS = [*_labels(), *_weights(), *_checkpoints(), *_calibrations(), *_settings()]
