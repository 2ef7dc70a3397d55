"""How many solver steps does each reverse step need? A greedy search, for a network that was trained to bear several.

``python benchmarks/trust/solver_search.py --dataset_dir <data>`` begins with the most solver steps at every time, and
takes away again and again those whose loss costs the least NLL, until all are at the fewest (the greedy form of
step-aware diffusion, DDSM, Yang et al. 2023). It prints every list on the way, and the cheapest whose NLL is within a
tolerance of the best: a bundle's ``solver_steps``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.trust import measuring  # noqa: E402
from benchmarks.volume.volume import table  # noqa: E402
from monai_pdddpm.data import fold_cases, labelled_cases  # noqa: E402
from monai_pdddpm.networks.solvers import evaluations  # noqa: E402

Steps = tuple[int, ...]


def greedy(cost: Callable[[Steps], float], choices: Sequence[int], times: int) -> list[Steps]:
    """Return the lists from the most steps everywhere to the fewest, each the best of those with one number lowered.

    Args:
        cost: of a list of solver steps, the lower the better.
        choices: numbers of solver steps that the network bears.
        times: length of the list.
    """
    rising = sorted(choices)
    path = [(rising[-1],) * times]
    while any(n > rising[0] for n in path[-1]):
        now = path[-1]
        lowered = [(*now[:i], rising[rising.index(n) - 1], *now[i + 1 :]) for i, n in enumerate(now) if n > rising[0]]
        path.append(min(lowered, key=cost))
    return path


def cheapest(path: Sequence[Steps], cost: Callable[[Steps], float], tolerance: float) -> Steps:
    """Return the last list of a path, the cheapest, whose cost is within a tolerance of the path's best."""
    best = min(map(cost, path))
    return [steps for steps in path if cost(steps) <= best + tolerance][-1]


def measured_mean(found: dict[str, Any], name: str) -> float:
    """Return the mean of a measure over the cases."""
    return float(np.mean([case[name] for case in found["cases"].values()]))


def main(argv: Sequence[str] | None = None) -> None:
    """Search, print, keep."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True)
    options.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "hippocampus_mri_segmentation")
    options.add_argument("--model_file", type=Path, help="the bundle's own by default")
    options.add_argument("--choices", type=int, nargs="+", default=[1, 2, 4], help="solver steps that were trained")
    options.add_argument("--tolerance", type=float, default=0.0005, help="of NLL")
    options.add_argument("--every", type=int, default=3, help="take every n-th case of a fold of the training cases")
    options.add_argument("--overrides", type=json.loads, default={}, help="of inference.json, as JSON")
    options.add_argument("--output_dir", type=Path, default=HERE)
    args = options.parse_args(argv)
    parser = measuring.read_bundle(args.bundle, {"calibrated": False, **args.overrides})
    network = measuring.pair_of(parser, args.model_file or args.bundle / "models" / "model.pt")
    training = labelled_cases(args.dataset_dir, "training")
    kept = {case["image"] for case in fold_cases(training, 5, 0)}
    items = measuring.load_cases(parser, [case for case in training if case["image"] not in kept][:: args.every])
    times = len(parser.get_parsed_content("time_steps"))
    solver, bar = network.denoiser.solver, tqdm(desc="lists", disable=None)

    @cache
    def ask(steps: Steps) -> dict[str, Any]:
        parser.update({"solver_steps": list(steps)})
        found = measuring.measure_all(measuring.members(parser, network), items, str(steps))
        bar.update()
        return found

    def nll(steps: Steps) -> float:
        return measured_mean(ask(steps), "nll")

    path = greedy(nll, args.choices, times)
    chosen = cheapest(path, nll, args.tolerance)
    lines = [
        {
            "solver_steps": list(steps),
            "evaluations": sum(evaluations(str(solver), n) for n in steps),
            **{name: measured_mean(ask(steps), name) for name in ("dice", "ece", "nll")},
            "seconds_per_case": ask(steps)["seconds_per_case"],
        }
        for steps in path
    ]
    head = ["solver steps", "accelerations of a block", "Dice", "ECE", "NLL", "s a case"]
    rows = [
        [
            ", ".join(map(str, line["solver_steps"])) + (" (chosen)" if tuple(line["solver_steps"]) == chosen else ""),
            str(line["evaluations"]),
            f"{line['dice']:.4f}",
            f"{line['ece']:.3f}",
            f"{line['nll']:.4f}",
            f"{line['seconds_per_case']:.2f}",
        ]
        for line in lines
    ]
    text = table(head, rows) + (
        f"\n\n{len(items)} training cases that the network has not seen, {times} reverse steps. The cheapest within "
        f"{args.tolerance:g} of the best NLL: `--solver_steps '{list(chosen)}'`."
    )
    print(text)
    (args.output_dir / "results_solver_search.md").write_text(text + "\n", encoding="utf-8")
    measuring.write_json(args.output_dir / "results_solver_search.json", {"cases": len(items), "path": lines})


if __name__ == "__main__":
    main()
