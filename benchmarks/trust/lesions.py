"""Is the narrow denoiser as good on lesions? Trained on one half of each brain, measured on the other.

``python benchmarks/trust/lesions.py --dataset_dir <data>`` cuts a data set's scans in two along their first axis,
trains the lesion bundle's segmenter and a few denoisers behind it on the first halves, and evaluates them on the
second ones, all by the bundle's own commands. Halves of one brain are not independent: the figures rank denoisers, and
say nothing of new patients. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.costs import denoiser_flops, parameters  # noqa: E402
from benchmarks.trust import measuring  # noqa: E402
from benchmarks.volume.volume import table  # noqa: E402
from monai_pdddpm.data import training_cases  # noqa: E402

BUNDLE = ROOT / "bundles" / "ms_lesion_mri_segmentation"
NARROW = {"network_def::denoiser::channels": [32, 64, 96], "network_def::denoiser::upsampling": "nearest"}
VARIANTS: dict[str, dict[str, Any]] = {
    "128 channels at the lowest level, trilinear upwards (as shipped)": {},
    "96 channels, nearest neighbours upwards": NARROW,
    "96 channels, nearest neighbours, two midpoint steps": {**NARROW, "network_def::denoiser::solver_steps": 2},
}
METRICS = {"dice": "lesion", "lesion_f1": "lesion", **dict.fromkeys(("ece", "nll", "error_auroc"), "near structure")}


def write_halves(dataset_dir: Path, folder: Path) -> None:
    """Write a Decathlon folder whose training cases are the first halves of all brains and its validation the second.

    Args:
        dataset_dir: Decathlon folder, whose scans and labels share their grids.
        folder: where to.
    """
    if (folder / "dataset.json").is_file():
        return
    content: dict[str, Any] = {"name": "halves", "training": [], "validation": []}
    for case in training_cases(dataset_dir, ["training", "validation"]):
        for section, second in (("training", False), ("validation", True)):
            entry = {}
            for key in ("image", "label"):
                scan = nib.load(case[key])
                middle = scan.shape[0] // 2
                half = scan.slicer[middle:] if second else scan.slicer[:middle]
                path = folder / section / key / Path(case[key]).name
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(half, path)
                entry[key] = str(path.relative_to(folder))
            content[section].append(entry)
    measuring.write_json(folder / "dataset.json", content)


def run(verb: str, config: str, log: Path, **options: Any) -> None:
    """Run one of the lesion bundle's commands."""
    config_file = str(BUNDLE / "configs" / config)
    measuring.run_bundle(
        verb, {"config_file": config_file, "bundle_root": str(BUNDLE), "device": "cpu", **options}, log
    )


def train_and_measure(work: Path, epochs: int) -> dict[str, Any]:
    """Return by variant what its cases were measured at, in the order of ``VARIANTS``.

    Args:
        work: folder with ``halves``; networks and evaluations are kept there.
        epochs: of each denoiser; the segmenter's are the bundle's.
    """
    data = str(work / "halves")
    segmenter = work / "segmenter" / "segmenter.pt"
    if not segmenter.is_file():
        run(
            "training",
            "train_segmenter.json",
            work / "segmenter.log",
            dataset_dir=data,
            output_dir=str(segmenter.parent),
        )
    found: dict[str, Any] = {}
    for number, (name, settings) in enumerate(tqdm(VARIANTS.items(), desc="denoisers", disable=None)):
        folder = work / f"denoiser_{number}"
        options = {"dataset_dir": data, "output_dir": str(folder), "model_file": str(folder / "model.pt"), **settings}
        if not (folder / "model.pt").is_file():
            more = {"segmenter_files": [str(segmenter)], "max_epochs": epochs, "val_interval": epochs + 1}
            run("training", "train.json", folder / "training.log", **options, **more)
        if not (folder / "evaluation_cases.csv").is_file():
            run("evaluating", "evaluate.json", folder / "evaluation.log", **options, calibrated=False)
        denoiser = measuring.read_bundle(BUNDLE, settings).get_parsed_content("network_def").denoiser
        roi = measuring.read_bundle(BUNDLE, {})["roi_size"]
        found[name] = {
            "parameters": parameters(denoiser),
            "flops": denoiser_flops(denoiser, denoiser.image_channels, denoiser.num_classes, roi)["call"],
            "cases": read_cases(folder / "evaluation_cases.csv"),
        }
    return found


def read_cases(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return method -> case -> metric -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            values = found.setdefault(row["method"], {}).setdefault(row["case"], {})
            values |= {m: float(row[m]) for m, label in METRICS.items() if label == row["label"] and row[m]}
    return found


def as_markdown(found: dict[str, Any], epochs: int) -> str:
    """Return the table: each metric of each case, one after the other."""
    first = next(iter(found.values()))["cases"]["segmenter"]
    lines = [("the segmenter alone", "", "", first)]
    lines += [
        (name, f"{row['parameters'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.1f}", row["cases"]["ensemble"])
        for name, row in found.items()
    ]
    rows = [
        [*line[:3], *(", ".join(f"{case[metric]:.3f}" for case in line[3].values()) for metric in METRICS)]
        for line in lines
    ]
    head = ["denoiser", "parameters", "GFLOP a call", "Dice", "lesion F1", "ECE", "NLL", "AUROC of errors"]
    return table(head, rows) + (
        f"\n\nOf {', '.join(first)}, each the half of a brain whose other half was trained on; each denoiser trained "
        f"once, for {epochs} epochs; the bundle's chain, not calibrated."
    )


def main() -> None:
    """Print the table and keep it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dataset_dir", type=Path, required=True, help="lesion data in the Decathlon's layout")
    options.add_argument("--work", type=Path, default=ROOT / "runs" / "lesions", help="networks; nothing is repeated")
    options.add_argument("--epochs", type=int, default=5, help="of each denoiser")
    args = options.parse_args()
    work = args.work.resolve()
    write_halves(args.dataset_dir, work / "halves")
    found = train_and_measure(work, args.epochs)
    text = as_markdown(found, args.epochs)
    print(text)
    (HERE / "results_lesions.md").write_text(text + "\n", encoding="utf-8")
    measuring.write_json(HERE / "results_lesions.json", {"epochs": args.epochs, "variants": found})


if __name__ == "__main__":
    main()
