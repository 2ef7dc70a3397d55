"""How many crops a second does the training of a bundle take in, and how long does it wait for them?

``python benchmarks/speed/training.py --dataset_dir <data>`` runs some iterations of both stages as their JSON says,
with and without a worker process, and with and without the cache; each in a process of its own. What a training writes
goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed import report
from benchmarks.speed.jobs import machine, machine_line, measured, when
from benchmarks.speed.measure import spread, yardstick
from benchmarks.speed.options import parsed, shared_options
from benchmarks.trust import measuring
from benchmarks.volume.volume import peak_mib, status_mib, table
from monai_pdddpm.data import write_phantom
from monai_pdddpm.utils.errors import UserError, friendly_errors

STAGES = {"segmenter": "train_segmenter.json", "denoiser": "train.json"}
PHANTOM_CASES = 24
NEVER = 10**6  # epochs


class Waiting:
    """Take the seconds of each iteration of a trainer, and of its wait for data, and end the training after some.

    To be attached after all other handlers: an iteration is over when they are done with it. The first of an epoch is
    kept apart, since workers start and the order of cases is drawn before it.

    Args:
        iterations: to be taken, beside the first of each epoch.
        warm_up: iterations before them that are not.
        seconds: after which the training is ended in any case, once two are there; warm-up apart.
        device: of the training, which is waited for.
    """

    def __init__(self, iterations: int, warm_up: int, seconds: float, device: torch.device) -> None:
        self.iterations, self.warm_up, self.limit, self.device = iterations, warm_up, seconds, device
        self.wait: list[float] = []
        self.whole: list[float] = []
        self.samples: list[int] = []
        self.epoch_starts: list[float] = []
        self._first = False

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _start_epoch(self) -> None:
        self._first, self._epoch = True, time.perf_counter()

    def _ask(self) -> None:
        self._asked = time.perf_counter()

    def _get(self) -> None:
        self._got = time.perf_counter()

    def _end(self, engine: Engine) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if engine.state.iteration == self.warm_up:
            self._begin = time.perf_counter()
        if self._first:
            self.epoch_starts.append(self._got - self._epoch)
        elif engine.state.iteration > self.warm_up:
            self.wait.append(self._got - self._asked)
            self.whole.append(time.perf_counter() - self._asked)
            self.samples.append(len(engine.state.batch["image"]))  # type: ignore[index, call-overload, arg-type]
        self._first = False
        enough = len(self.whole) >= 2 and time.perf_counter() - self._begin >= self.limit
        if enough or len(self.whole) >= self.iterations:
            engine.terminate()


def read_stage(
    bundle: Path, stage: str, dataset_dir: Path, device: str, output_dir: str, overrides: Mapping[str, Any]
) -> ConfigParser:
    """Read a stage's configuration and keep it from validating and from writing into the bundle."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / STAGES[stage])
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(dataset_dir), "device": device})
    parser.update({"output_dir": output_dir, "model_file": f"{output_dir}/model.pt", "resume": False})
    parser.update({"max_epochs": NEVER, "val_interval": NEVER, "validate::dataset::cache_rate": 0.0})
    if "segmenter_files" in parser:
        own = ("runs/segmenter/segmenter.pt", "models/model.pt")
        parser.update({"segmenter_files": [str(bundle / file) for file in own]})
    parser.update(dict(overrides))
    return parser


