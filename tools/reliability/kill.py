"""Kill inference and both trainings at random times, run them again until they end, and check the files.

    python tools/reliability/kill.py --kills 50

A run is killed, then its rerun, until one run ends: a chain. Most runs are forks of this process, which has imported
everything already; their times are uniform in the CPU time of the run. Every tenth run is a new process that is killed
while it imports or shortly after. The task "group" is an inference in two processes of torchrun, which are all killed
at once, by SIGKILL. The exit code is 1 if anything was lost. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import monai.bundle
import monai.networks.nets
import numpy as np
import torch
from unbroken import differing, files_in, is_part, is_whole

import monai_pdddpm.engines
import monai_pdddpm.handlers
import monai_pdddpm.inferers
import monai_pdddpm.transforms  # noqa: F401  the configurations use them
from monai_pdddpm.data import write_phantom
from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.overview import overview_figure, save_overview

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
FAULTS = ("lost", "partial", "redone", "differing", "unclear")
COLD = 0.1  # fraction of the runs that are new processes
IMPORTS = 5.0  # CPU seconds of the imports
PATIENCE = 300  # seconds until a run must have stopped after SIGTERM
SIZE = (16, 16, 16)
_SHORT = {"max_epochs": 6, "val_interval": 4, "roi_size": "[16, 16, 16]", "batch_size": 2}
_INFERENCE = {"members": 2, "num_steps": 1, "outputs": "default,seg-nrrd"}
SETTINGS = {
    "inference": _INFERENCE,
    "group": _INFERENCE,
    "segmenter": {**_SHORT},
    "denoiser": {**_SHORT, "num_steps": 1, "val_members": 1},
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
CONFIGS = {"inference": "inference", "group": "inference", "segmenter": "train_segmenter", "denoiser": "train"}


@dataclass
class Task:
    """A command and its output folder.

    Attributes:
        name: "inference", "group", "segmenter" or "denoiser".
        folder: folder for all files of the task.
        words: arguments of ``python -m monai.bundle``.
        seconds: CPU time of an unbroken run.
    """

    name: str
    folder: Path
    words: list[str]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.output, self.expected, self.log = (self.folder / part for part in ("output", "expected", "log"))

    @classmethod
    def prepare(cls, name: str, work: Path, data: Path) -> Task:
        """Return the task with its command."""
        folder = work / name
        folder.mkdir()
        has_cases = name in ("inference", "group")
        verb = "inference" if has_cases else "training"
        options = {"config_file": BUNDLE / "configs" / f"{CONFIGS[name]}.json", "dataset_dir": data, "device": "cpu"}
        options |= {"precision": "float32", "output_dir": folder / "output", **SETTINGS[name]}
        if name == "group":
            options["config_file"] = [
                str(BUNDLE / "configs" / f"{n}.json") for n in ("inference", "multi_gpu_inference")
            ]
            del options["device"]
        if not has_cases:
            options["model_file"] = folder / "output" / "model.pt"
        if name == "denoiser":
            options["segmenter_files"] = f"['{BUNDLE / 'models' / 'model.pt'}']"
        return cls(name, folder, ["run", verb, *(word for key in options for word in (f"--{key}", str(options[key])))])

    def start(self, cold: bool = False, **options: object) -> int:
        """Start the command as a fork or as a new process; return the process id."""
        words = [*self.words, *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
        stream = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if cold or self.name == "group":
            command = [sys.executable, *(TORCHRUN if self.name == "group" else []), "-m", "monai.bundle", *words]
            pid = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=self.folder).pid
        else:
            pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            os.chdir(self.folder)
            sys.argv = ["monai.bundle", *words]
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            sys.exit()
        os.close(stream)
        return pid

    def run_unbroken(self) -> None:
        """Run to the end once, and keep the output for comparison."""
        begun = time.monotonic()
        _, status, used = os.wait4(self.start(), 0)
        self.seconds = time.monotonic() - begun if self.name == "group" else used.ru_utime + used.ru_stime
        if status != 0:
            raise SystemExit(f"{self.name}: an unbroken run ended with {status}\n{self.log.read_text()}")
        self.output.rename(self.expected)

    def state(self) -> dict:
        """Return what a run must keep: the files of each finished case, or the epoch of the checkpoint."""
        if self.name not in ("inference", "group"):
            file = self.output / "checkpoint.pt"
            return {"epoch": torch.load(file, weights_only=True)["progress"]["epoch"] if file.is_file() else 0}
        cases = {report.parent for report in self.output.glob("*/*_report.json")}
        return {case.name: {name: _identity(path) for name, path in files_in(case).items()} for case in cases}


@dataclass
class Ledger:
    """Counts and descriptions of the faults of one task with one signal."""

    task: str
    signal: str
    counts: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, fault: str, found: Iterable[object]) -> None:
        """Count faults, with a note of each."""
        found = list(found)
        self.counts[fault] += len(found)
        self.notes += [f"{fault}: {each}" for each in found]


def wait(pid: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> int | None:
    """Wait until a process ends or time is over; return its exit code, negative for a signal, or None."""
    end = clock() + seconds
    while clock() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def cpu_clock(pid: int) -> Callable[[], float]:
    """Return a clock of the CPU seconds of a process."""
    return lambda: int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in children for each in (int(child), *descendants(int(child)))]


def kill(task: Task, pid: int, number: signal.Signals) -> None:
    """Send a signal to a run, or to all processes of a group, and wait until its workers have ended."""
    workers = descendants(pid) if task.name == "group" else []
    for each in (pid, *workers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)
    for worker in workers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it is gone
            while Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def check_kept(task: Task, ledger: Ledger, before: dict, seen: set) -> None:
    """Check the files after a run; ``seen`` contains the files that were complete at an earlier check."""
    after = task.state()
    if task.name in ("inference", "group"):
        ledger.add("lost", before.keys() - after.keys())
        ledger.add("redone", [case for case in before.keys() & after.keys() if before[case] != after[case]])
    elif after["epoch"] < before["epoch"]:
        ledger.add("lost", [f"epoch {before['epoch']}, {after['epoch']} is left"])
    for name, path in files_in(task.output).items():
        identity = _identity(path)
        if is_part(path) or identity in seen:
            continue
        if is_whole(path):
            seen.add(identity)
        else:
            ledger.add("partial", [name])


def check_stopped(task: Task, ledger: Ledger, code: int | None) -> None:
    """Check a run after SIGTERM: it ends before the work begins, or with a line, and without temporary files."""
    if code == -signal.SIGTERM:
        return
    text = task.log.read_text(errors="replace")
    last = (text.rstrip().splitlines() or [""])[-1]
    if code != 128 + signal.SIGTERM or "Traceback" in text:
        ledger.add("unclear", [f"exit code {code}, {last}"])
    ledger.add("unclear", (f"left {name}" for name, path in files_in(task.output).items() if is_part(path)))
    done = re.findall(r"Trainer.* Epoch\[(\d+)\] Complete", text)
    if done and int(done[-1]) > task.state()["epoch"]:
        ledger.add("lost", [f"complete epoch {done[-1]}"])


def check_ended(task: Task, ledger: Ledger, code: int) -> None:
    """Check the output of the last run of a chain."""
    text = task.log.read_text(errors="replace")
    if code != 0:
        ledger.add("lost", [f"exit code {code}: {text.rstrip().splitlines()[-1:]}"])
        return
    ledger.add("partial", (f"left {name}" for name, path in files_in(task.output).items() if is_part(path)))
    ledger.add("differing", differing(task.output, task.expected))


def run_chain(task: Task, number: signal.Signals, ledger: Ledger, left: int, chance: random.Random) -> int:
    """Kill a command and its reruns until one ends, at most ``left`` times; return the number of kills."""
    shutil.rmtree(task.output, ignore_errors=True)
    # SIGKILL: a checkpoint per epoch; SIGTERM: the run itself saves one
    options = {} if task.name in ("inference", "group") or number == signal.SIGTERM else {"checkpoint_seconds": 0}
    kills, seen = 0, set()
    while True:
        before = task.state()
        cold = kills < left and chance.random() < COLD
        pid = task.start(cold, **options)
        delay = chance.uniform(0, IMPORTS + task.seconds / 2 if cold else task.seconds)
        clock = time.monotonic if task.name == "group" else cpu_clock(pid)
        code = wait(pid, delay, clock) if kills < left else wait(pid, 3600)
        if code is None:
            kill(task, pid, number)
            code = wait(pid, PATIENCE)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ledger.add("unclear", [f"runs {PATIENCE} s after {number.name}: {task.log.read_text()[-200:]}"])
        check_kept(task, ledger, before, seen)
        if code not in (None, -number, 128 + number):
            check_ended(task, ledger, code)
            ledger.counts["chains"] += 1
            return kills
        kills += 1
        ledger.counts["kills"] += 1
        if number == signal.SIGTERM:
            check_stopped(task, ledger, code)


def run_task(task: Task, signals: Iterable[signal.Signals], kills: int, seed: int) -> Iterator[Ledger]:
    """Kill a task so many times with each signal."""
    task.run_unbroken()
    for number in signals if task.name != "group" else [signal.SIGKILL]:
        chance = random.Random(f"{seed} {task.name} {number.name}")
        ledger, left = Ledger(task.name, number.name), kills
        while left > 0:
            left -= run_chain(task, number, ledger, left, chance)
        yield ledger


def warm_up(folder: Path) -> None:
    """Load what is loaded at first use, such as fonts, before the forks."""
    volume = np.random.default_rng(0).random(SIZE, np.float32)
    maps = {"seg": (2 * volume).astype(np.uint8), "entropy": volume, "members": np.zeros((2, *SIZE), np.uint8)}
    view = CaseView(image=volume, **maps, labels={1: "one", 2: "two"}, affine=np.eye(4), title="-")
    save_overview(folder / "warm.png", overview_figure(view))
    monai.bundle.config_item.ComponentLocator().get_component_module_name("Compose")


def table(ledgers: list[Ledger]) -> str:
    """Return the counts in Markdown."""
    columns = ("kills", "chains", *FAULTS)
    lines = [f"| task | signal | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for each in ledgers:
        lines.append(f"| {each.task} | {each.signal} | {' | '.join(str(each.counts[key]) for key in columns)} |")
    return "\n".join(lines)


def main() -> int:
    """Kill, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills of each task with each signal (50)")
    parser.add_argument("--what", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="tasks (all)")
    names = [number.name for number in SIGNALS]
    parser.add_argument("--signals", nargs="+", choices=names, default=names, help="signals (both)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times (0)")
    options = parser.parse_args()
    ledgers, parent = [], os.getpid()
    signals = [signal.Signals[name] for name in options.signals]
    work = Path(tempfile.mkdtemp())
    try:
        warm_up(work)
        few = {"train": 4, "validation": 1, "test": 3, "annotations": 1}
        data = write_phantom(work / "data", **few, size=SIZE, spacing=(2.0, 2.0, 2.0))
        for name in options.what:
            for ledger in run_task(Task.prepare(name, work, data), signals, options.kills, options.seed):
                ledgers.append(ledger)
                print(f"{name}, {ledger.signal}: {dict(ledger.counts)}", *ledger.notes, sep="\n  ", flush=True)
    finally:
        if os.getpid() == parent:  # a fork also comes here when it ends
            shutil.rmtree(work)
    print(f"\n{table(ledgers)}")
    return int(any(ledger.counts[fault] for ledger in ledgers for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
