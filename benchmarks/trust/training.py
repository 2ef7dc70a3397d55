"""Train the networks of the study, each with the configuration of its bundle."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from benchmarks import common
from benchmarks.trust.batches import FOLDS, Batches, prepare
from benchmarks.trust.fit import Budget, train_denoiser, train_segmenter
from monai_pdddpm.networks.weights import load_network, load_weights, read_weights
from monai_pdddpm.utils.errors import UserError

BUNDLES = {"hippocampus": common.HIPPOCAMPUS, "phantom": common.PHANTOM}


def copies_of(study: Mapping[str, Any]) -> dict[str, str]:
    """Return {name of the trained copy: name of the network}."""
    return {f"{name}_{i}": name for name, net in study["networks"].items() for i in range(net.get("copies", 1))}


def bundle_of(network: Mapping[str, Any]) -> Path:
    """Return the bundle whose configuration a network changes."""
    return BUNDLES[network.get("bundle", "hippocampus")]


def needs_folds(network: Mapping[str, Any]) -> bool:
    """Return whether a network is trained with the pre-segmentations of the segmenters of other folds."""
    sees = network.get("settings", {}).get("network_def::denoiser::presegmentation_channels", 1) != 0
    return network.get("part") == "denoiser" and "bundle" not in network and sees


def at_inference(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a network without those of its training."""
    of_training = ("trained_steps::", "train::", "loss::")
    return {key: value for key, value in network.get("settings", {}).items() if not key.startswith(of_training)}


def weights_file(name: str, work: Path) -> Path:
    """Return the file of a copy's weights; `name:2` names the end of the second cycle."""
    name, _, cycle = name.partition(":")
    return work / name / f"model_{cycle or 1}.pt"


def read_training(network: Mapping[str, Any], args: argparse.Namespace) -> ConfigParser:
    """Read the training configuration of a network with its changes."""
    part, bundle = network.get("part", "segmenter"), bundle_of(network)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / ("train.json" if part == "denoiser" else "train_segmenter.json"))
    changes = {"bundle_root": str(bundle), "dataset_dir": str(args.dataset_dir), "device": args.device}
    for key, value in {**changes, **network.get("settings", {})}.items():
        parser[key] = value
    return parser


def prepare_cases(args: argparse.Namespace) -> None:
    """Preprocess the training cases once."""
    if not (args.work / "cases.npz").is_file():
        prepare(read_training({}, args), args.work / "cases.npz")


def train(study: Mapping[str, Any], name: str, args: argparse.Namespace) -> None:
    """Train one copy of a network, unless its weights exist.

    Raises:
        UserError: if they come from another number of batches.
    """
    network_name = copies_of(study)[name]
    network, copy = study["networks"][network_name], int(name.rpartition("_")[2])
    folder, part = args.work / name, network.get("part", "segmenter")
    budget = Budget(**study["budgets"][network.get("budget", part)])
    budget = replace(budget, batches=max(budget.cycles, math.ceil(budget.batches * args.scale)))
    if (folder / "training.json").is_file():
        done = json.loads((folder / "training.json").read_text(encoding="utf-8"))["batches"]
        if done != budget.batches:
            raise UserError(f"{folder}: found {done} batches, expected {budget.batches}; give another --work")
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1000 * list(study["networks"]).index(network_name) + copy)
    torch.backends.cudnn.benchmark = True
    parser = read_training(network, args)
    batches = _batches(network, copy, args)
    trained = parser.get_parsed_content("network_def").to(args.device)
    if "from" in network:
        load_network(trained, weights_file(network["from"], args.work), args.device)
    loss = parser.get_parsed_content("loss")
    if part == "segmenter":
        ends = train_segmenter(trained, loss, batches, budget, folder / "state.pt")
    else:
        if "bundle" in network:
            shipped = common.load_pair(common.read_bundle(bundle_of(network), device=args.device))
            trained.segmenter = shipped.segmenter
        parser["corruption"] = None  # other segmenters or the phantom's own make honest pre-segmentations
        ends = train_denoiser(
            trained, parser.get_parsed_content("train::inferer"), loss, batches, budget, folder / "state.pt"
        )
    for number, end in enumerate(ends, 1):
        torch.save(end.state_dict(), folder / f"model_{number}.pt")
    if network.get("held_out"):
        _write_fold(ends[-1], batches, copy, folder / "maps.npz")
    common.write_json(folder / "training.json", {"batches": budget.batches})


def _batches(network: Mapping[str, Any], copy: int, args: argparse.Namespace) -> Batches:
    device = torch.device(args.device)
    window = common.read_bundle(bundle_of(network))["roi_size"]
    if network.get("bundle") == "phantom":
        return Batches(device, window)
    cases = dict(np.load(args.work / "cases.npz"))
    if network.get("held_out"):
        return Batches(device, window, cases, held_out=copy)
    if network.get("part") != "denoiser":
        return Batches(device, window, cases)
    out_of_fold = cases["label"].copy()  # a network that needs no folds does not see them
    for fold in range(FOLDS) if needs_folds(network) else ():
        with np.load(args.work / f"fold_segmenter_{fold}" / "maps.npz") as maps:
            out_of_fold[cases["fold"] == fold] = maps["label"]
    return Batches(device, window, cases, out_of_fold)


def _write_fold(network: nn.Module, batches: Batches, fold: int, file: Path) -> None:
    """Write a segmenter's label maps of the cases that it was not trained on."""
    assert batches.cases is not None
    maps = []
    for case in np.flatnonzero(batches.cases["fold"] == fold):
        with torch.no_grad(), torch.autocast(batches.device.type, torch.bfloat16):
            maps.append(network(batches.image[case][None]).argmax(1).byte().cpu().numpy())
    np.savez_compressed(file, label=np.stack(maps))


def batches_of(row: Mapping[str, Any], study: Mapping[str, Any], work: Path) -> int:
    """Return the batches of all trainings that a row needs, with those of the segmenters of other folds."""
    copies = copies_of(study)
    names = {network.partition(":")[0] for network in row["networks"]}
    names |= {network["from"] for name in names if "from" in (network := study["networks"][copies[name]])}
    if any(needs_folds(study["networks"][copies[name]]) for name in names):
        names |= {name for name, network in copies.items() if study["networks"][network].get("held_out")}
    return sum(json.loads((work / name / "training.json").read_text(encoding="utf-8"))["batches"] for name in names)


def load_segmenter(study: Mapping[str, Any], name: str, args: argparse.Namespace) -> nn.Module:
    """Return a trained segmenter."""
    network = study["networks"][copies_of(study)[name.partition(":")[0]]]
    built = read_training(network, args).get_parsed_content("network_def")
    return load_network(built, weights_file(name, args.work), args.device)


def load_denoiser(pair: nn.Module, name: str, work: Path) -> None:
    """Give a pair the weights of a trained denoiser."""
    file = weights_file(name, work)
    load_weights(pair.denoiser, read_weights(file), file)