def run_job(
    stage: str,
    bundle: str,
    dataset_dir: str,
    device: str,
    workers: int,
    cache: bool,
    iterations: int,
    warm_up: int,
    seconds: float,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Run some iterations of a stage in this process.

    Args:
        stage: a name of ``STAGES``.
        bundle: its folder.
        dataset_dir: labelled scans.
        device: of the networks.
        workers: processes that read.
        cache: False prepares each case anew whenever it is used.
        iterations: see :class:`Waiting`.
        warm_up: see :class:`Waiting`.
        seconds: see :class:`Waiting`.
        overrides: further changes of the configuration.

    Returns:
        samples a second, seconds and memory.
    """
    start_mib, on = status_mib("VmRSS") or peak_mib(), torch.device(device)
    more = {"num_workers": workers, **overrides, **({} if cache else {"train::dataset::cache_rate": 0.0})}
    with tempfile.TemporaryDirectory() as folder:
        parser = read_stage(Path(bundle), stage, Path(dataset_dir), device, folder, more)
        parser.get_parsed_content("initialize")
        before_mib, begin = status_mib("VmRSS"), time.perf_counter()
        dataset = parser.get_parsed_content("train::dataset")  # the trainer gets the same one
        fill, after_mib = time.perf_counter() - begin, status_mib("VmRSS")
        trainer = parser.get_parsed_content("train::trainer")
        if trainer.state.epoch_length < 2:  # the first iteration of an epoch does not count
            raise UserError(
                f"{dataset_dir}: found {len(dataset)} training cases in batches of {parser['batch_size']}, expected "
                "two batches an epoch or more; give more cases, or a smaller batch_size with --overrides"
            )
        waiting = Waiting(iterations, warm_up, seconds, on)
        waiting.attach(trainer)
        trainer.run()
    return {
        "stage": stage,
        "workers": workers,
        "cache": cache,
        "cases": len(dataset),
        "batch_size": parser["batch_size"],
        "iterations": len(waiting.whole),
        **rates(waiting.wait, waiting.whole, waiting.samples),
        "epoch_start_seconds": float(np.median(waiting.epoch_starts)),
        "fill_seconds": fill,
        "cache_mib": None if after_mib is None or before_mib is None else after_mib - before_mib,
        "start_mib": start_mib,
        "peak_mib": peak_mib(),
        "gpu_peak_mib": torch.cuda.max_memory_allocated(on) / 2**20 if on.type == "cuda" else None,
        "yardstick_seconds": yardstick(on),
    }


def rates(wait: Sequence[float], whole: Sequence[float], samples: Sequence[int]) -> dict[str, Any]:
    """Return what iterations come to.

    Args:
        wait: seconds that each waited for its batch.
        whole: seconds that each took, the wait included.
        samples: crops in each.

    Returns:
        ``samples_per_second`` and ``waiting_share`` (0 to 1) over all iterations; median and quartiles of the
        ``iteration_seconds`` and ``wait_seconds``.
    """
    return {
        "samples_per_second": sum(samples) / sum(whole),
        "waiting_share": sum(wait) / sum(whole),
        "iteration_seconds": spread(whole),
        "wait_seconds": spread(wait),
    }


def training_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all rows; a stage's first one is what its others are compared with."""
    head = ["stage", "workers", "cache", "batch", "iterations", "crops a second", "times the first", "iteration s"]
    head += ["wait s", "waiting %", "start of an epoch s", "dataset made in s", "dataset MiB", "peak MiB"]
    first: dict[str, float] = {}
    lines = []
    for row in rows:
        base = first.setdefault(row["stage"], row["samples_per_second"])
        lines.append(
            [
                row["stage"],
                row["workers"],
                "yes" if row["cache"] else "no",
                row["batch_size"],
                row["iterations"],
                report.number(row["samples_per_second"]),
                f"{row['samples_per_second'] / base:.2f}",
                report.with_spread(row["iteration_seconds"]),
                report.with_spread(row["wait_seconds"]),
                f"{100 * row['waiting_share']:.1f}",
                report.number(row["epoch_start_seconds"]),
                report.number(row["fill_seconds"]),
                "-" if row["cache_mib"] is None else f"{row['cache_mib']:.0f}",
                report.memory(row),
            ]
        )
    return table(head, lines)


def dataset_of(args: argparse.Namespace) -> Path:
    """Return the data set that is given; without one a phantom, made below ``args.work``."""
    if args.dataset_dir:
        return args.dataset_dir
    folder = args.work / f"phantom_training_{PHANTOM_CASES}"
    if not folder.exists():
        write_phantom(folder, train=PHANTOM_CASES, validation=1, test=0, series=0, progress=False)
    return folder


def benchmark(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each stage with each number of workers, with the cache and without; write the table."""
    dataset_dir, rows = dataset_of(args), []
    for stage, cache, workers in itertools.product(args.stages, (True, False), args.workers):
        job = {
            "stage": stage,
            "bundle": str(args.bundle),
            "dataset_dir": str(dataset_dir),
            "device": args.device,
            "workers": workers,
            "cache": cache,
            "iterations": args.iterations,
            "warm_up": args.warm_up,
            "seconds": args.seconds,
            "overrides": args.overrides,
        }
        name = f"training_{stage}_{workers}_{'cached' if cache else 'read'}"
        rows.append(measured(name, job, args, script=Path(__file__).resolve()))
    text = (
        f"{training_table(rows)}\n\n{args.bundle.name}, {rows[0]['cases']} training cases; {machine_line(args)} "
        f"{when(rows)} Rates are over all iterations, seconds medians with quartiles; the first {args.warm_up} "
        "iterations and the first of each epoch are left out. Start of an epoch: until its first batch, workers "
        "started. "
    ) + report.steadiness({str(i): row for i, row in enumerate(rows)})
    content = {"bundle": args.bundle.name, "machine": machine(args.device), "rows": rows}
    report.write(f"training_{torch.device(args.device).type}", content, text, args.output_dir)
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked.

    Raises:
        UserError: when one does not fit.
    """
    options = shared_options(__doc__)
    options.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="both by default")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="processes that read")
    options.add_argument("--iterations", type=int, default=30, help="that are timed")
    options.add_argument("--warm_up", type=int, default=3, help="iterations before them")
    options.add_argument("--seconds", type=float, default=12, help="after which no further iteration is timed")
    args = parsed(options, argv)
    for name, low in (("iterations", 2), ("warm_up", 1)):
        if getattr(args, name) < low:
            raise UserError(f"{name}: found {getattr(args, name)}, expected {low} or more; fix --{name}")
    if min(args.workers) < 0:
        raise UserError(f"workers: found {args.workers}, expected numbers of 0 or more; fix --workers")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    friendly_errors()
    args = parse(argv)
    if args.job:
        measuring.write_json(args.job_file, run_job(**args.job))
    else:
        benchmark(args)


if __name__ == "__main__":
    main()
