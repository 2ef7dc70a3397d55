"""What a contender says about a case, and how well that fits the truth."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import ResampleToMatch
from tqdm import tqdm

from monai_pdddpm.bundle import load_network
from monai_pdddpm.data import case_name
from monai_pdddpm.handlers.case_report import write_json as write_json
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.metrics import calibration_metrics, near_structure
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import load_weights, read_weights
from monai_pdddpm.transforms.case_summary import agreement

ROOT = Path(__file__).resolve().parents[2]
Draw = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def read_bundle(bundle: Path, overrides: Mapping[str, Any]) -> ConfigParser:
    """Read a bundle's ``evaluate.json`` and apply overrides."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "evaluate.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu", "write_members": True, **overrides})
    return parser


def run_bundle(verb: str, options: Mapping[str, Any], log: Path) -> None:
    """Run a bundle's command in a process of its own, which finds this repository's modules.

    Args:
        verb: such as ``training``.
        options: of the command, by name.
        log: file for what it prints.

    Raises:
        SystemExit: when it fails.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", verb]
    for key, value in options.items():
        command += [f"--{key}", value if isinstance(value, str) else repr(value)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        raise SystemExit(f"{verb}: it failed, see {log}")


def load_cases(parser: ConfigParser, cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Read and preprocess cases as the bundle does: ``image`` (1, C, ...), ``label`` (...), ``case``, ``voxel_ml``."""
    preprocessing = parser.get_parsed_content("preprocessing")
    to_image = ResampleToMatch(mode="nearest", padding_mode="zeros")
    items = []
    for case in tqdm(cases, desc="reading", disable=None):
        item = preprocessing(dict(case))
        image = item["image"]
        label = to_image(item["label"], img_dst=image)  # it came on the scan's grid
        items.append(
            {
                "case": case_name(case["image"]),
                "image": image.as_tensor()[None].float(),
                "label": torch.as_tensor(np.asarray(label))[0].round().long(),
                "voxel_ml": float(np.abs(np.linalg.det(np.asarray(image.affine)[:3, :3]))) / 1000,
            }
        )
    return items


def pair_of(parser: ConfigParser, model_file: Path, device: str = "cpu") -> PDDDPM:
    """Return segmenter and denoiser with their weights."""
    network = load_network(parser.get_parsed_content("network_def"), model_file, device)
    assert isinstance(network, PDDDPM)
    return network


def members(parser: ConfigParser, network: PDDDPM) -> Draw:
    """Draw the method's members."""
    inferer = parser.get_parsed_content("inferer")
    inferer.progress = False
    classes = len(parser.get_parsed_content("labels"))

    def draw(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = inferer(image, network)[0]
        return output[:classes], output[3 * classes :].unflatten(0, (-1, classes))

    return draw


def passes(parser: ConfigParser, networks: Sequence[PDDDPM], flips: Sequence[Sequence[int]] = ((),)) -> Draw:
    """Ask segmenters, each once for every flip; their answers are the members."""
    classes = len(parser.get_parsed_content("labels"))
    inferer = PDDDPMInferer(
        roi_size=parser["roi_size"], time_steps=[], members=1, overlap=parser["overlap"], progress=False
    )

    def draw(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answers = []
        for network, axes in itertools.product(networks, flips):
            spatial = [axis + 2 for axis in axes]
            answers.append(inferer(image.flip(spatial), network)[0, :classes].flip([a - 1 for a in spatial]))
        stacked = torch.stack(answers)
        return stacked.mean(0), stacked

    return draw


def all_flips(dims: int) -> list[tuple[int, ...]]:
    """Return the subsets of the axes."""
    return [axes for n in range(dims + 1) for axes in itertools.combinations(range(dims), n)]


def with_dropout(network: PDDDPM) -> PDDDPM:
    """Let a segmenter's dropout layers draw anew at each call (MC dropout, Gal & Ghahramani 2016)."""
    for module in network.segmenter.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.train()
    return network


def with_segmenter(network: PDDDPM, file: Path) -> PDDDPM:
    """Load another segmenter into the pair."""
    load_weights(network.segmenter, read_weights(file), file)
    return network


def soft_dice(p: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the Dice that probabilities p promise a mask: 2 sum(p in the mask) / (sum p + size of the mask)."""
    return float(2 * p[mask].sum() / (p.sum() + mask.sum()).clamp(min=1e-6))


def measure(mean: torch.Tensor, drawn: torch.Tensor, label: torch.Tensor, voxel_ml: float) -> dict[str, Any]:
    """Compare one case's answer with the truth.

    Args:
        mean: (K, ...) probabilities.
        drawn: (N, K, ...) probabilities of the members.
        label: (...) true classes.
        voxel_ml: a voxel's volume.

    Returns:
        Dice (mean over classes, and each); near the structure ECE, NLL, Brier, AUROC of errors; one member's Dice and
        NLL; ``spread``, voxels on which two members differ as a share of the foreground; ``agreement``, mean Dice of
        the members with the answer; volumes of truth and members in mL, per class.
    """
    classes = len(mean)
    near = near_structure(label)
    answer, labels = mean.argmax(0), drawn.argmax(1)
    pairs = list(itertools.combinations(range(len(labels)), 2))
    foreground = max(1, int((answer > 0).sum()))
    one = calibration_metrics(drawn[0], label, near)
    return {
        "dice": agreement(answer[None], label, range(1, classes)),
        **{f"dice_{k}": agreement(answer[None], label, [k]) for k in range(1, classes)},
        **calibration_metrics(mean, label, near),
        "one_dice": agreement(labels[:1], label, range(1, classes)),
        "one_nll": one["nll"],
        "spread": float(np.mean([int((labels[i] != labels[j]).sum()) for i, j in pairs])) / foreground
        if pairs
        else 0.0,
        "agreement": agreement(labels, answer, range(1, classes)),
        "expected_dice": float(np.mean([soft_dice(mean[k], answer == k) for k in range(1, classes)])),
        "volume_ml": [int((label == k).sum()) * voxel_ml for k in range(1, classes)],
        "members_ml": [[int((m == k).sum()) * voxel_ml for m in labels] for k in range(1, classes)],
        "mean_ml": [float(mean[k].sum()) * voxel_ml for k in range(1, classes)],
    }


def measure_all(draw: Draw, items: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Ask a contender about all cases.

    Returns:
        ``cases`` {name: what `measure` found}, and ``seconds_per_case``, of the drawing alone.
    """
    cases, seconds = {}, 0.0
    for item in tqdm(items, desc=name, disable=None):
        begin = time.perf_counter()
        mean, drawn = draw(item["image"])
        seconds += time.perf_counter() - begin
        cases[item["case"]] = measure(mean, drawn, item["label"], item["voxel_ml"])
    return {"seconds_per_case": seconds / len(items), "cases": cases}
