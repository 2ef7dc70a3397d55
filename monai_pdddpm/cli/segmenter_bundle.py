"""A trained segmenter from a MONAI bundle: network, weights and preprocessing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigItem, ConfigParser
from torch import nn

from monai_pdddpm.networks.weights import load_weights, read_weights
from monai_pdddpm.utils.errors import UserError

WARNING = "warning: --segmenter runs the code that the bundle's author wrote; use bundles from people you trust"
_CUBES = (16, 32, 64, 96)
# replaced by our loading, or without effect on what the network sees
_LEFT_OUT = ("LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "CastToTyped", "ToTensord", "ToDeviced")
_CROPPING = ("CropForegroundd", "SpatialPadd", "DivisiblePadd", "BorderPadd")


@dataclass(frozen=True, kw_only=True)
class SegmenterBundle:
    """A trained segmenter, made of its JSON ``definition``, and the preprocessing that it needs.

    Windows are multiples of ``divisor`` voxels. None stands for a bundle without a sliding window, and for scans that
    keep their orientation or spacing (mm). ``intensity`` are the other transforms, as JSON.
    """

    name: str
    definition: dict[str, Any]
    network: nn.Module
    window: list[int] | None
    divisor: int
    orientation: str | None = None
    spacing: list[float] | None = None
    intensity: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """The number of parameters of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def read_segmenter(bundle: Path, channels: int, classes: int) -> SegmenterBundle:
    """Read a bundle's ``configs/inference.json`` (or ``.yaml``) and ``models/model.pt``.

    Expressions of the configuration are executed, as MONAI does when it runs the bundle.

    Raises:
        UserError: if a file is missing or cannot be read, the network needs code of the bundle's own, or the network
            does not fit the channels, and the classes with the background, of the data set.
    """
    files = [file for end in ("json", "yaml", "yml") if (file := bundle / "configs" / f"inference.{end}").is_file()]
    if not files:
        raise UserError(
            f"--segmenter: found no configs/inference.json in {bundle}, expected a MONAI bundle; fix the path"
        )
    print(WARNING, file=sys.stderr)
    parser = ConfigParser()
    try:
        parser.read_config(files[0])
        parser["bundle_root"] = str(bundle)
        definition, preprocessing = _plain(parser, "network_def"), _preprocessing(parser)
        window = _plain(parser, "inferer::roi_size") if "inferer::roi_size" in parser else None
        network: nn.Module = ConfigParser({"network": definition}).get_parsed_content("network").eval()
    except Exception as error:  # MONAI and the bundle's code raise many kinds
        raise UserError(
            f"--segmenter: {files[0]}: found a bundle that cannot be read ({' '.join(str(error).split())[:200]}), "
            "expected network_def and preprocessing made of MONAI's own classes; use another bundle"
        ) from error
    model_file = bundle / "models" / "model.pt"
    load_weights(network, read_weights(model_file), model_file)
    divisor, found = _probe(network, channels)
    if found != classes:
        raise UserError(
            f"--segmenter: found {found} output channels in {bundle}, expected {classes}, one for the background and "
            "one for each label; use a segmenter for these labels"
        )
    window = [window] * 3 if isinstance(window, int) else window
    parts = {"definition": definition, "network": network, "window": window, "divisor": divisor}
    return SegmenterBundle(name=bundle.resolve().name, **parts, **preprocessing)


def _plain(parser: ConfigParser, key: str) -> Any:
    """Return a part of a configuration as JSON, with references and expressions replaced by their values."""

    def config(item: object) -> Any:
        if isinstance(item, ConfigItem):
            return item.get_config()
        raise TypeError(f"{key} holds a {type(item).__name__}, which is not JSON")

    return json.loads(json.dumps(parser.get_parsed_content(key, instantiate=False), default=config))


def _preprocessing(parser: ConfigParser) -> dict[str, Any]:
    """Return orientation, spacing, the other transforms, and notes on what is left out."""
    key = "preprocessing::transforms" if isinstance(parser["preprocessing"], dict) else "preprocessing"
    found: dict[str, Any] = {"intensity": [], "notes": []}
    for index, raw in enumerate(parser[key]):
        name = raw["_target_"].rpartition(".")[2]
        if name in _CROPPING:
            found["notes"].append(f"{name} of the segmenter's preprocessing is left out: windows cover the whole scan")
        if name in (*_CROPPING, *_LEFT_OUT):
            continue
        transform = _plain(parser, f"{key}::{index}")
        if name == "Orientationd":
            found["orientation"] = str(transform["axcodes"])
        elif name == "Spacingd":
            sizes = transform["pixdim"]
            found["spacing"] = [float(size) for size in (sizes if isinstance(sizes, list) else [sizes] * 3)]
        else:
            ConfigParser({"transform": transform}).get_parsed_content("transform")  # can it be made?
            found["intensity"].append(transform | {"keys": "image"})
    return found


def _probe(network: nn.Module, channels: int) -> tuple[int, int]:
    """Return the side of the smallest cube that a network takes, of 16, 32, 64, 96, and its output channels."""
    reason = ""
    for size in _CUBES:
        try:
            with torch.no_grad():
                output = network(torch.zeros(1, channels, size, size, size))
            if tuple(output.shape[2:]) != (size,) * 3:
                raise ValueError(f"output of shape {tuple(output.shape)}")
            return size, int(output.shape[1])
        except Exception as error:  # networks raise many kinds for a size or a number of channels
            reason = " ".join(str(error).split())[:200]
    raise UserError(
        f"--segmenter: found a {type(network).__name__} that fails on {channels} channels ({reason}), expected a 3D "
        "segmentation network for these scans; use another bundle"
    )
