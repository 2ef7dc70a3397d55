"""Bundles of strangers: what reads them without running them executes nothing of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from attacks_by_checkpoints import NETWORK
from attacks_by_data import ask
from attacks_payload import bare_pickle
from monai.networks.nets import UNet
from monai_pdddpm.cli.foreign import read_segmenter

from monai_pdddpm.labelserver import bundle_labels, find_bundles


def _calls(mark: Path) -> dict:
    return {"_target_": "builtins.open", "file": str(mark), "mode": "w"}


def _expression(mark: Path) -> str:
    return f"$open({str(mark)!r}, 'w')"


def _bundle(folder: Path, mark: Path, **config: object) -> Path:
    """Write a bundle with good weights and whatever configuration."""
    for part in ("configs", "models", "scripts"):
        (folder / part).mkdir()
    (folder / "scripts" / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n")
    weights = UNet(**{key: value for key, value in NETWORK.items() if key != "_target_"}).state_dict()
    torch.save(weights, folder / "models" / "model.pt")
    (folder / "configs" / "inference.json").write_text(
        json.dumps({"network_def": NETWORK, "preprocessing": {"transforms": []}} | config)
    )
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "it", "network_data_format": {}}))
    return folder


def _info(folder: Path, mark: Path) -> str:
    """Ask for a bundle whose every value would do something."""
    values = {
        key: make(mark)
        for key, make in {
            "imports": lambda m: [_expression(m)],
            "members": _expression,
            "num_steps": _calls,
            "end_step": lambda m: {"_target_": "builtins.open", "share": _expression(m)},
            "roi_size": lambda m: [_expression(m)],
            "spacing": _calls,
            "labels": _calls,
            "network_def": lambda m: {"segmenter": _calls(m), "denoiser": _expression(m)},
            "initialize": lambda m: [_expression(m)],
            "run": lambda m: [_expression(m)],
        }.items()
    }
    ask("info", str(_bundle(folder, mark, **values)))
    ask("info", "--json", str(folder))
    return "shown as they stand"


def _info_pickles(folder: Path, mark: Path) -> str:
    _bundle(folder, mark)
    for name in ("model.pt", "calibration.json"):
        bare_pickle(folder / "models" / name, mark)
    ask("info", str(folder))
    return "only looked whether they are there"


def _info_of_pickle(folder: Path, mark: Path) -> None:
    _bundle(folder, mark)
    bare_pickle(folder / "configs" / "metadata.json", mark)
    ask("info", str(folder))


def _info_of_circle(folder: Path, mark: Path) -> str:
    ask("info", str(_bundle(folder, mark, members="@num_steps", steps="@members")))
    return "references in a circle are followed 20 times"


def _served(folder: Path, mark: Path) -> str:
    _bundle(folder, mark, labels=_calls(mark))
    find_bundles(str(folder), folder)
    bundle_labels(folder)
    return ""


def _segmenter(**config):
    def run(folder: Path, mark: Path) -> str:
        made = {key: value(mark) if callable(value) else value for key, value in config.items()}
        read_segmenter(_bundle(folder, mark, **made), channels=1, classes=2)
        return "taken over"

    return run


PLACE = "`create-bundle --segmenter`"
BUNDLES = [
    ("bundle", "`$` and `_target_` in every value", "`info`", _info, "harmless"),
    ("bundle", "pickles for weights and calibration", "`info`", _info_pickles, "harmless"),
    ("bundle", "pickle for metadata", "`info`", _info_of_pickle, "refused"),
    ("bundle", "references in a circle", "`info`", _info_of_circle, "harmless"),
    ("bundle", "metadata without labels", "`--conf bundles` of the MONAI Label app", _served, "refused"),
    (
        "bundle",
        "network is an expression",
        PLACE,
        _segmenter(network_def=lambda m: {"_target_": _expression(m)}),
        "refused",
    ),
    ("bundle", "network is a call to open", PLACE, _segmenter(network_def=_calls), "refused"),
    (
        "bundle",
        "a call to open within the network",
        PLACE,
        _segmenter(network_def=lambda m: NETWORK | {"act": _calls(m)}),
        "refused",
    ),
    (
        "bundle",
        "an expression within the network",
        PLACE,
        _segmenter(network_def=lambda m: NETWORK | {"act": _expression(m)}),
        "refused",
    ),
    (
        "bundle",
        "an expression behind a reference",
        PLACE,
        _segmenter(network_def=NETWORK | {"act": "@deep::er"}, deep=lambda m: {"er": _expression(m)}),
        "refused",
    ),
    (
        "bundle",
        "network from the bundle's own scripts",
        PLACE,
        _segmenter(network_def={"_target_": "scripts.Net"}),
        "refused",
    ),
    (
        "bundle",
        "an expression that is required first",
        PLACE,
        _segmenter(network_def=lambda m: NETWORK | {"_requires_": _expression(m)}),
        "refused",
    ),
    (
        "bundle",
        "a debugger around the network",
        PLACE,
        _segmenter(network_def=NETWORK | {"_mode_": "debug"}),
        "refused",
    ),
    (
        "bundle",
        "an expression among the transforms",
        PLACE,
        _segmenter(
            preprocessing=lambda m: {
                "transforms": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": _expression(m)}]
            }
        ),
        "refused",
    ),
    (
        "bundle",
        "a call among the transforms",
        PLACE,
        _segmenter(preprocessing=lambda m: {"transforms": [_calls(m)]}),
        "refused",
    ),
    (
        "bundle",
        "an expression for the window",
        PLACE,
        _segmenter(inferer=lambda m: {"roi_size": _expression(m)}),
        "refused",
    ),
    (
        "bundle",
        "an expression that the segmenter has no use for",
        PLACE,
        _segmenter(imports=lambda m: [_expression(m)], run=lambda m: [_expression(m)]),
        "harmless",
    ),
]
