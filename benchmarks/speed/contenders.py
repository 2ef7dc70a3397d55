"""What does each way to a segmentation with uncertainty cost? Parameters, FLOPs, seconds, memory on the same cases.

    python benchmarks/speed/contenders.py --dataset_dir <hippocampus>
    python benchmarks/speed/contenders.py                               # a phantom
    python benchmarks/speed/contenders.py --nnunet_python <python of an environment with nnunetv2>

Each contender has a process of its own, from the file on disk to the files written. The processes take turns, case by
case, and each is compared with `ours` of the same turn. A long chain has `ours` alone beside it.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.speed import rivals  # noqa: E402
from benchmarks.speed.entries import CONTENDERS, Entry, Task, flops  # noqa: E402
from benchmarks.speed.nnunet import NNUNET  # noqa: E402
from benchmarks.speed.turns import Turns, job_options, serve  # noqa: E402
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.data import labelled_cases, write_phantom  # noqa: E402
from monai_pdddpm.inferers.run_info import Stopwatch  # noqa: E402
from monai_pdddpm.transforms.case_summary import agreement  # noqa: E402
from monai_pdddpm.utils.errors import friendly_errors  # noqa: E402

NETWORKS = ("segment", "noise", "encode", "chain", "blend", "statistics")
COUNTS = ("windows_run", "windows_skipped", "denoiser_evaluations")
BASE = "ours"


class Pipeline:
    """A bundle's way from file to files with a stopwatch; `output_dir` receives the files."""

    def __init__(self, parser: ConfigParser, output_dir: str) -> None:
        parser.update({"output_dir": output_dir})
        self.preprocessing = parser.get_parsed_content("preprocessing").transforms
        self.postprocessing = parser.get_parsed_content("postprocessing").transforms
        self.device = torch.device(parser["device"])

    def __call__(self, entry: Entry, case: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Segment a case and write its files; return the run with its seconds, and the label map on the scan's grid."""
        watch, begin = Stopwatch(self.device), time.perf_counter()
        item: Any = dict(case)
        for transform in self.preprocessing:
            with watch("read" if "Load" in type(transform).__name__ else "preprocess"):
                item = transform(item)
        with watch("preprocess"):
            image = item["image"][None].float().to(self.device)
        output = entry.inferer(image, entry.network)
        run = output.meta["ensemble_run"][0].as_report()  # type: ignore[attr-defined]
        item["pred"] = output[0]
        for transform in self.postprocessing:
            with watch("write" if "Save" in type(transform).__name__ else "inverse"):
                item = transform(item)
        total = time.perf_counter() - begin
        seconds = {**watch.seconds, **run["seconds"], "total": total}
        return run | {"seconds": seconds}, item["seg"].as_tensor().cpu()[0]


def scaled(seconds: Mapping[str, float], factor: float, stages: Sequence[str] = ("chain",)) -> dict[str, float]:
    """Return seconds with some stages longer by a factor."""
    found = {**seconds, **{stage: factor * seconds[stage] for stage in stages if stage in seconds}}
    return found | {
        "total": seconds["total"] + sum(found[stage] - seconds[stage] for stage in stages if stage in seconds)
    }


def measure(
    answers: int,
    launched: float,
    contender: str,
    bundle: str,
    device: str,
    overrides: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
) -> None:
    """Measure a contender in this process, whenever its turn comes.

    Long chains are timed over their first steps and scaled. Dice is given for trained networks and whole chains.
    """
    keep_freed_memory()
    torch.manual_seed(0)  # of untrained networks and MONAI's schedulers
    start_mib = common.status_mib("VmRSS") or common.peak_mib()
    task = Task(Path(bundle), device, overrides)
    entry, parser = CONTENDERS[contender].build(task), task.parser()
    whole, wanted = entry.chain, CONTENDERS[contender].timed_steps
    count = len(whole.time_steps) if whole else 0
    timed = min(count, math.ceil(wanted / len(cases))) if wanted else count
    factor = count / timed if timed else 1
    longer = ("chain", "noise") if whole and whole.draws > 1 else ("chain",)
    runs: list[dict[str, Any]] = []
    dice: dict[int, float] = {}

    def one_case(number: int) -> dict[str, float]:
        run, answer = pipeline(entry, cases[number])
        runs.append(run)
        if entry.trained and timed == count and number not in dice:
            truth = common.read_truth(cases[number])[0].round().long()
            dice[number] = agreement(answer[None].long(), truth, range(1, len(parser["labels"])))
        return scaled(run["seconds"], factor, longer)

    def about() -> dict[str, Any]:
        counted = {name: float(np.mean([run[name] for run in runs])) for name in COUNTS}
        counted["denoiser_evaluations"] *= factor
        own = flops(entry, parser)
        own["case"] = round(
            (counted["windows_run"] + counted["windows_skipped"]) * own["segment"]
            + counted["windows_run"] * own["encode"]
            + counted["denoiser_evaluations"] * own["call"]
        )
        return {
            "title": CONTENDERS[contender].title,
            "members": runs[0]["members"],
            "num_steps": count,
            "timed_steps": timed,
            **counted,
            "parameters": {"denoiser": rivals.parameters(entry.pair.denoiser), "all": rivals.parameters(entry.network)},
            "flops": own,
            **common.memory_of(start_mib, torch.device(device)),
            "dice": float(np.mean(list(dice.values()))) if dice else None,
        }

    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(parser, folder)
        ready_seconds = time.time() - launched
        if whole:
            entry.inferer.chain = rivals.first_steps(whole, 1)  # warm-up
        pipeline(entry, cases[0])
        if whole:
            entry.inferer.chain = rivals.first_steps(whole, timed)
        serve(answers, ready_seconds, one_case, about)


def taking_turns(jobs: Mapping[str, Turns], cases: int, rounds: int) -> dict[str, Any]:
    """Measure contenders in turns, case by case, and compare them with the first; return the row of each."""
    base, *_ = jobs
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    with tqdm(total=rounds * cases, desc=", ".join(jobs), leave=False, disable=None) as bar:
        for number in [*range(cases)] * rounds:
            for name, job in jobs.items():
                seconds = job(number)
                networks = sum(seconds.get(stage, 0.0) for stage in NETWORKS)
                runs[name].append({**seconds, "networks": networks})
            bar.update()
    return {name: job.end() | summary(runs[name], runs[base], job.ready_seconds) for name, job in jobs.items()}


def summary(
    runs: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], ready_seconds: float
) -> dict[str, Any]:
    """Return quartiles of seconds over the runs, and of ratios over pairs of runs of the same turn."""
    stages = dict.fromkeys(stage for run in runs for stage in run)
    pairs = list(zip(runs, base, strict=True))
    return {
        "ready_seconds": ready_seconds,
        "runs": len(runs),
        "seconds": {stage: common.quartiles([run.get(stage, 0.0) for run in runs]) for stage in stages},
        "times_ours": {
            name: common.quartiles([own[name] / other[name] for own, other in pairs]) for name in ("networks", "total")
        },
    }


