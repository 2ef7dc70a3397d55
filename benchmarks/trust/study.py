"""Which method gives an accurate and calibrated answer, and members that are samples, at equal training?

    python benchmarks/trust/study.py --dataset_dir <hippocampus>                # trains, measures, prints; resumable
    python benchmarks/trust/study.py --dataset_dir <hippocampus> --scale 0.01 --output_dir trial   # less training
    python benchmarks/trust/study.py --dataset_dir <hippocampus> --parallel 6   # so many processes share one GPU

`study.json` names budgets, networks (changes of the bundle's configuration), the rows of the table and the
sweep over starts and calls. All networks train on the training cases with the same augmentation and
are measured on the validation cases. Finished work is not repeated, and new rows join those of the written table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.trust import report, sweep, training  # noqa: E402
from benchmarks.trust.contenders import contender  # noqa: E402
from benchmarks.trust.measures import measure_all, validation_cases  # noqa: E402
from monai_pdddpm.utils.errors import UserError, friendly_errors  # noqa: E402

STAGES = ("train", "measure", "sweep", "time", "report")
TIMED = 4  # cases of the timing; the first one is not counted


def tasks_of(study: Mapping[str, Any], args: argparse.Namespace) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return all tasks (kind, name) in order of importance, each with the tasks that it needs."""
    tasks: dict[tuple[str, str], list[tuple[str, str]]] = {("prepare", ""): []}
    names = training.copies_of(study)
    folds = [("train", name) for name, network in names.items() if study["networks"][network].get("held_out")]
    for name, network in names.items():
        start = study["networks"][network].get("from")  # the copy whose training it continues
        one = ("train", start) if start else ("prepare", "")
        tasks["train", name] = folds if training.needs_folds(study["networks"][network]) else [one]
    rows = {row["name"]: row for row in study["rows"]}
    for name, row in rows.items():
        tasks["measure", name] = [("train", network.partition(":")[0]) for network in row["networks"]]
    for name, needed in sweep.jobs_of(study).items():
        tasks["sweep", name] = [("train", network) for network in needed]
    kinds = {*args.stages, "prepare"} if "train" in args.stages else args.stages
    return {task: needed for task, needed in tasks.items() if task[0] in kinds}


def run_task(task: tuple[str, str], args: argparse.Namespace) -> None:
    """Run one task, unless its result exists."""
    kind, name = task
    study = read_study(args.study)
    if kind == "prepare":
        training.prepare_cases(args)
    elif kind == "train":
        training.train(study, name, args)
    elif kind == "measure":
        measure_row(next(row for row in study["rows"] if row["name"] == name), study, args)
    else:
        sweep.measure(study, name, args)


def run_all(tasks: Mapping[tuple[str, str], Sequence[tuple[str, str]]], args: argparse.Namespace) -> None:
    """Run tasks in processes, `args.parallel` at a time; what needs a failed or omitted task is named and left out."""
    done: dict[tuple[str, str], bool] = {}
    running: dict[Future[None], tuple[str, str]] = {}
    begin = time.monotonic()
    with ProcessPoolExecutor(args.parallel, mp_context=multiprocessing.get_context("spawn")) as pool:
        while len(done) < len(tasks):
            for task, needed in tasks.items():
                late = task[0] == "train" and time.monotonic() - begin > args.seconds
                needed = [other for other in needed if other in tasks]
                if task in done or task in running.values():
                    continue
                if late or not all(done.get(other, True) for other in needed):
                    print(f"{' '.join(task)}: left out", flush=True)
                    done[task] = False
                elif all(other in done for other in needed) and len(running) < args.parallel:
                    running[pool.submit(run_task, task, args)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                task, error = running.pop(future), future.exception()
                done[task] = error is None
                print(f"{time.monotonic() - begin:.0f} s: {' '.join(task)}: {error or 'done'}", flush=True)


def read_study(file: Path = HERE / "study.json") -> dict[str, Any]:
    """Return the content of a study's file."""
    return json.loads(file.read_text(encoding="utf-8"))


def row_file(row: Mapping[str, Any], args: argparse.Namespace) -> Path:
    """Return the file of a row's measurements."""
    return args.work / "rows" / f"{row['name'].replace(' ', '_').replace('/', '_')}.json"


def measure_row(row: Mapping[str, Any], study: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Measure one row, unless it was measured with the same settings."""
    path, asked = row_file(row, args), {"row": row, "budgets": study["budgets"], "scale": args.scale}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
        return
    items = common.load_items(
        common.read_bundle(common.HIPPOCAMPUS, device=args.device), validation_cases(args.dataset_dir)
    )
    found = measure_all(contender(row, study, args), items[:: row.get("every", 1)], row["name"])
    found.pop("seconds_per_case")  # other processes may be running; `time` measures it
    common.write_json(
        path,
        {"asked": asked, **common.stamp(), "batches_of_training": training.batches_of(row, study, args.work), **found},
    )


def time_rows(study: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Add to each measured row the seconds of a case, with nothing else running."""
    cases = validation_cases(args.dataset_dir)[:TIMED]
    items = common.load_items(common.read_bundle(common.HIPPOCAMPUS, device=args.device), cases)
    for row in study["rows"]:
        path = row_file(row, args)
        if not path.is_file():
            continue
        draw, seconds = contender(row, study, args), []
        for item in items:
            begin = time.perf_counter()
            _ = [tensor.cpu() for tensor in draw(item["image"])]
            seconds.append(time.perf_counter() - begin)
        found = json.loads(path.read_text(encoding="utf-8"))
        timed = {"seconds_per_case": sum(seconds[1:]) / (TIMED - 1), "machine": common.machine(args.device)}
        common.write_json(path, {**found, **timed})


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    friendly_errors(force=True)
    options = common.script_options(__file__, __doc__, "trust")
    options.add_argument("--dataset_dir", type=Path, required=True, help="the hippocampus data")
    options.add_argument("--study", type=Path, default=HERE / "study.json", help="networks and rows")
    options.add_argument("--scale", type=float, default=1.0, help="fraction of each budget's batches")
    options.add_argument("--parallel", type=int, default=1, help="processes at a time")
    options.add_argument("--seconds", type=float, default=float("inf"), help="no training begins after this time")
    options.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    args = options.parse_args(argv)
    if args.parallel < 1 or not 0 < args.scale <= 1:
        raise UserError(
            f"parallel, scale: found {args.parallel} and {args.scale}, expected 1 or more and above 0 to 1; fix them"
        )
    args.work, args.dataset_dir, args.study = (p.resolve() for p in (args.work, args.dataset_dir, args.study))
    study = read_study(args.study)
    if "report" in args.stages:  # results of another scale are refused before the work
        report.earlier(args.output_dir / "results_study.json", "rows", args.scale)
    run_all(tasks_of(study, args), args)
    if "time" in args.stages:
        time_rows(study, args)
    if "report" in args.stages:
        files = {row["name"]: row_file(row, args) for row in study["rows"]}
        report.write(files, "results_study", args.output_dir, args.scale)
        sweep.write(study, args)


if __name__ == "__main__":
    main()
