"""The folder and the device of a running bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def pick_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def find_bundle_root(name: str) -> str:
    """Return the folder of a running bundle.

    MONAI puts the folder of a bundle on Python's search path when it runs the bundle. The first folder of the path
    whose ``configs/metadata.json`` has the bundle's name is returned. Outside of a run, it is the working directory, as
    in the bundles of MONAI's model zoo.

    Args:
        name: name of the bundle in its metadata.
    """
    # the first entry belongs to the program that was started, often the working directory
    for folder in map(Path, (*sys.path[1:], *sys.path[:1])):
        try:
            metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(metadata, dict) and metadata.get("name") == name:
            return str(folder.resolve())
    return "."
