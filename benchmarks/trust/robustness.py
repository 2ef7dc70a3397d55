"""How do segmenter and ensemble bear a worse scan? Dice and ECE under noise, blur, bias field and low resolution.

``python benchmarks/trust/robustness.py --dataset_dir <data>`` spoils the validation scans in five ways and three
degrees, asks the bundle's segmenter and ensemble, and, when the study has trained them, its own segmenter, refiner,
deep ensemble and denoiser, which were trained alike; it writes a table and a figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.trust import measuring, study  # noqa: E402
from monai_pdddpm.data import labelled_cases  # noqa: E402
from monai_pdddpm.metrics.summary import statistic  # noqa: E402

mpl.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

# rows of the study -> how they are called here
RIVALS = {
    "segmenter": "segmenter (study)",
    "deep ensemble of 8": "deep ensemble of 8 (study)",
    "a plain refiner (SegResNet on image and presegmentation)": "refiner (study)",
    "base": "ensemble (study)",
}
# degree 1 to 3 of each; noise in standard deviations of the scan, blur in voxels, resolution as a share
DEGREES: dict[str, tuple[float, ...]] = {
    "Gaussian noise": (0.2, 0.4, 0.8),
    "Rician noise": (0.2, 0.4, 0.8),
    "blur": (0.6, 1.0, 1.5),
    "bias field": (0.3, 0.6, 1.0),
    "low resolution": (0.7, 0.5, 0.35),
}


def spoil(image: torch.Tensor, kind: str, degree: float, seed: int) -> torch.Tensor:
    """Return a spoilt scan, normalised anew as the bundle would.

    Args:
        image: (C, X, Y, Z), zero mean and unit variance.
        kind: of `DEGREES`.
        degree: its number there.
        seed: of what is random.
    """
    magnitude = image - image.min()
    change: Any
    if kind == "Gaussian noise":
        change = RandGaussianNoise(prob=1, std=degree, sample_std=False).set_random_state(seed)
    elif kind == "Rician noise":
        change = RandRicianNoise(prob=1, std=degree, sample_std=False).set_random_state(seed)
    elif kind == "blur":
        change = GaussianSmooth(sigma=degree)
    elif kind == "bias field":
        change = RandBiasField(prob=1, coeff_range=(degree, degree)).set_random_state(seed)
    elif kind == "low resolution":
        size = [max(4, round(n * degree)) for n in image.shape[1:]]
        change = lambda x: Resize(image.shape[1:], mode="trilinear")(Resize(size, mode="area")(x))  # noqa: E731
    else:
        raise ValueError(f"kind: {kind!r} was found, one of {', '.join(DEGREES)} is expected")
    return torch.as_tensor(np.asarray(NormalizeIntensity()(change(magnitude)))).float()


def contenders(args: argparse.Namespace) -> dict[str, Any]:
    """Return name -> function that draws."""
    parser = measuring.read_bundle(args.bundle, {})
    pair = measuring.pair_of(parser, args.bundle / "models" / "model.pt")
    found = {"segmenter": measuring.passes(parser, [pair]), "ensemble": measuring.members(parser, pair)}
    variants = study.read_variants()
    for name, row in study.rows_of(variants):
        if row["name"] in RIVALS and study.is_trained(name, row, args.work):
            found[RIVALS[row["name"]]] = study.contender(row, name, variants[name], args)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return {contender: {kind: [one list of measured cases for each degree, the clean scan first]}}."""
    cases = labelled_cases(args.dataset_dir, "validation")[:: args.every]
    items = measuring.load_cases(measuring.read_bundle(args.bundle, {}), cases)
    results: dict[str, Any] = {}
    for name, draw in contenders(args).items():
        clean = list(measuring.measure_all(draw, items, f"{name}, clean")["cases"].values())
        results[name] = {}
        for kind, degrees in DEGREES.items():
            results[name][kind] = [clean]
            for degree in degrees:
                spoilt = [
                    item | {"image": spoil(item["image"][0], kind, degree, seed)[None]}
                    for seed, item in enumerate(items)
                ]
                found = measuring.measure_all(draw, spoilt, f"{name}, {kind} {degree}")
                results[name][kind].append(list(found["cases"].values()))
    return results


def means(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean of Dice, ECE and NLL with its 95 % interval in the place of the cases."""
    return {
        name: {
            kind: [{m: statistic([case[m] for case in cases]) for m in ("dice", "ece", "nll")} for cases in degrees]
            for kind, degrees in kinds.items()
        }
        for name, kinds in results.items()
    }


def draw_figure(found: Mapping[str, Any], path: Path) -> None:
    """Draw Dice and ECE over the degrees."""
    figure, axes = plt.subplots(2, len(DEGREES), figsize=(14, 5.4), sharex="col", sharey="row", layout="constrained")
    for column, (kind, degrees) in enumerate(DEGREES.items()):
        for row, metric in enumerate(("dice", "ece")):
            axis = axes[row, column]
            for name, kinds in found.items():
                style = "--" if name.endswith("(study)") else "-"
                axis.plot(
                    range(len(degrees) + 1),
                    [d[metric]["mean"] for d in kinds[kind]],
                    style,
                    marker="o",
                    markersize=3,
                    label=name,
                )
            axis.grid(alpha=0.3)
            axis.set_xticks(range(len(degrees) + 1), ["clean", *map(str, degrees)])
        axes[0, column].set_title(kind)
    axes[0, 0].set_ylabel("Dice")
    axes[1, 0].set_ylabel("ECE near the structure")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=len(labels), fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True)
    options.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "hippocampus_mri_segmentation")
    options.add_argument("--work", type=Path, default=ROOT / "runs" / "trust", help="of the study")
    options.add_argument("--every", type=int, default=3, help="take every n-th validation case")
    args = options.parse_args(argv)
    results = run(args)
    found = means(results)
    cases = len(next(iter(results.values()))["blur"][0])
    content = {"cases": cases, "degrees": DEGREES, "results": found}
    (HERE / "results_robustness.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw_figure(found, ROOT / "docs" / "pictures" / "robustness.png")
    print(f"| contender | scan | {' | '.join(f'degree {d}: Dice, ECE' for d in range(4))} |\n|{'---|' * 6}")
    for name, kinds in found.items():
        for kind, degrees in kinds.items():
            cells = [f"{d['dice']['mean']:.3f}, {d['ece']['mean']:.3f}" for d in degrees]
            print(f"| {name} | {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
