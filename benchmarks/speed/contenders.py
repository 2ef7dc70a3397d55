"""What does each way to a segmentation with uncertainty cost? Parameters, FLOPs, seconds, memory on the same cases.

    python benchmarks/speed/contenders.py --dataset_dir <hippocampus>
    python benchmarks/speed/contenders.py                               # a phantom
    python benchmarks/speed/contenders.py --nnunet_python <python of an environment with nnunetv2>

Each contender runs in a process of its own, from the file on disk to the files written. A measurement with the same
settings is not repeated.
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
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.data import labelled_cases, write_phantom  # noqa: E402
from monai_pdddpm.inferers.stopwatch import Stopwatch  # noqa: E402
from monai_pdddpm.transforms.case_summary import agreement  # noqa: E402
from monai_pdddpm.utils.errors import friendly_errors  # noqa: E402

FILES = ("read", "preprocess", "inverse", "write")
NETWORKS = ("segment", "noise", "encode", "chain", "blend", "statistics")
COUNTS = ("windows_run", "windows_skipped", "denoiser_evaluations")
NNUNET = ("nnunet", "nnunet_mirror")


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


def run_job(
    contender: str,
    bundle: str,
    device: str,
    overrides: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
    repeats: int,
    seconds: float,
    launched: float,
) -> dict[str, Any]:
    """Measure a contender in this process on labeled cases, in rounds until `repeats` or `seconds` are reached.

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
    longer = ("chain", "noise") if whole and whole.draws > 1 else ("chain",)
    runs, rounds = [], 0
    dice: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(parser, folder)
        ready = time.time() - launched
        if whole:
            entry.inferer.chain = rivals.first_steps(whole, 1)  # warm-up
        pipeline(entry, cases[0])
        if whole:
            entry.inferer.chain = rivals.first_steps(whole, timed)
        begin = time.perf_counter()
        while rounds < repeats and (rounds == 0 or time.perf_counter() - begin < seconds):
            rounds += 1
            for number, case in enumerate(tqdm(cases, desc=f"{contender}, round {rounds}", leave=False, disable=None)):
                run, answer = pipeline(entry, case)
                run["seconds"] = scaled(run["seconds"], count / timed if timed else 1, longer)
                runs.append({"case": str(number), **run})
                if rounds == 1 and entry.trained and timed == count:
                    truth = common.read_truth(case)[0].round().long()
                    dice.append(agreement(answer[None].long(), truth, range(1, len(parser["labels"]))))
    counted = {name: float(np.mean([run[name] for run in runs])) for name in COUNTS}
    counted["denoiser_evaluations"] *= count / timed if timed else 1
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
        "runs": [{"case": run["case"], "seconds": run["seconds"]} for run in runs],
        "ready_seconds": ready,
        **counted,
        "parameters": {"denoiser": rivals.parameters(entry.pair.denoiser), "all": rivals.parameters(entry.network)},
        "flops": own,
        **common.memory_of(start_mib, torch.device(device)),
        "dice": float(np.mean(dice)) if dice else None,
    }


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a measurement with quartiles of its seconds and their medians by case in place of its runs."""
    by_case: dict[str, dict[str, list[float]]] = {}
    for run in row["runs"]:
        own = by_case.setdefault(run["case"], {"networks": [], "total": []})
        own["networks"].append(sum(run["seconds"].get(stage, 0.0) for stage in NETWORKS))
        own["total"].append(run["seconds"]["total"])
    seconds = {
        key: common.quartiles([x for own in by_case.values() for x in own[key]]) for key in ("networks", "total")
    }
    for stage in (*FILES, *NETWORKS):
        seconds[stage] = common.quartiles([run["seconds"].get(stage, 0.0) for run in row["runs"]])
    medians = {case: {key: float(np.median(own[key])) for key in own} for case, own in by_case.items()}
    kept = {key: value for key, value in row.items() if key not in ("runs", "asked")}
    return kept | {"seconds": seconds, "by_case": medians, "rounds": len(row["runs"]) // len(by_case)}


def ratios(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Return how many times as long as ours a contender takes: quartiles over the cases; nothing without ours."""
    if base is None:
        return {}
    pairs = [(row["by_case"][case], base["by_case"][case]) for case in row["by_case"]]
    return {name: common.quartiles([a[name] / b[name] for a, b in pairs]) for name in ("networks", "total")}


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
                *([common.with_quartiles(x) for x in row["times_ours"].values()] or "--"),
                f"{row['peak_mib']:.0f}" if row["start_mib"] is None else common.memory_cell(row),
                "-" if row["dice"] is None else f"{row['dice']:.4f}",
            ]
        )
    return common.table(head, lines)


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw seconds, FLOPs and parameters of each contender on logarithmic scales."""
    from matplotlib import pyplot as plt

    names = list(rows)[::-1]
    panels = (
        ("networks, seconds a case", [rows[n]["seconds"]["networks"]["median"] for n in names]),
        ("GFLOP a case", [rows[n]["flops"]["case"] / 1e9 for n in names]),
        ("parameters, millions", [rows[n]["parameters"]["all"] / 1e6 for n in names]),
    )
    figure, axes = plt.subplots(1, 3, figsize=(13, 1.2 + 0.34 * len(names)), sharey=True, layout="constrained")
    for axis, (title, values) in zip(axes, panels, strict=True):
        colors = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in names]
        bars = axis.barh(range(len(names)), values, color=colors)
        axis.bar_label(bars, [f"{v:.3g}" for v in values], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 3, max(values) * 8)
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), [rows[n]["title"] for n in names], fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def make_phantom(cases: int, work: Path) -> Path:
    """Return the folder of a phantom with so many validation cases, which is made in `work`."""
    folder = work / f"phantom_{cases}"
    if not folder.exists():
        write_phantom(folder, train=1, validation=cases, test=0, series=0, annotations=1, progress=False)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the contenders and write the table."""
    friendly_errors(force=True)
    options = common.measuring_options(__doc__, HERE)
    options.add_argument("--dataset_dir", type=Path, help="labeled scans of the bundle; a phantom by default")
    options.add_argument("--bundle", type=Path, help="hippocampus with --dataset_dir, else phantom")
    options.add_argument("--only", nargs="+", choices=[*CONTENDERS, *NNUNET], default=[*CONTENDERS, *NNUNET])
    options.add_argument("--nnunet_python", type=Path, help="Python with nnunetv2; without it its rows are left out")
    options.add_argument("--cases", type=int, default=5, help="number of validation cases")
    options.add_argument("--repeats", type=int, default=3, help="rounds over all cases")
    options.add_argument("--seconds", type=float, default=30, help="no round begins after this time")
    args = options.parse_args(argv)
    if args.job:
        common.write_json(args.job_file, run_job(**args.job, launched=args.launched))
        return
    bundle = (args.bundle or (common.HIPPOCAMPUS if args.dataset_dir else common.PHANTOM)).resolve()
    folder = args.dataset_dir.resolve() if args.dataset_dir else make_phantom(args.cases, args.work.resolve())
    cases = [dict(case) for case in labelled_cases(folder, "validation")[: args.cases]]
    job = {"device": args.device, "cases": cases, "repeats": args.repeats, "seconds": args.seconds}
    rows: dict[str, Any] = {}
    for name in tqdm(args.only, desc="contenders", disable=None):
        own: dict[str, Any] = {"contender": name, **job}
        if name in CONTENDERS:
            own |= {"bundle": str(bundle), "overrides": args.overrides}
            found = common.measured(Path(__file__), name, own, args.work, args.again)
        elif args.nnunet_python is None:
            continue
        else:
            training = [dict(case) for case in labelled_cases(folder, "training")]
            labels = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))["labels"]
            own |= {"training": training, "labels": labels, "work": str(args.work.resolve() / "nnunet")}
            script = HERE / "nnunet.py"
            found = common.measured(script, name, own, args.work, args.again, str(args.nnunet_python))
        rows[name] = summary(found)
    for row in rows.values():
        row["times_ours"] = ratios(row, rows.get("ours"))
    text = (
        f"{as_table(rows)}\n\n{bundle.name}, {len(cases)} cases, {json.dumps(common.machine(args.device))}, "
        f"{common.stamp()['at']}. Seconds a case: medians over cases and rounds, in brackets the quartiles; start: "
        "from the command to the loaded networks. Scaled: only the first steps of the chain were timed."
    )
    part = f"results_contenders_{torch.device(args.device).type}"
    content = {"bundle": bundle.name, "machine": common.machine(args.device), "cases": len(cases), "rows": rows}
    common.write_results(args.output_dir, part, content, text)
    draw(rows, args.output_dir / f"{part}.png")


if __name__ == "__main__":
    main()
