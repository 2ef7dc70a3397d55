"""How much faster are two processes than one, and what is to be expected of more?

``python benchmarks/scale/scale.py`` starts the bundle's own commands with torchrun, on the CPU with one thread a
process: inference over a folder, by cases and by members of each case, and the denoiser's training. Each is run with
one process and with two, ``--repeats`` times; the table holds the medians. Processor seconds stand beside the seconds,
for where the cores are shared with other work they say what the seconds cannot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from monai_pdddpm.data import write_phantom  # noqa: E402

BUNDLE = ROOT / "bundles" / "phantom_segmentation"
OWN = ("noise", "chain", "blend")  # stages that are divided


def seconds_by_cases(start: float, case: float, cases: int, processes: int) -> float:
    """Return the seconds that a folder should take: the start, and as many cases as the busiest process has.

    Args:
        start: seconds until the first case.
        case: seconds of a case.
        cases: in the folder.
        processes: that share them.
    """
    return start + math.ceil(cases / processes) * case


def seconds_by_members(rest: float, member: float, members: int, processes: int) -> float:
    """Return the seconds that a case should take when its members are spread.

    Args:
        rest: seconds for reading, segmenting and writing, which are not divided.
        member: seconds of a member.
        members: of the case.
        processes: that share them.
    """
    return rest + math.ceil(members / processes) * member


def run(processes: int, name: str, overlay: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Run one of the bundle's commands in so many processes; return its seconds and its processor seconds."""
    files = f"['{BUNDLE}/configs/{name}.json','{BUNDLE}/configs/multi_gpu_{overlay}.json']"
    run_id = "training" if overlay == "train" else "inference"
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*starter, "monai.bundle", "run", run_id, "--config_file", files, "--device", "cpu", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begin, "processor_seconds": processor}


def inference(processes: int, spread: str, data: Path, folder: Path, members: int) -> dict[str, float]:
    """Segment a folder; return the command's seconds, those of a case, and of what is divided and what is not."""
    options = {"dataset_dir": data, "output_dir": folder, "members": members, "spread": spread}
    found = run(processes, "inference", "inference", options)
    reports = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in folder.glob("*/*_report.json")]
    shutil.rmtree(folder)
    own = [sum(report.get(stage, 0.0) for stage in OWN) for report in reports]
    whole = [sum(report.values()) for report in reports]
    return found | {"case": statistics.median(whole), "members_of_a_case": statistics.median(own)}


def training(processes: int, data: Path, folder: Path, batch: int, epochs: int) -> dict[str, float]:
    """Train the denoiser on one batch in all; return the command's seconds and those of an iteration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {
        **{"dataset_dir": data, "output_dir": folder, "model_file": folder / "model.pt", "max_epochs": epochs},
        **{"batch_size": batch // processes, "val_interval": 2 * epochs},
        "segmenter_files": [str(BUNDLE / "models" / "model.pt")],
    }
    found = run(processes, "train", "train", options)
    times = []
    for file in folder.glob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        if "train_loss" in events.Tags()["scalars"]:
            times += [event.wall_time for event in events.Scalars("train_loss")]
    shutil.rmtree(folder)
    times.sort()
    return found | {"iteration": statistics.median(b - a for a, b in itertools.pairwise(times))}


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over repeated runs."""
    return {key: statistics.median(found[key] for found in runs) for key in runs[0]}


def as_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the table: one row a task, one process beside two."""
    rows = [
        "| task | figure | one process | two processes | times faster |",
        "|---|---|---|---|---|",
    ]
    for task, found in results.items():
        for key in found["1"]:
            one, two = found["1"][key], found["2"][key]
            rows.append(f"| {task} | {key.replace('_', ' ')} | {one:.2f} | {two:.2f} | {one / two:.2f} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, and write ``results.md`` and ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=4, help="scans in the folder")
    parser.add_argument("--members", type=int, default=8, help="of each case")
    parser.add_argument("--batch", type=int, default=2, help="of the training, over all processes")
    parser.add_argument("--epochs", type=int, default=3, help="of the training")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=HERE)
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = write_phantom(
            work / "data", train=8, validation=1, test=options.cases, series=0, annotations=8, seed=1, progress=False
        )
        load = os.getloadavg()[0]
        for task in ("cases", "members", "training"):
            runs: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
            for _ in range(options.repeats):
                for count in (1, 2):
                    if task == "training":
                        found = training(count, data, work / "run", options.batch, options.epochs)
                    else:
                        found = inference(count, task, data / "imagesTs", work / "run", options.members)
                    runs[str(count)].append(found)
                    print(task, count, found, flush=True)
            results[task] = {count: median(found) for count, found in runs.items()}
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before the first run",
        "cases": options.cases,
        "members": options.members,
        "batch": options.batch,
        "repeats": options.repeats,
    }
    table = as_table(results)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "results.json").write_text(json.dumps(about | {"results": results}, indent=2) + "\n")
    (options.output_dir / "results.md").write_text(f"{table}\n\n{json.dumps(about)}\n")
    print(table)


if __name__ == "__main__":
    main()
