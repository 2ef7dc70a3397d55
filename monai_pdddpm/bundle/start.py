"""First steps of every command of a bundle: its folder, its device, and checks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path

import torch

from monai_pdddpm.bundle.given_settings import check_given_settings
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.networks.weights import check_device
from monai_pdddpm.utils.memory import keep_freed_memory
from monai_pdddpm.utils.socket_paths import shorten_socket_paths


def find_bundle_root(name: str) -> str:
    """Return the folder of a running bundle with this name in its metadata.

    MONAI puts the folder of a bundle on Python's search path when it runs the bundle. The first folder of the path
    whose ``configs/metadata.json`` has the name is returned. Outside of a run, it is the working directory, as in the
    bundles of MONAI's model zoo.
    """
    # the first entry belongs to the program that was started, often the working directory
    for folder in map(Path, (*sys.path[1:], *sys.path[:1])):
        with suppress(OSError, ValueError, AttributeError):
            if json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8")).get("name") == name:
                return str(folder.resolve())
    return "."


def pick_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def start_run(device: torch.device | str, precision: str = "float32") -> None:
    """Check the given settings, device and precision, and let the process keep freed memory.

    Raises:
        UserError: if a key is unknown, a value is out of range or a path is none, the device cannot be used, or it
            does not have the precision.
    """
    check_given_settings()
    check_device(device)
    autocast(torch.device(device), precision)
    shorten_socket_paths()
    keep_freed_memory()


def has_full_batch(cases: Sized, batch_size: int) -> bool:
    """Return whether an epoch has more cases than a batch, so that its incomplete last batch may be dropped."""
    return len(cases) > batch_size
