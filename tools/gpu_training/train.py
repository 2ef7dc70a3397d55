"""Train the networks of the phantom and the hippocampus bundle on a GPU, see README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from batches import FOLDS, Batches, prepare
from fit import Budget, train_denoiser, train_segmenter

from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.losses import DenoisingLoss
from monai_pdddpm.networks import PDDDPM

BUNDLES = {"phantom": "phantom_segmentation", "hippocampus": "hippocampus_mri_segmentation"}
WINDOWS = {"phantom": (48, 56, 40), "hippocampus": (40, 56, 40)}


def read_config(task: str, file: str) -> ConfigParser:
    """Read a configuration of a bundle."""
    parser = ConfigParser()
    parser.read_config(Path(__file__).parents[2] / "bundles" / BUNDLES[task] / "configs" / file)
    return parser


def bundle_network(task: str) -> PDDDPM:
    """Return the pair of a bundle with random weights."""
    return read_config(task, "inference.json").get_parsed_content("network_def")


def segmenter_loss() -> nn.Module:
    """Return Dice and cross-entropy."""
    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def out_of_fold(args: argparse.Namespace, budget: Budget, device: torch.device) -> None:
    """Train a segmenter without each fold, and write its label maps of that fold to ``out_of_fold.npz``."""
    cases = dict(np.load(args.work / "cases.npz"))
    maps = np.zeros_like(cases["label"])
    for fold in range(FOLDS):
        batches = Batches(device, WINDOWS["hippocampus"], cases, held_out=fold)
        segmenter = bundle_network("hippocampus").segmenter.requires_grad_(True).to(device)
        network = train_segmenter(segmenter, segmenter_loss(), batches, budget, args.work / f"fold_{fold}.state")[-1]
        for case in np.flatnonzero(cases["fold"] == fold):
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                maps[case, 0] = network(batches.image[case][None]).argmax(1)[0].cpu().numpy()
    np.savez_compressed(args.work / "out_of_fold.npz", label=maps)


def save(network: nn.Module, path: Path) -> None:
    """Write a bare state dict in half precision."""
    torch.save({key: x.half() if x.is_floating_point() else x for key, x in network.state_dict().items()}, path)


def load(network: nn.Module, path: Path) -> None:
    """Read a bare state dict."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key: x.float() if x.is_floating_point() else x for key, x in weights.items()})


def main(argv: list[str] | None = None) -> None:
    """Run one training."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("job", choices=["prepare", "segmenter", "folds", "denoiser"])
    options.add_argument("--task", choices=list(BUNDLES), default="hippocampus")
    options.add_argument("--work", type=Path, required=True, help="folder of prepared cases and weights")
    options.add_argument("--dataset_dir", type=Path)
    options.add_argument("--init", type=Path, help="weights to start from")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--batches", type=int, default=10**9, help="stop after this number of batches")
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--learning_rate", type=float, default=1e-3)
    options.add_argument("--weight_decay", type=float, default=1e-4)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args(argv)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.job == "prepare":
        parser = read_config("hippocampus", "train.json")
        parser["dataset_dir"] = str(args.dataset_dir)
        return prepare(parser, args.work / "cases.npz")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    budget = Budget(
        batches=args.batches,
        seconds=args.seconds,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        average=0.999 if args.job == "denoiser" else 0.998,
    )
    if args.job == "folds":
        return out_of_fold(args, budget, device)
    pair = bundle_network(args.task).to(device)
    network = pair.segmenter.requires_grad_(True) if args.job == "segmenter" else pair.denoiser
    if args.init:
        load(network, args.init)
    kept = {"hippocampus": "cases.npz", "phantom": ""}[args.task]
    cases = dict(np.load(args.work / kept)) if kept else None
    state = args.work / f"{args.task}_{args.job}.state"
    if args.job == "segmenter":
        batches = Batches(device, WINDOWS[args.task], cases)
        trained = train_segmenter(network, segmenter_loss(), batches, budget, state)[-1]
    else:
        maps = np.load(args.work / "out_of_fold.npz")["label"] if kept else None
        load(pair.segmenter, args.work / f"{args.task}_segmenter.pt")
        call = DenoisingInferer(
            time_steps=range(999, -1, -1), dense_fraction=0.5, solver_steps=[1] * 16 + [2] * 3 + [4]
        )
        batches = Batches(device, WINDOWS[args.task], cases, maps)
        trained = train_denoiser(pair, call, DenoisingLoss("x0", lambda_dice=0.0), batches, budget, state)[-1]
    return save(trained, args.work / f"{args.task}_{args.job}.pt")


if __name__ == "__main__":
    main()
