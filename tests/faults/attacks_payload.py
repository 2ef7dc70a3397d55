"""Files that do something when they are loaded carelessly: they open, and so make, a file at ``mark``."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch


class Payload:
    """What pickle turns into a call when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


class _Scripted(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def bare_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark)))


def old_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark), protocol=0))


def torch_zip(file: Path, mark: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}, "more": Payload(mark)}, file)


def torch_legacy(file: Path, mark: Path) -> None:
    torch.save({"model": Payload(mark)}, file, _use_new_zipfile_serialization=False)


def torch_hidden(file: Path, mark: Path) -> None:
    """Weights as they should be, with the payload as one more entry of the state dict."""
    torch.save({"model": {"weight": torch.zeros(2), "bias": Payload(mark)}}, file)


def torch_whole_module(file: Path, mark: Path) -> None:
    """A network that was saved whole, as many are shared."""
    module = torch.nn.Linear(2, 2)
    module.payload = Payload(mark)
    torch.save(module, file)


def torchscript(file: Path, mark: Path) -> None:
    """TorchScript under the name of a checkpoint, with a payload as one more pickle in its archive."""
    torch.jit.save(torch.jit.script(_Scripted()), file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{file.stem}/data/extra.pkl", pickle.dumps(Payload(mark)))


PAYLOADS = {
    "pickle": bare_pickle,
    "pickle of the first protocol": old_pickle,
    "torch.save, payload beside the weights": torch_zip,
    "torch.save of old, payload for the weights": torch_legacy,
    "torch.save, payload among the weights": torch_hidden,
    "torch.save of a whole module": torch_whole_module,
    "TorchScript with a pickle": torchscript,
}
