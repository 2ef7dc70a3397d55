"""Train the networks of the phantom and the hippocampus bundle on a GPU, see README.md."""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from augmentation import augment
from phantoms import draw_annotations, draw_phantoms

from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.losses import DenoisingLoss
from monai_pdddpm.networks import PDDDPM

BUNDLES = {"phantom": "phantom_segmentation", "hippocampus": "hippocampus_mri_segmentation"}
PADDED = (48, 64, 48)
FOLDS = 5


def bundle_network(task: str) -> PDDDPM:
    """Return the pair of a bundle with random weights."""
    parser = ConfigParser()
    parser.read_config(Path(__file__).parents[2] / "bundles" / BUNDLES[task] / "configs" / "inference.json")
    return parser.get_parsed_content("network_def")


def prepare(dataset_dir: Path, work: Path) -> None:
    """Preprocess the hippocampus training cases as the bundle does, padded to one size, into ``work/cases.npz``."""
    from monai.transforms import Compose, ResizeWithPadOrCropd

    parser = ConfigParser()
    parser.read_config(Path(__file__).parents[2] / "bundles" / BUNDLES["hippocampus"] / "configs" / "train.json")
    parser["dataset_dir"] = str(dataset_dir)
    transforms = parser.get_parsed_content("train::deterministic_transforms")
    load = Compose([*transforms, ResizeWithPadOrCropd(["image", "label"], PADDED)])
    cases = [load(case) for case in parser.get_parsed_content("train::data")]
    numbers = [int("".join(filter(str.isdigit, Path(case["image"].meta["filename_or_obj"]).name))) for case in cases]
    np.savez_compressed(
        work / "cases.npz",
        image=torch.stack([case["image"].as_tensor() for case in cases]).half().numpy(),
        label=torch.stack([case["label"].as_tensor() for case in cases]).byte().numpy(),
        fold=np.array([(number + 1) // 2 % FOLDS for number in numbers]),  # files 2k-1 and 2k show one subject
    )


class Batches:
    """Random training batches: fresh phantoms, or augmented hippocampus cases.

    Args:
        task: ``"phantom"`` or ``"hippocampus"``.
        work: folder with ``cases.npz`` and, for the denoiser, ``out_of_fold.npz``.
        device: where batches are made.
        size: window of the bundle.
        excluded_fold: fold whose cases are left out; -1 keeps all.
    """

    def __init__(self, task: str, work: Path, device: torch.device, size: tuple[int, ...], excluded_fold: int = -1):
        self.task, self.device, self.size = task, device, size
        if task == "hippocampus":
            cases = np.load(work / "cases.npz")
            self.image = torch.as_tensor(cases["image"], dtype=torch.float32, device=device)
            self.maps = [torch.as_tensor(cases["label"], device=device)]
            if (work / "out_of_fold.npz").exists():
                self.maps.append(torch.as_tensor(np.load(work / "out_of_fold.npz")["label"], device=device))
            self.chosen = torch.as_tensor(np.flatnonzero(cases["fold"] != excluded_fold), device=device)

    def draw(self, count: int, strength: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return images (B, 1, ...) and label maps (B, 1, ...): truth and, for hippocampi, out-of-fold maps."""
        if self.task == "phantom":
            image, scaled = draw_phantoms(count, self.device)
            return image, [draw_annotations(scaled)]
        index = self.chosen[torch.randint(len(self.chosen), (count,), device=self.device)]
        return augment(self.image[index], [m[index] for m in self.maps], self.size, strength)


class Schedule:
    """Learning rate over a training of fixed time: a short warm-up, then half a cosine."""

    def __init__(self, optimizer: torch.optim.Optimizer, seconds: float, batches: int) -> None:
        self.optimizer, self.seconds, self.batches = optimizer, seconds, batches
        self.peak = optimizer.param_groups[0]["lr"]

    def __iter__(self) -> Iterator[float]:
        """Yield the elapsed fraction before each batch, until time or batches are used up."""
        start, done = time.monotonic(), 0
        while (elapsed := (time.monotonic() - start) / self.seconds) < 1 and done < self.batches:
            rate = self.peak * min(1, 0.05 + 40 * elapsed) * (1 + math.cos(math.pi * elapsed)) / 2
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield elapsed
            done += 1
        print(f"{done} batches in {time.monotonic() - start:.0f} s", flush=True)


class Average:
    """Exponential moving average of a network's parameters."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).requires_grad_(False), decay, 0

    def update(self, network: nn.Module) -> None:
        """Move towards the network's parameters; fast during the first batches."""
        self.updates += 1
        weight = 1 - min(self.decay, self.updates / (self.updates + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)


def train_segmenter(network: nn.Module, batches: Batches, args: argparse.Namespace) -> nn.Module:
    """Train a segmenter with Dice and cross-entropy; return its moving average."""
    average, loss_function = (
        Average(network, 0.998),
        DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=1e-4)
    network.train()
    for elapsed in Schedule(optimizer, args.seconds, args.batches):
        image, maps = batches.draw(args.batch_size, 1.0 if elapsed < 0.85 else 0.3)
        with torch.autocast(batches.device.type, torch.bfloat16):
            logits = network(image)
        _step(loss_function(logits.float(), maps[0]), network, optimizer)
        average.update(network)
    return average.network.eval()


def train_denoiser(pair: PDDDPM, batches: Batches, args: argparse.Namespace) -> nn.Module:
    """Train a denoiser with the package's training call and cross-entropy; return its moving average."""
    call = DenoisingInferer(time_steps=range(999, -1, -1), dense_fraction=0.5, solver_steps=[1] * 16 + [2] * 3 + [4])
    average, loss_function = Average(pair.denoiser, 0.999), DenoisingLoss("x0", lambda_dice=0.0)
    optimizer = torch.optim.AdamW(pair.denoiser.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    pair.train()
    for elapsed in Schedule(optimizer, args.seconds, args.batches):
        image, maps = batches.draw(args.batch_size, 1.0 if elapsed < 0.85 else 0.4)
        denoised = call(image, pair, maps[0], maps[1] if len(maps) > 1 else None)
        _step(loss_function(denoised, maps[0]), pair.denoiser, optimizer)
        average.update(pair.denoiser)
    return average.network.eval()


def _step(loss: torch.Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()


def out_of_fold(args: argparse.Namespace, device: torch.device, size: tuple[int, ...]) -> None:
    """Train a segmenter without each fold, and write its label maps of that fold to ``out_of_fold.npz``."""
    cases = np.load(args.work / "cases.npz")
    maps = np.zeros_like(cases["label"])
    for fold in range(FOLDS):
        batches = Batches("hippocampus", args.work, device, size, excluded_fold=fold)
        network = train_segmenter(
            bundle_network("hippocampus").segmenter.requires_grad_(True).to(device), batches, args
        )
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.job == "prepare":
        return prepare(args.dataset_dir, args.work)
    pair = bundle_network(args.task).to(device)
    size = (40, 56, 40) if args.task == "hippocampus" else (48, 56, 40)
    if args.job == "folds":
        return out_of_fold(args, device, size)
    network = pair.segmenter.requires_grad_(True) if args.job == "segmenter" else pair.denoiser
    if args.init:
        load(network, args.init)
    batches = Batches(args.task, args.work, device, size)
    if args.job == "segmenter":
        trained = train_segmenter(network, batches, args)
    else:
        load(pair.segmenter, args.work / f"{args.task}_segmenter.pt")
        trained = train_denoiser(pair, batches, args)
    return save(trained, args.work / f"{args.task}_{args.job}.pt")


if __name__ == "__main__":
    main()
