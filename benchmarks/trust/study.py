"""Which training and which chain give an accurate and calibrated answer, and members that are samples?

    python benchmarks/trust/study.py --dataset_dir <hippocampus>                  # trains, measures, prints; resumable
    python benchmarks/trust/study.py --dataset_dir <hippocampus> --on validation
    python benchmarks/trust/study.py --dataset_dir <hippocampus> --epochs 5       # a short budget

`variants/` has one file per training and the rows of the table that it gives. All networks train on the same cases,
with the bundle's own number of epochs unless `--epochs` is given; all denoisers use the same segmenter. Finished work
is not repeated, and an interrupted training resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.trust import measures, report, rivals  # noqa: E402
from monai_pdddpm.data import fold_cases, labelled_cases  # noqa: E402
from monai_pdddpm.networks.weights import load_weights, read_weights  # noqa: E402
from monai_pdddpm.utils.errors import UserError, friendly_errors  # noqa: E402

FOLDS, FOLD = 5, 0
Variant = Mapping[str, Any]


def read_variants(names: Sequence[str] = ()) -> dict[str, Variant]:
    """Return the named variants, all by default, in the order of `variants/order.json`.

    Raises:
        UserError: if a name is unknown.
    """
    order = _read("order")
    if unknown := set(names) - set(order):
        raise UserError(f"--only: found {', '.join(sorted(unknown))}, expected of {', '.join(order)}; fix --only")
    return {name: _read(name) for name in order if not names or name in names}


def _read(name: str) -> Any:
    return json.loads((HERE / "variants" / f"{name}.json").read_text(encoding="utf-8"))


def settings_of(variant: Variant, *parts: str) -> dict[str, Any]:
    """Return a variant's settings; those of a denoiser extend `variants/base.json`."""
    base = _read("base") if variant["stage"][0] == "train.json" else {}
    return {key: value for part in parts for source in (base, variant) for key, value in source.get(part, {}).items()}


