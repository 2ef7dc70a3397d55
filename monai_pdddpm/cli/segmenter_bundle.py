"""A segmenter from somebody else's bundle: its network, weights and preprocessing, read without executing anything."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import optional_import
from torch import nn

from monai_pdddpm.networks.weights import load_weights
from monai_pdddpm.utils.errors import UserError

__all__ = ["Segmenter", "network_of", "output_channels", "read_segmenter", "resolved", "smallest_cube"]

_CUBES = (16, 32, 64, 96)
# what our own pipeline does in their place, or what changes nothing that a network sees
_LEFT_OUT = ("LoadImaged", "EnsureChannelFirstd", "AddChanneld", "EnsureTyped", "CastToTyped", "ToTensord", "ToDeviced")
_CROPPING = ("CropForegroundd", "SpatialPadd", "DivisiblePadd", "BorderPadd")
_INTENSITY = (
    *("NormalizeIntensityd", "ScaleIntensityd", "ScaleIntensityRanged", "ScaleIntensityRangePercentilesd"),
    *("ClipIntensityPercentilesd", "ThresholdIntensityd", "ShiftIntensityd", "HistogramNormalized"),
)


@dataclass(frozen=True)
class Segmenter:
    """What a bundle's network needs to segment.

    Attributes:
        name: of the bundle.
        network: its ``network_def``, plain JSON.
        weights: its state dict, which fits.
        orientation: axis codes, or None when the scans are taken as they are.
        spacing: mm, or None likewise.
        intensity: transforms.
        window: of its inferer, or None.
        notes: what was left out.
    """

    name: str
    network: dict[str, Any]
    weights: dict[str, torch.Tensor]
    orientation: str | None
    spacing: list[float] | None
    intensity: list[dict[str, Any]]
    window: list[int] | None
    notes: list[str]


def read_segmenter(bundle: Path, channels: int, classes: int) -> Segmenter:
    """Read ``configs/inference.json`` and ``models/model.pt`` of a bundle in the model zoo's manner.

    Args:
        bundle: its folder.
        channels: of the scans.
        classes: of the labels, the background included.

    Raises:
        UserError: when a part is missing, needs code to be executed, comes from the bundle's own scripts, or does not
            fit the data set.
    """
    file = bundle / "configs" / "inference.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--segmenter: {file} cannot be read ({error}); name the folder of a MONAI bundle") from error
    key = "network_def" if "network_def" in content else "network"
    if not isinstance(content.get(key), dict):
        raise UserError(f"--segmenter: {file} has no network_def; name a bundle that defines its network there")
    definition = resolved(content, content[key], f"{file}: {key}")
    network = network_of(definition, f"{file}: {key}")
    weights = _weights(bundle / "models" / "model.pt")
    load_weights(network, weights, bundle / "models" / "model.pt")
    found = output_channels(network, channels)
    if found != classes:
        raise UserError(
            f"--segmenter: {file}: the network gives {found} channels for a scan of {channels}, expected {classes}, "
            "one for the background and for each label; take a segmenter of this task"
        )
    window = content.get("inferer", {}).get("roi_size") if isinstance(content.get("inferer"), dict) else None
    if window is not None:
        window = resolved(content, window, f"{file}: inferer::roi_size")
        window = [window] * 3 if isinstance(window, int) else list(window)
    return Segmenter(bundle.resolve().name, definition, weights, **_preprocessing(file, content), window=window)


def resolved(content: Mapping[str, Any], value: Any, where: str, depth: int = 0) -> Any:
    """Return a part of a configuration with its ``@`` references replaced by what they refer to.

    Args:
        content: the whole configuration.
        value: the part.
        where: for messages.
        depth: of references within references.

    Raises:
        UserError: at an expression (``$``), which is not executed, and at a reference to nothing.
    """
    if isinstance(value, dict):
        return {name: resolved(content, each, where, depth) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(content, each, where, depth) for each in value]
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith(("$", "%")):
        raise UserError(f"--segmenter: {where}: found the expression {text!r}, which is not executed; write its value")
    if not text.startswith("@"):
        return value
    target: Any = content
    try:
        for part in text[1:].replace("#", "::").split("::"):
            target = target[int(part)] if isinstance(target, list) else target[part]
    except (KeyError, ValueError, IndexError, TypeError):
        target = None
    if target is None or depth > 20:
        raise UserError(f"--segmenter: {where}: {text!r} refers to nothing; fix the bundle")
    return resolved(content, target, where, depth + 1)


def network_of(definition: Mapping[str, Any], where: str) -> nn.Module:
    """Make a network from plain JSON, of classes of installed packages alone.

    Raises:
        UserError: when a ``_target_`` is no network class of an installed package, or does not take its arguments.
    """
    for target in map(str, _found(definition, "_target_")):
        if not _is_network_class(target):
            raise UserError(
                f"--segmenter: {where}: {target!r} is no network class of MONAI, PyTorch or another installed package; "
                "code in a bundle's own scripts cannot be taken along"
            )
    if modes := _found(definition, "_mode_"):  # "debug" would stop in a debugger
        raise UserError(
            f"--segmenter: {where}: found _mode_ {modes[0]!r}, expected none for a network; take it out of the bundle"
        )
    try:
        network = ConfigParser({"network": copy.deepcopy(dict(definition))}).get_parsed_content("network")
    except Exception as error:  # MONAI wraps whatever a constructor raises
        raise UserError(
            f"--segmenter: {where} cannot be made into a network ({' '.join(str(error).split())})"
        ) from error
    return network.eval()


def output_channels(network: nn.Module, channels: int) -> int:
    """Return how many channels a network gives for a scan of so many.

    Raises:
        UserError: when it does not take such a scan.
    """
    size = smallest_cube(network, channels)
    with torch.no_grad():
        output = network(torch.zeros(1, channels, size, size, size))
    if not isinstance(output, torch.Tensor) or tuple(output.shape[2:]) != (size, size, size):
        raise UserError(f"--segmenter: {type(network).__name__} does not answer with one tensor of the scan's size")
    return int(output.shape[1])


def smallest_cube(network: nn.Module, channels: int) -> int:
    """Return the side of a small cube that a network takes: 16, 32, 64 and 96 voxels are tried.

    Raises:
        UserError: when it takes none of them.
    """
    reason = ""
    for size in _CUBES:
        try:
            with torch.no_grad():
                network(torch.zeros(1, channels, size, size, size))
            return size
        except Exception as error:  # networks raise many kinds for a size or a number of channels
            reason = " ".join(str(error).split())[:200]
    raise UserError(
        f"--segmenter: {type(network).__name__} does not take a scan of {channels} channels and 16, 32, 64 or 96 "
        f"voxels ({reason}); take a segmenter of this task"
    )


def _found(value: Any, key: str) -> list[Any]:
    """Return what stands under a key, however deep."""
    if isinstance(value, dict):
        own = [value[key]] if key in value else []
        return own + [found for each in value.values() for found in _found(each, key)]
    return [found for each in value for found in _found(each, key)] if isinstance(value, list) else []


def _is_network_class(target: str) -> bool:
    if "." not in target:  # MONAI finds its own classes by their short names
        found, there = optional_import("monai.networks.nets", name=target)
        return there and inspect.isclass(found) and issubclass(found, nn.Module)
    module, _, name = target.rpartition(".")
    if module.split(".")[0] not in packages_distributions():
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return inspect.isclass(found) and issubclass(found, nn.Module)


def _weights(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UserError(
            f"--segmenter: {file} does not exist, expected the trained weights; download or train the bundle"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        for key in ("model", "state_dict", "network"):
            content = content.get(key, content) if isinstance(content.get(key, None), Mapping) else content
        weights = {name.removeprefix("module."): tensor for name, tensor in content.items()}
        if not weights or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
            raise TypeError("it holds no state dict")
    except Exception as error:  # torch raises many kinds for a file that is not a checkpoint
        raise UserError(
            f"--segmenter: {file} cannot be read as weights alone; put the bundle's own model.pt there"
        ) from error
    return weights


def _preprocessing(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Take over orientation, spacing and intensity from the bundle's preprocessing."""
    part = content.get("preprocessing") or {}
    transforms = part.get("transforms") if isinstance(part, dict) else part
    if not isinstance(transforms, list):
        raise UserError(f"--segmenter: {file} lists no preprocessing::transforms; name a bundle that does")
    found: dict[str, Any] = {"orientation": None, "spacing": None, "intensity": [], "notes": []}
    for number, transform in enumerate(transforms):
        name = str(transform.get("_target_", "")).rpartition(".")[2] if isinstance(transform, dict) else ""
        where = f"{file}: preprocessing::transforms::{number}"
        if name in _LEFT_OUT or _is_off(transform):
            continue
        if name == "Orientationd":
            found["orientation"] = resolved(content, transform.get("axcodes"), where)
        elif name == "Spacingd":
            found["spacing"] = [float(size) for size in _three(resolved(content, transform["pixdim"], where))]
        elif name in _INTENSITY:
            options = {key: value for key, value in transform.items() if key not in ("_target_", "keys")}
            found["intensity"].append(
                {"_target_": name, "keys": "image"}
                | {key: resolved(content, value, where) for key, value in options.items()}
            )
        elif name in _CROPPING:
            found["notes"].append(f"{name} of its preprocessing is left out: windows go over the whole scan")
        else:
            raise UserError(f"--segmenter: {where}: {name or transform!r} is not known here; take another segmenter")
    if isinstance(found["orientation"], str | None):
        return found
    raise UserError(f"--segmenter: {file}: axcodes is {found['orientation']!r}, expected text such as RAS; fix it")


def _is_off(transform: Any) -> bool:
    return isinstance(transform, dict) and transform.get("_disabled_") is True


def _three(value: Any) -> Sequence[float]:
    return [value] * 3 if isinstance(value, (int, float)) else value