def as_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the table of all contenders."""
    head = ["contender", "members", "steps", "parameters M", "GFLOP a call", "GFLOP a case", "denoiser evaluations"]
    head += ["start s", "networks s", "total s", "times ours: networks", "times ours: total", "peak MiB", "Dice"]
    lines = []
    for row in rows.values():
        lines.append(
            [
                row["title"] + ("" if row["timed_steps"] == row["num_steps"] else " (scaled)"),
                row["members"],
                row["num_steps"] or "-",
                f"{row['parameters']['all'] / 1e6:.2f}",
                *(f"{row['flops'][name] / 1e9:.3g}" for name in ("call", "case")),
                f"{row['denoiser_evaluations']:g}",
                common.number(row["ready_seconds"]),
                *(common.with_quartiles(row["seconds"][name]) for name in ("networks", "total")),
                *(common.with_quartiles(x) for x in row["times_ours"].values()),
                f"{row['peak_mib']:.0f}" if row["start_mib"] is None else common.memory_cell(row),
                "-" if row["dice"] is None else f"{row['dice']:.4f}",
            ]
        )
    return common.table(head, lines)


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw seconds, FLOPs and parameters of each contender on logarithmic scales."""
    names = list(rows)[::-1]
    panels = (
        ("networks, seconds a case", [rows[n]["seconds"]["networks"]["median"] for n in names]),
        ("GFLOP a case", [rows[n]["flops"]["case"] / 1e9 for n in names]),
        ("parameters, millions", [rows[n]["parameters"]["all"] / 1e6 for n in names]),
    )
    with common.figure(path, 1, 3, figsize=(13, 1.2 + 0.34 * len(names)), sharey=True) as (_, axes):
        for axis, (title, values) in zip(axes, panels, strict=True):
            colors = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in names]
            bars = axis.barh(range(len(names)), values, color=colors)
            axis.bar_label(bars, [f"{v:.3g}" for v in values], padding=3, fontsize=8)
            axis.set(xscale="log", xlim=(min(values) / 3, max(values) * 8), title=title)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(names)), [rows[n]["title"] for n in names], fontsize=8)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the contenders and write the table."""
    friendly_errors(force=True)
    options = job_options(common.script_options(__file__, __doc__))
    options.add_argument("--overrides", type=json.loads, default={}, help="changes of inference.json, JSON")
    options.add_argument("--dataset_dir", type=Path, help="labeled scans of the bundle; a phantom by default")
    options.add_argument("--bundle", type=Path, help="hippocampus with --dataset_dir, else phantom")
    options.add_argument("--only", nargs="+", choices=[*CONTENDERS, *NNUNET], default=[*CONTENDERS, *NNUNET])
    options.add_argument("--nnunet_python", type=Path, help="Python with nnunetv2; without it its rows are left out")
    options.add_argument("--cases", type=int, default=5, help="number of validation cases")
    options.add_argument("--rounds", type=int, default=4, help="rounds over all cases; long chains run once")
    args = options.parse_args(argv)
    if args.job:
        measure(args.answers, args.launched, **args.job)
        return
    bundle = (args.bundle or (common.HIPPOCAMPUS if args.dataset_dir else common.PHANTOM)).resolve()
    folder = (args.dataset_dir or args.work / f"phantom_{args.cases}").resolve()
    if not args.dataset_dir and not folder.exists():
        write_phantom(folder, train=1, validation=args.cases, test=0, annotations=1)
    cases = [dict(case) for case in labelled_cases(folder, "validation")[: args.cases]]
    own = {"bundle": str(bundle), "device": args.device, "overrides": args.overrides, "cases": cases}

    def start(name: str) -> Turns:
        if name in CONTENDERS:
            return Turns(Path(__file__), {"contender": name, **own})
        labels = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))["labels"]
        training = [dict(case) for case in labelled_cases(folder, "training")]
        job = {"contender": name, "cases": cases, "training": training, "labels": labels}
        work = str(args.work.resolve() / "nnunet")
        return Turns(HERE / "nnunet.py", {**job, "work": work}, str(args.nnunet_python))

    chosen = [name for name in args.only if name in CONTENDERS or args.nnunet_python]
    long = [name for name in chosen if name in CONTENDERS and CONTENDERS[name].timed_steps]
    short = dict.fromkeys([BASE, *(name for name in chosen if name not in long)])
    rows = taking_turns({name: start(name) for name in short}, len(cases), args.rounds)
    for name in long:
        rows[name] = taking_turns({BASE: start(BASE), name: start(name)}, len(cases), 1)[name]
    text = (
        f"{as_table(rows)}\n\n{bundle.name}, {len(cases)} cases, {json.dumps(common.machine(args.device))}, "
        f"{common.stamp()['at']}. Seconds a case: medians over cases and rounds, in brackets the quartiles; times "
        "ours: the same of ratios to ours, which ran on the same case in the same turn; start: from the command to the "
        "loaded networks. Scaled: only the first steps of the chain were timed."
    )
    part = f"results_contenders_{torch.device(args.device).type}"
    content = {"bundle": bundle.name, "machine": common.machine(args.device), "cases": len(cases), "rows": rows}
    common.write_results(args.output_dir, part, content, text)
    draw(rows, args.output_dir / f"{part}.png")


if __name__ == "__main__":
    main()