def rows_of(variants: Mapping[str, Variant]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (variant, row) of all rows."""
    return [(name, row) for name, variant in variants.items() for row in variant["rows"]]


def trainings_of(variants: Mapping[str, Variant]) -> list[tuple[str, Variant, int, int]]:
    """Return (folder, variant, copy, held-out fold) of all trainings; cross-fitting needs segmenters of other folds."""
    jobs = [(f"{n}_{copy}", v, copy, FOLD) for n, v in variants.items() for copy in range(v.get("copies", 1))]
    if any("cross_fitting.json" in v["stage"] for v in variants.values()):
        segmenter = _read("segmenter")
        jobs = [(f"fold_segmenter_{fold}", segmenter, 0, fold) for fold in range(FOLDS) if fold != FOLD] + jobs
    return jobs


def train(name: str, variant: Variant, copy: int, fold: int, args: argparse.Namespace) -> None:
    """Train one network by the bundle's own command, unless its weights exist."""
    folder, stage = args.work / name, variant["stage"]
    if is_done(folder):
        return
    files = [str(args.bundle / "configs" / file) for file in stage]
    if "overlay" in variant:
        common.write_json(folder / "overlay.json", variant["overlay"])
        files.append(str(folder / "overlay.json"))
    options = {
        "config_file": str(files),
        "bundle_root": str(args.bundle),
        "dataset_dir": str(args.dataset_dir),
        "output_dir": str(folder),
        "model_file": str(folder / "model.pt"),
        "folds": FOLDS,
        "fold": fold,
        "seed": 1000 * copy,
        "device": args.device,
        "val_interval": 10**6,  # epochs: no validation, so that no choice is made on its cases
        **settings_of(variant, "common", "train"),
    }
    parser = common.ConfigParser()
    parser.read_config(args.bundle / "configs" / stage[0])
    options["max_epochs"] = args.epochs or parser["max_epochs"]
    if "budget_of" in variant:
        minutes = [minutes_of(args.work / other) for other in variant["budget_of"]]
        if not all(minutes):
            raise UserError(f"{name}: found no training of {' and '.join(variant['budget_of'])}; train them before")
        options["max_epochs"] = round(options["max_epochs"] * sum(minutes) / minutes[0])
    if stage[0] == "train.json":
        options["segmenter_files"] = [str(args.work / "segmenter_0" / "model.pt")]
    if "cross_fitting.json" in stage:
        options["fold_files"] = str(args.work / "fold_segmenter_{fold}" / "model.pt")
    state = {"minutes": minutes_of(folder), "options": options, "done": False}
    begin = time.time()
    try:
        common.run_bundle("training", options, folder / "training.log")
        state["done"] = True
    finally:
        state["minutes"] += (time.time() - begin) / 60
        common.write_json(folder / "training.json", state)


def _state(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"minutes": 0.0, "done": False}


def is_done(folder: Path) -> bool:
    """Return whether a training has ended."""
    return _state(folder)["done"]


def minutes_of(folder: Path) -> float:
    """Return the minutes of a training, over all its runs."""
    return _state(folder)["minutes"]


def contender(row: Mapping[str, Any], name: str, variant: Variant, args: argparse.Namespace) -> rivals.Draw:
    """Return the function that draws a row's members."""
    settings = settings_of(variant, "common", "infer") | row.get("infer", {})
    parser = common.read_bundle(args.bundle, settings, args.device)
    kind, own = row.get("contender", "ensemble"), args.work / f"{name}_0"
    if kind == "ensemble":
        return rivals.ensemble(parser, common.load_pair(parser, own / "model.pt"))
    if kind == "stochastic":
        parser["network_def"] = variant["train"]["network_def"]
        network = parser.get_parsed_content("network_def").to(args.device).eval()
        load_weights(network, read_weights(own / "model.pt"), own / "model.pt")
        return rivals.stochastic(parser, network, row["members"])
    files = sorted(own.glob(row["checkpoints"])) if "checkpoints" in row else []
    files = files or [args.work / f"{name}_{copy}" / "model.pt" for copy in range(row.get("copies", 1))]
    files += [args.work / f"{row['with']}_0" / "model.pt"] if "with" in row else []
    networks = [rivals.with_segmenter(parser, file) for file in files]
    if kind == "field":
        return rivals.random_field(parser, networks[0], row["length_mm"], row["members"])
    if kind == "dropout":
        return rivals.passes(parser, [rivals.with_dropout(networks[0])] * row["passes"])
    return rivals.passes(parser, networks, row.get("flips", [[]]))


def is_trained(name: str, row: Mapping[str, Any], work: Path) -> bool:
    """Return whether all networks of a row exist."""
    folders = [f"{name}_{copy}" for copy in range(row.get("copies", 1))]
    folders += [f"{row['with']}_0"] if "with" in row else []
    return all(is_done(work / folder) for folder in folders)


def cases_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the held-out fold of the training cases, or the validation cases."""
    if args.on == "validation":
        return labelled_cases(args.dataset_dir, "validation")
    training = labelled_cases(args.dataset_dir, "training")
    kept = {str(case["image"]) for case in fold_cases(training, FOLDS, FOLD)}
    return [case for case in training if str(case["image"]) not in kept]


def row_file(row: Mapping[str, Any], args: argparse.Namespace) -> Path:
    """Return the file of a row's measurements."""
    return args.work / "rows" / args.on / f"{row['name']}.json"


def evaluate(variants: Mapping[str, Variant], args: argparse.Namespace) -> None:
    """Measure every row that was not measured with the same settings before."""
    items: list[common.Item] = []
    for name, row in rows_of(variants):
        if args.on == "validation" and not row.get("final"):
            continue
        path = row_file(row, args)
        asked = {"row": row, "variant": variants[name]}
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
            continue
        if not is_trained(name, row, args.work):
            print(f"{row['name']}: not trained yet")
            continue
        items = items or common.load_items(common.read_bundle(args.bundle), cases_of(args))
        torch.manual_seed(0)  # for dropout
        some = items[:: row.get("every", 1)]
        found = measures.measure_all(contender(row, name, variants[name], args), some, row["name"])
        minutes = sum(minutes_of(args.work / f"{name}_{copy}") for copy in range(row.get("copies", 1)))
        if variants[name]["stage"][0] == "train.json":
            minutes += minutes_of(args.work / "segmenter_0")
        common.write_json(path, {"asked": asked, **common.stamp(), "minutes_of_training": minutes, **found})


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    friendly_errors(force=True)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True, help="the hippocampus data")
    options.add_argument("--bundle", type=Path, default=common.HIPPOCAMPUS)
    options.add_argument("--device", default=common.default_device())
    options.add_argument("--epochs", type=int, default=0, help="epochs of each network, by default the bundle's")
    options.add_argument("--on", choices=["fold", "validation"], default="fold", help="cases to measure")
    options.add_argument("--only", nargs="*", default=[], help="variants, all by default")
    options.add_argument("--stages", nargs="*", default=["train", "measure", "report"])
    options.add_argument("--work", type=Path, default=common.ROOT / "runs" / "trust", help="weights and measurements")
    options.add_argument("--output_dir", type=Path, default=HERE, help="folder of table and figure")
    args = options.parse_args(argv)
    args.work, args.bundle, args.dataset_dir = args.work.resolve(), args.bundle.resolve(), args.dataset_dir.resolve()
    variants = read_variants(args.only)
    if "train" in args.stages:
        for job in tqdm(trainings_of(variants), desc="training", disable=None):
            train(*job, args)
    if "measure" in args.stages:
        evaluate(variants, args)
    if "report" in args.stages:
        files = {row["name"]: row_file(row, args) for _, row in rows_of(read_variants())}
        report.write(files, f"results_{args.on}", args.output_dir)


if __name__ == "__main__":
    main()
