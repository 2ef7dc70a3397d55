"""Files that execute code when they are unpickled: each opens, and so creates, a file named ``mark``."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch


class Payload:
    """An object that pickle turns into a call of ``open``."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return open, (self.mark, "w")


class _Scripted(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def bare_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark)))


def _protocol_0(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark), protocol=0))


def _beside_weights(file: Path, mark: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}, "more": Payload(mark)}, file)


def _among_weights(file: Path, mark: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2), "bias": Payload(mark)}}, file)


def _legacy(file: Path, mark: Path) -> None:
    torch.save({"model": Payload(mark)}, file, _use_new_zipfile_serialization=False)


def _module(file: Path, mark: Path) -> None:
    module = torch.nn.Linear(2, 2)
    module.payload = Payload(mark)
    torch.save(module, file)


def _torchscript(file: Path, mark: Path) -> None:
    torch.jit.save(torch.jit.script(_Scripted()), file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{file.stem}/data/extra.pkl", pickle.dumps(Payload(mark)))


def object_array(file: Path, mark: Path) -> None:
    """Write a numpy file of objects."""
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, np.array([Payload(mark)], dtype=object), allow_pickle=True)


PAYLOADS = {
    "pickle": bare_pickle,
    "pickle of protocol 0": _protocol_0,
    "torch.save, payload beside the weights": _beside_weights,
    "torch.save, payload among the weights": _among_weights,
    "torch.save before PyTorch 1.6": _legacy,
    "torch.save of a module": _module,
    "TorchScript with a pickle": _torchscript,
}
