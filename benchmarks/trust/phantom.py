"""Do members differ as annotations do? Members of the phantom's bundle against probabilities that are known.

``python benchmarks/trust/phantom.py`` draws many members for fresh scans and compares, near the borders, each voxel's
frequency over members with the probability that the generator drew from, and the correlation of neighbouring voxels
over members with that over annotations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from monai_pdddpm.bundle import load_network
from monai_pdddpm.data.phantom_distribution import Phantom, make_phantom_scan

ROOT = Path(__file__).parents[2]
FIRST_SEED = 9000  # far from the seeds of the bundle's own scans
DISTANCES = (1, 2, 4, 8)

Array = NDArray[Any]


def near_border(phantom: Phantom) -> Array:
    """Return the voxels where the law is not quite sure, or that are no background: (X, Y, Z) bool."""
    return (phantom.probability.max(0) < 0.98) | (phantom.probability[0] < 0.5)


def calibration_error(predicted: Array, known: Array, bins: int = 15) -> float:
    """Return the mean gap between prediction and known probability in bins of the prediction, weighted by voxels.

    Both of any shape, in [0, 1].
    """
    predicted, known = predicted.ravel(), known.ravel()
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    gap = np.bincount(index, weights=predicted - known, minlength=bins)
    return float(np.abs(gap).sum() / len(predicted))


def neighbour_correlation(foreground: Array, region: Array, distance: int) -> float:
    """Return the correlation over samples of pairs of voxels ``distance`` apart along an axis, averaged over pairs.

    Args:
        foreground: (samples, X, Y, Z), 0 and 1.
        region: (X, Y, Z) bool, both voxels of a pair lie in it.
        distance: in voxels.
    """
    centred = foreground - foreground.mean(0)
    covariance = variance = 0.0
    for axis in range(3):
        a, b = (
            tuple(slice(*s) if i == axis else slice(None) for i in range(3))
            for s in ((None, -distance), (distance, None))
        )
        pairs = region[a] & region[b]
        left, right = centred[(slice(None), *a)][:, pairs], centred[(slice(None), *b)][:, pairs]
        covariance += float((left * right).sum())
        variance += float((left**2 + right**2).sum()) / 2
    return covariance / variance if variance else float("nan")


def sample_labels(members: Array) -> Array:
    """Return members' probabilities (N, K, X, Y, Z) as label maps (N, X, Y, Z)."""
    return members.argmax(1)


def measure(phantom: Phantom, output: Array, classes: int = 3) -> dict[str, float]:
    """Compare an inferer's output, (3K + members K, X, Y, Z), with the law."""
    region, known = near_border(phantom), phantom.probability
    members = output[3 * classes :].reshape(-1, classes, *region.shape)
    labels = sample_labels(members)
    frequency = np.stack([(labels == k).mean(0) for k in range(classes)])
    rng = np.random.default_rng(0)
    annotations = np.stack([phantom.draw_annotation(rng) for _ in range(len(members))])
    unsure = (known[0] > 0.1) & (known[0] < 0.9)

    def against(p: Array, name: str) -> dict[str, float]:
        return {
            f"{name}_ece": calibration_error(p[1:, region], known[1:, region]),
            f"{name}_mae": float(np.abs(p - known)[:, region].mean()),
        }

    result = against(output[2 * classes : 3 * classes], "segmenter") | against(output[:classes], "mean")
    result |= against(frequency, "frequency")
    truth = np.stack([(annotations == k).mean(0) for k in range(classes)])
    result |= against(truth, "annotations")  # what as many true annotations would give
    for d in DISTANCES:
        result[f"correlation_{d}"] = neighbour_correlation((labels > 0).astype(np.float32), unsure, d)
        result[f"readings_correlation_{d}"] = neighbour_correlation((annotations > 0).astype(np.float32), unsure, d)
    return result


def run(settings: dict[str, Any], scans: int, members: int, model_file: str | None = None) -> dict[str, float]:
    """Draw members for fresh scans with ``inference.json`` under the given settings; return means over scans."""
    bundle = ROOT / "bundles" / "phantom_segmentation"
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "members": members, "write_members": True, "device": "cpu"})
    parser.update(settings)
    if model_file:
        parser["model_file"] = model_file
    network = load_network(parser.get_parsed_content("network_def"), parser.get_parsed_content("model_file"), "cpu")
    inferer = parser.get_parsed_content("inferer")
    inferer.progress = False
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + scans):
        phantom = make_phantom_scan(seed=seed)
        image = torch.as_tensor((phantom.image - phantom.image.mean()) / phantom.image.std())
        found.append(measure(phantom, inferer(image[None, None], network)[0].numpy()))
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scans", type=int, default=2)
    options.add_argument("--members", type=int, default=64)
    options.add_argument("--model_file", default=None)
    options.add_argument("--settings", nargs="*", default=["{}"], help="overrides of inference.json, as JSON objects")
    args = options.parse_args(argv)
    for text in args.settings:
        settings = json.loads(text)
        result = run(settings, args.scans, args.members, args.model_file)
        print(json.dumps(settings))
        for name in ("segmenter", "mean", "frequency", "annotations"):
            print(f"  {name:10} ECE {result[f'{name}_ece']:.4f}  MAE {result[f'{name}_mae']:.4f}")
        pairs = [
            f"{d}: {result[f'correlation_{d}']:.2f} ({result[f'readings_correlation_{d}']:.2f})" for d in DISTANCES
        ]
        print("  correlation at distance, members (annotations):", ", ".join(pairs), flush=True)


if __name__ == "__main__":
    main()
