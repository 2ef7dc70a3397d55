"""How do segmenter and ensemble respond to worse scans? Accuracy, calibration and failure detection.

    python benchmarks/trust/robustness.py --dataset_dir <hippocampus>

Adds noise, blur, a bias field or a lower resolution to validation scans in three degrees, for the bundle's segmenter
and ensemble and for the main contenders of the study if they are trained. AURC is the mean risk 1 - Dice over all
coverages if cases are accepted by decreasing expected Dice, over all scans of a kind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    GaussianSmooth,
    NormalizeIntensity,
    RandBiasField,
    RandGaussianNoise,
    RandRicianNoise,
    Resize,
)
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.trust import measures, report, study, training
from benchmarks.trust.contenders import Draw, contender, ensemble, passes
from benchmarks.trust.samples import area_under_risk_coverage
from monai_pdddpm.utils.errors import friendly_errors

# Three degrees of each: noise in standard deviations of the scan, blur in voxels, coefficients of the logarithm of the
# bias field (random up to the degree, or all equal to it), resolution as a share.
DEGREES: dict[str, tuple[float, ...]] = {
    "Gaussian noise": (0.2, 0.4, 0.8),
    "Rician noise": (0.2, 0.4, 0.8),
    "blur": (0.6, 1.0, 1.5),
    "bias field": (0.1, 0.3, 0.5),
    "one-sided bias field": (0.3, 0.6, 1.0),
    "low resolution": (0.7, 0.5, 0.35),
}
METRICS = ("dice", "ece", "nll")
STUDIED = (
    "segmenter",
    "segmenter, trained as long as both networks",
    "deep ensemble of 5",
    "PD-DDPM, the bundle's chain (3 calls)",
)


def degrade(image: torch.Tensor, kind: str, degree: float, seed: int) -> torch.Tensor:
    """Return a worse scan, (C, X, Y, Z), normalized again as the bundle does; `kind` and `degree` are of `DEGREES`."""
    magnitude = image - image.min()
    if kind == "low resolution":
        small = Resize([max(4, round(n * degree)) for n in image.shape[1:]], mode="area")(magnitude)
        changed: Any = Resize(image.shape[1:], mode="trilinear")(small)
    else:
        change = {
            "Gaussian noise": RandGaussianNoise(prob=1, std=degree, sample_std=False).set_random_state(seed),
            "Rician noise": RandRicianNoise(prob=1, std=degree, sample_std=False).set_random_state(seed),
            "blur": GaussianSmooth(sigma=degree),
            "bias field": RandBiasField(prob=1, coeff_range=(-degree, degree)).set_random_state(seed),
            "one-sided bias field": RandBiasField(prob=1, coeff_range=(degree, degree)),
        }[kind]
        changed = change(magnitude)
    return torch.as_tensor(np.asarray(NormalizeIntensity()(changed))).float()


def draws(args: argparse.Namespace) -> dict[str, Draw]:
    """Return the functions that draw: those of the shipped bundle, and rows of the study that are trained."""
    parser = common.read_bundle(common.HIPPOCAMPUS, device=args.device)
    pair = common.load_pair(parser)
    found = {"shipped segmenter": passes(parser, [pair]), "shipped ensemble": ensemble(parser, pair)}
    content = study.read_study()
    for row in content["rows"]:
        files = [training.weights_file(name, args.work) for name in row["networks"]]
        if row["name"] in STUDIED and all(file.is_file() for file in files):
            found[f"study: {row['name']}"] = contender(row, content, args)
    return found


def measure(draw: Draw, items: Sequence[common.Item]) -> dict[str, Any]:
    """Return {kind: means of each degree, the clean scan first, and AURC} of a contender."""

    def cases(changed: Sequence[common.Item]) -> dict[str, dict[str, float]]:
        found = {}
        for item in changed:
            mean, drawn = (tensor.cpu() for tensor in draw(item["image"]))
            found[item["case"]] = measures.measure(mean, drawn, item["label"], item["voxel_ml"])
        return found

    clean, results = cases(items), {}
    for kind, degrees in DEGREES.items():
        all_degrees = [clean]
        for degree in degrees:
            worse = [
                item | {"image": degrade(item["image"][0].cpu(), kind, degree, seed)[None].to(item["image"].device)}
                for seed, item in enumerate(items)
            ]
            all_degrees.append(cases(worse))
        everything = [case for degree in all_degrees for case in degree.values()]
        risk, confidence = [1 - c["dice"] for c in everything], [c["expected_dice"] for c in everything]
        results[kind] = {
            "degrees": [{m: report.described({n: c[m] for n, c in d.items()}) for m in METRICS} for d in all_degrees],
            "aurc": area_under_risk_coverage(risk, confidence),
            "best_aurc": area_under_risk_coverage(risk, [-r for r in risk]),
        }
    return results


def as_markdown(found: Mapping[str, Any]) -> str:
    """Format the table."""
    head = ["contender", "scan", *(f"degree {d}: Dice, ECE" for d in range(4)), "AURC", "best AURC"]
    rows = [
        [name, kind, *(f"{d['dice']['mean']:.3f}, {d['ece']['mean']:.3f}" for d in result["degrees"])]
        + [f"{result[key]:.4f}" for key in ("aurc", "best_aurc")]
        for name, kinds in found.items()
        for kind, result in kinds.items()
    ]
    return common.table(head, rows)


def draw_figure(found: Mapping[str, Any], path: Path) -> None:
    """Draw Dice and ECE over the degrees."""
    shape = {"figsize": (16, 5.4), "sharex": "col", "sharey": "row"}
    with common.figure(path, 2, len(DEGREES), **shape) as (figure, axes):
        for column, (kind, degrees) in enumerate(DEGREES.items()):
            for axis, metric in zip(axes[:, column], ("dice", "ece"), strict=True):
                for name, kinds in found.items():
                    values = [d[metric]["mean"] for d in kinds[kind]["degrees"]]
                    axis.plot(values, "--" if name.startswith("study") else "-", marker="o", markersize=3, label=name)
                axis.grid(alpha=0.3)
                axis.set_xticks(range(len(degrees) + 1), ["clean", *map(str, degrees)])
            axes[0, column].set_title(kind)
        axes[0, 0].set_ylabel("Dice")
        axes[1, 0].set_ylabel("ECE near the structure")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write table, numbers and figure."""
    friendly_errors(force=True)
    options = common.script_options(__file__, __doc__, "trust")
    options.add_argument("--dataset_dir", type=Path, required=True)
    options.add_argument("--every", type=int, default=3, help="take every n-th validation case")
    args = options.parse_args(argv)
    cases = measures.validation_cases(args.dataset_dir)[:: args.every]
    items = common.load_items(common.read_bundle(common.HIPPOCAMPUS, device=args.device), cases)
    found = {name: measure(draw, items) for name, draw in tqdm(draws(args).items(), disable=None)}
    content = {
        "cases": len(items),
        "machine": common.machine(args.device),
        **common.stamp(),
        "degrees": DEGREES,
        "results": found,
    }
    common.write_results(args.output_dir, "results_robustness", content, as_markdown(found))
    draw_figure(found, args.output_dir / "results_robustness.png")


if __name__ == "__main__":
    main()
