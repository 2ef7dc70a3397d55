"""How much faster are two processes than one?

    python benchmarks/scale/scale.py

Runs the phantom bundle's commands with torchrun on the CPU, one thread a process: inference with the cases or with the
members of each case divided, and the denoiser's training. Processor seconds show how busy the cores were.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from monai_pdddpm.data import write_phantom  # noqa: E402

TASKS = ("cases", "members", "training")
DIVIDED = ("noise", "chain", "blend")  # stages


def run(processes: int, verb: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Run a command of the bundle in several processes; return its seconds and processor seconds."""
    configs, name = common.PHANTOM / "configs", "train" if verb == "training" else "inference"
    files = f"['{configs}/{name}.json','{configs}/multi_gpu_{name}.json']"
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*starter, "monai.bundle", "run", verb, "--config_file", files, "--device", "cpu", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begin, "processor_seconds": processor}


def inference(processes: int, spread: str, data: Path, folder: Path, members: int) -> dict[str, float]:
    """Segment a folder; return the command's seconds, those of a case, and those of its divided stages."""
    options = {"dataset_dir": data, "output_dir": folder, "members": members, "spread": spread}
    found = run(processes, "inference", options)
    reports = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in folder.glob("*/*_report.json")]
    shutil.rmtree(folder)
    divided = [sum(report.get(stage, 0.0) for stage in DIVIDED) for report in reports]
    whole = [sum(report.values()) for report in reports]
    return found | {"case": statistics.median(whole), "members_of_a_case": statistics.median(divided)}


def training(processes: int, data: Path, folder: Path, batch: int, epochs: int) -> dict[str, float]:
    """Train the denoiser with a fixed total batch; return the command's seconds and those of an iteration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {
        **{"dataset_dir": data, "output_dir": folder, "model_file": folder / "model.pt", "max_epochs": epochs},
        **{"batch_size": batch // processes, "val_interval": 2 * epochs},
        "segmenter_files": [str(common.PHANTOM / "models" / "model.pt")],
    }
    found, times = run(processes, "training", options), []
    for file in folder.glob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        if "train_loss" in events.Tags()["scalars"]:
            times += [event.wall_time for event in events.Scalars("train_loss")]
    shutil.rmtree(folder)
    return found | {"iteration": statistics.median(b - a for a, b in itertools.pairwise(sorted(times)))}


def median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over repeated runs."""
    return {key: statistics.median(found[key] for found in runs) for key in runs[0]}


def as_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format the results: one process beside two."""
    rows = [
        [task, key.replace("_", " "), f"{one:.2f}", f"{found['2'][key]:.2f}", f"{one / found['2'][key]:.2f}"]
        for task, found in results.items()
        for key, one in found["1"].items()
    ]
    return common.table(["task", "figure", "one process", "two processes", "times faster"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write `results.md` and `results.json`."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    options.add_argument("--cases", type=int, default=4, help="scans in the folder")
    options.add_argument("--members", type=int, default=8, help="members of each case")
    options.add_argument("--batch", type=int, default=2, help="batch of the training, over all processes")
    options.add_argument("--epochs", type=int, default=3, help="epochs of the training")
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--output_dir", type=Path, default=HERE, help="folder of results")
    args = options.parse_args(argv)
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work, settings = Path(temporary), {"series": 0, "annotations": 8, "seed": 1, "progress": False}
        data = write_phantom(work / "data", train=8, validation=1, test=args.cases, **settings)
        for task in args.tasks:
            runs: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
            for _, count in itertools.product(range(args.repeats), (1, 2)):
                if task == "training":
                    found = training(count, data, work / "run", args.batch, args.epochs)
                else:
                    found = inference(count, task, data / "imagesTs", work / "run", args.members)
                runs[str(count)].append(found)
            results[task] = {count: median(found) for count, found in runs.items()}
    settings = {key: getattr(args, key) for key in ("cases", "members", "batch", "repeats")}
    about = {"machine": common.machine(), **settings}
    common.write_results(args.output_dir, "results", about | {"results": results}, as_table(results))


if __name__ == "__main__":
    main()
