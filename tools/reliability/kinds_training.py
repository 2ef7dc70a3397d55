"""Labels, weights, checkpoints and calibrations that are unusual or invalid."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from good_scan import AFFINE, VOXELS, Make, save
from ignite.engine import Engine
from kinds import INF, NAN, Kind, kinds_of
from monai.transforms import Compose

from monai_pdddpm.bundle import load_calibration, load_network
from monai_pdddpm.data import LoadScand
from monai_pdddpm.data.checks import CheckLabeld
from monai_pdddpm.handlers.checkpoint import TrainingCheckpoint


def network() -> torch.nn.Module:
    """Return a network with two small tensors."""
    return torch.nn.Linear(2, 2)


def _labels() -> list[Kind]:
    right = (VOXELS > 300).astype(np.uint8)

    def look(folder: Path) -> tuple[str, str]:
        read = Compose([LoadScand("image"), LoadScand("label", channels=None), CheckLabeld("label", (0, 1))])
        read({key: str(folder / f"{key}.nii") for key in ("image", "label")})
        return "done", ""

    def k(name: str, labels: np.ndarray = right, outcome: str = "stops", affine: np.ndarray = AFFINE) -> Kind:
        def make(folder: Path) -> None:
            save(folder / "image.nii")
            save(folder / "label.nii", labels, affine)

        return Kind("labels", name, make, outcome, beside=False, look=look)

    shifted, mirrored = AFFINE.copy(), AFFINE.copy()
    shifted[:3, 3] += 1
    mirrored[0] *= -1
    return [
        k("valid", right, "done"),
        k("only background", right * 0, "done"),
        k("value of no class", right * 7),
        k("negative value", -right.astype(np.int16)),
        k("fraction", right * np.float32(0.5)),
        k("NaN", np.where(right, np.float32(NAN), np.float32(0))),
        k("another size", right[1:]),
        k("axes in another order", right.transpose(1, 0, 2)),
        k("shifted", affine=shifted),
        k("mirrored in the header", affine=mirrored),
    ]


def _files(group: str, file: str, look: Callable[[Path], Any], outcomes: dict[str, dict[str, Make]]) -> list[Kind]:
    """Return kinds of one file; ``outcomes`` has the functions that write it, by outcome and name."""
    k = kinds_of(group)

    def looked(folder: Path) -> tuple[str, str]:
        look(folder / file)
        return "done", ""

    def into(make: Make) -> Make:
        return lambda folder: make(folder / file)

    return [
        k(name, into(make), outcome, beside=False, look=looked)
        for outcome, kinds in outcomes.items()
        for name, make in kinds.items()
    ]


def saved(content: Any) -> Make:
    return lambda file: torch.save(content, file)


def nothing(file: Path) -> None:
    pass


def text(content: Any) -> Make:
    return lambda file: file.write_text(content if isinstance(content, str) else json.dumps(content))


def _weights() -> list[Kind]:
    def state(**changes: Any) -> dict[str, Any]:
        return {"model": {**network().state_dict(), **changes}}

    def cut(file: Path) -> None:
        torch.save(state(), file)
        file.write_bytes(file.read_bytes()[:600])

    wrong = {
        "missing": nothing,
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "broken link": lambda file: file.symlink_to("gone"),
        "empty": text(""),
        "text": text("weights"),
        "cut": cut,
        "another archive": lambda file: zipfile.ZipFile(file, "w").close(),
        "module": saved(network()),
        "TorchScript": lambda file: torch.jit.script(network()).save(str(file)),
        "tensor": saved(torch.zeros(3)),
        "no weights": saved({"model": {}}),
        "numbers as names": saved({1: torch.zeros(3)}),
        "a number instead of a tensor": saved(state(weight=3.0)),
        "another shape": saved(state(weight=torch.zeros(3, 2))),
        "one tensor too many": saved(state(more=torch.zeros(3))),
        "NaN": saved(state(bias=torch.tensor([0, NAN]))),
        "infinity": saved(state(bias=torch.tensor([0, INF]))),
        "complex": saved(state(bias=torch.zeros(2, dtype=torch.complex64))),
    }
    right = {"valid": saved(state()), "without the key model": saved(state()["model"])}
    return _files("weights", "model.pt", lambda file: load_network(network(), file), {"done": right, "stops": wrong})


def _checkpoints() -> list[Kind]:
    def look(file: Path) -> None:
        engine = Engine(lambda *_: None)
        engine.state.max_epochs, engine.state.epoch_length = 5, 1
        TrainingCheckpoint(file, {"network": network()}).load(engine)

    state = network().state_dict()
    other = torch.nn.Linear(3, 3).state_dict()
    progress = {"epoch": 1, "iteration": 1, "best_metric": 0.5, "best_metric_epoch": 1}
    wrong = {
        "empty": text(""),
        "text": text("x" * 99),
        "another network": saved({"network": other, "progress": progress}),
        "no progress": saved({"network": state}),
        "progress of another type": saved({"network": state, "progress": 3}),
    }
    right = {"valid": saved({"network": state, "progress": progress})}
    return _files("checkpoint", "checkpoint.pt", look, {"done": right, "stops": wrong})


def _calibrations() -> list[Kind]:
    wrong = [
        *("", '{"temperature"', [], None, "[" * 100_000, {"temperatur": 1.0}, {"temperature": 0}, {"temperature": -1}),
        *({"temperature": 1e9}, {"temperature": NAN}, {"temperature": "warm"}, {"interval_factor": [1]}),
        *({"interval_factor": {"a": "b"}}, {"interval_factor": {"a": NAN}}, {"dice_line": [1, 2]}),
        *({"ranges": {"a": [1]}}, {"fitted": 3}, {"fitted": {"settings": 3}}),
    ]
    outcomes = {
        "done": {"valid": text({"temperature": 1.2}), "missing": nothing},
        "stops": {json.dumps(content)[:60]: text(content) for content in wrong},
    }
    return _files("calibration", "calibration.json", load_calibration, outcomes)


KINDS = [*_labels(), *_weights(), *_checkpoints(), *_calibrations()]
