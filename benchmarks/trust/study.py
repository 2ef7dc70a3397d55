"""Which training and which chain give an answer that is accurate and honest about itself? The study, rerunnable.

``python benchmarks/trust/study.py --dataset_dir <data>`` trains every network that ``variants/`` names, each with the
same number of epochs on the same cases and behind the same segmenter, asks them about cases that none has seen, and
prints the table. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # the training's own processes find the rivals below it

from benchmarks.trust import measuring, report  # noqa: E402
from monai_pdddpm.data import fold_cases, labelled_cases  # noqa: E402

FOLDS, FOLD = 5, 0


def read_variants(names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the variants by name, those asked for or all, in the order of ``variants/order.json``."""
    order = json.loads((HERE / "variants" / "order.json").read_text(encoding="utf-8"))
    unknown = set(names) - set(order)
    if unknown:
        raise SystemExit(f"--only: found {', '.join(sorted(unknown))}, expected of {', '.join(order)}")
    chosen = [name for name in order if not names or name in names]
    return {name: json.loads((HERE / "variants" / f"{name}.json").read_text(encoding="utf-8")) for name in chosen}


def base_settings() -> dict[str, Any]:
    """Return what all denoisers of the study share unless a variant says otherwise."""
    return json.loads((HERE / "variants" / "base.json").read_text(encoding="utf-8"))


def train(name: str, variant: Mapping[str, Any], copy: int, args: argparse.Namespace) -> None:
    """Train one network by the bundle's own command, in a process of its own, unless its weights are there."""
    folder = args.work / f"{name}_{copy}"
    if (folder / "model.pt").is_file():
        return
    configs = args.bundle / "configs"
    stage = variant["stage"]
    base = base_settings() if stage[0] == "train.json" else {}
    options = {
        "bundle_root": str(args.bundle),
        "dataset_dir": str(args.dataset_dir),
        "output_dir": str(folder),
        "folds": FOLDS,
        "fold": copy if "fold" in variant else FOLD,
        "seed": 1000 * copy,
        "device": "cpu",
        "max_epochs": args.epochs,
        "batch_size": 2,
        "val_interval": args.epochs + 1,
        "model_file": str(folder / "model.pt"),
        **base.get("common", {}),
        **base.get("train", {}),
        **variant.get("common", {}),
        **variant.get("train", {}),
    }
    if stage[0] == "train.json":
        options["segmenter_files"] = [str(args.work / "segmenter_0" / "model.pt")]
    if "cross_fitting.json" in stage:
        options["fold_files"] = str(args.work / "fold_segmenter_{fold}" / "model.pt")
    begin = time.time()
    config_files = str([str(configs / file) for file in stage])
    measuring.run_bundle("training", {"config_file": config_files, **options}, folder / "training.log")
    measuring.write_json(folder / "training.json", {"minutes": (time.time() - begin) / 60, "options": options})


def contender(row: Mapping[str, Any], name: str, variant: Mapping[str, Any], args: argparse.Namespace) -> Callable:
    """Return the function that draws a row's members."""
    base = base_settings() if variant["stage"][0] == "train.json" else {}
    settings = {**base.get("common", {}), **base.get("infer", {}), **variant.get("common", {}), **row.get("infer", {})}
    parser = measuring.read_bundle(args.bundle, settings)
    kind = row.get("contender", "members")
    if kind == "members":
        return measuring.members(parser, measuring.pair_of(parser, args.work / f"{name}_0" / "model.pt"))
    networks = []
    for copy in range(row.get("copies", 1)):
        network = measuring.read_bundle(args.bundle, settings).get_parsed_content("network_def").eval()
        networks.append(measuring.with_segmenter(network, args.work / f"{name}_{copy}" / "model.pt"))
    if kind == "dropout":
        return measuring.passes(parser, [measuring.with_dropout(networks[0])] * row["passes"])
    flips = [tuple(axes) for axes in row.get("flips", [[]])]
    return measuring.passes(parser, networks, flips)


def is_trained(name: str, row: Mapping[str, Any], work: Path) -> bool:
    """Return whether all networks of a row are there."""
    return all((work / f"{name}_{copy}" / "model.pt").is_file() for copy in range(row.get("copies", 1)))


def rows_of(variants: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (variant, row) for all rows."""
    return [(name, row) for name, variant in variants.items() for row in variant["rows"]]


def evaluate(variants: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Measure every row that was not measured with the same settings before."""
    training = labelled_cases(args.dataset_dir, "training")
    if args.on == "fold":
        kept = {case["image"] for case in fold_cases(training, FOLDS, FOLD)}
        cases = [case for case in training if case["image"] not in kept]
    else:
        cases = labelled_cases(args.dataset_dir, "validation")
    items: list[dict[str, Any]] = []
    for name, row in rows_of(variants):
        if args.on != "fold" and not row.get("final"):
            continue
        path = args.work / "rows" / args.on / f"{row['name']}.json"
        asked = {"row": row, "variant": {k: variants[name].get(k) for k in ("stage", "common", "train")}}
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
            continue
        if not is_trained(name, row, args.work):
            print(f"{row['name']}: not trained yet")
            continue
        if not items:
            items = measuring.load_cases(measuring.read_bundle(args.bundle, {}), cases)
        torch.manual_seed(0)  # dropout draws from torch's generator
        some = items[:: row.get("every", 1)]
        found = measuring.measure_all(contender(row, name, variants[name], args), some, row["name"])
        measuring.write_json(path, {"asked": asked, "machine": platform.processor() or platform.machine(), **found})


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True, help="the hippocampus data, with its dataset.json")
    options.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "hippocampus_mri_segmentation")
    options.add_argument("--work", type=Path, default=ROOT / "runs" / "trust", help="weights and measurements")
    options.add_argument("--epochs", type=int, default=5, help="of each network, 68 batches of 2 crops each")
    options.add_argument("--on", choices=["fold", "validation"], default="fold", help="cases to measure on")
    options.add_argument("--only", nargs="*", default=[], help="variants, all by default")
    options.add_argument("--stages", nargs="*", default=["train", "measure", "report"])
    args = options.parse_args(argv)
    args.work, args.bundle, args.dataset_dir = args.work.resolve(), args.bundle.resolve(), args.dataset_dir.resolve()
    variants = read_variants(args.only)
    if "train" in args.stages:
        jobs = [(name, v, copy) for name, v in variants.items() for copy in v.get("fold", range(v.get("copies", 1)))]
        for name, variant, copy in tqdm(jobs, desc="training", disable=None):
            train(name, variant, copy, args)
    if "measure" in args.stages:
        evaluate(variants, args)
    if "report" in args.stages:
        report.write(args.work, args.on, [row["name"] for _, row in rows_of(read_variants())], HERE)


if __name__ == "__main__":
    main()
