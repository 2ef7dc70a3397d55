"""Kill inference and both trainings at random instants, run them again until they are done, and see what is left.

    python tests/faults/kill.py --kills 50

A run is killed, its rerun too, and so on until one comes to its end: a chain. Most runs are forked from this process,
which has the imports behind it, so that the instants lie in the work itself, evenly from its begin to its end, by the
processor's time that the run has had; every tenth is a fresh command that is killed while it imports or shortly after.
Exits with 1 when anything is wrong.
"""

import argparse
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
from dataclasses import dataclass, field
from pathlib import Path

import monai.bundle
import monai.networks.nets
import numpy as np
import torch
from kill_checks import differing, files_in, is_part, is_whole

import monai_pdddpm.engines
import monai_pdddpm.handlers
import monai_pdddpm.inferers
import monai_pdddpm.transforms  # noqa: F401, of the bundle
from monai_pdddpm.data import write_phantom
from monai_pdddpm.visualize.overview import save_overview

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
WRONG = ("lost", "partial", "redone", "differing", "unclear")
COLD = 0.1  # share of the runs that begin with the imports
IMPORTS = 5.0  # seconds of the processor that they take, about
PATIENCE = 300  # seconds that a run may take to end when it was told to, on a machine that has other work
SIZE = (16, 16, 16)
_SHORT = {"max_epochs": 6, "val_interval": 4, "roi_size": "[16, 16, 16]", "batch_size": 2}
SETTINGS = {
    "inference": {"members": 2, "num_steps": 1, "write_seg_nrrd": True},
    "segmenter": {**_SHORT, "keep": "best"},
    "denoiser": {**_SHORT, "num_steps": 1, "val_members": 1},
}
CONFIGS = {"inference": "inference", "segmenter": "train_segmenter", "denoiser": "train"}


@dataclass
class Task:
    """A command, and the folder that it writes to.

    Attributes:
        name: inference, segmenter or denoiser.
        folder: for all of its files.
        words: of the command line, but for ``python -m monai.bundle``.
        seconds: of the processor that it takes when nobody kills it.
    """

    name: str
    folder: Path
    words: list[str]
    seconds: float = 0.0

    @property
    def output(self):
        """The folder that the command writes to."""
        return self.folder / "output"

    @property
    def expected(self):
        """What an unbroken run left there."""
        return self.folder / "expected"

    @property
    def log(self):
        """Both streams of the last run."""
        return self.folder / "log"

    @classmethod
    def prepare(cls, name, work, data):
        """Make the command of a task."""
        folder = work / name
        folder.mkdir()
        verb = "inference" if name == "inference" else "training"
        options = {"config_file": BUNDLE / "configs" / f"{CONFIGS[name]}.json", "dataset_dir": data, "device": "cpu"}
        options |= {"precision": "float32", "output_dir": folder / "output", **SETTINGS[name]}
        if name != "inference":
            options["model_file"] = folder / "output" / "model.pt"
        if name == "denoiser":
            options["segmenter_files"] = f"['{BUNDLE / 'models' / 'model.pt'}']"
        return cls(name, folder, ["run", verb, *(word for key in options for word in (f"--{key}", str(options[key])))])

    def start(self, cold=False, **options):
        """Start the command, in a fork of this process or as a fresh one, and return its process id."""
        words = [*self.words, *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
        stream = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if cold:
            fresh = [sys.executable, "-m", "monai.bundle", *words]
            pid = subprocess.Popen(fresh, stdout=stream, stderr=stream, cwd=self.folder).pid
        else:
            pid = os.fork()
        if pid == 0:  # as a fresh one, but for the imports
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            os.chdir(self.folder)
            sys.argv = ["monai.bundle", *words]
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            sys.exit()
        os.close(stream)
        return pid

    def whole(self):
        """Run unbroken, and keep what that gives."""
        pid = self.start()
        _, status, used = os.wait4(pid, 0)
        self.seconds = used.ru_utime + used.ru_stime
        if status != 0:
            raise SystemExit(f"{self.name}: an unbroken run ended with {status}\n{self.log.read_text()}")
        self.output.rename(self.expected)


def wait(pid, seconds, clock=time.monotonic):
    """Wait until a process ends or ``clock`` has gone on so far; return its exit code (-9 of signal 9), or None."""
    end = clock() + seconds
    while clock() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def processor_clock(pid):
    """Return a clock that tells the seconds a process has had of the processor."""
    return lambda: int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@dataclass
class Ledger:
    """What became of the kills of one task by one signal."""

    task: str
    signal: str
    counts: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, what, found):
        """Count what is wrong, with a note of each."""
        found = list(found)
        self.counts[what] += len(found)
        self.notes += [f"{self.task}, {self.signal}: {what}: {each}" for each in found]

    @property
    def bad(self):
        """How much is wrong."""
        return sum(self.counts[what] for what in WRONG)


def state_of(task):
    """Return what a run must keep: each finished case's files with their identity, or the epoch of the checkpoint."""
    if task.name != "inference":
        file = task.output / "checkpoint.pt"
        return {"epoch": torch.load(file, weights_only=True)["progress"]["epoch"] if file.is_file() else 0}
    cases = {report.parent for report in task.output.glob("*/*_report.json")}
    return {case.name: {name: _identity(path) for name, path in files_in(case).items()} for case in cases}


def _identity(path):
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def after_kill(task, ledger, before, seen):
    """Look at what a killed run left behind; ``seen`` holds the files that were found whole already."""
    after = state_of(task)
    if task.name == "inference":
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


def after_stop(task, ledger, code):
    """Look at how a run that was told to stop has ended: silently before it began, or with all said and tidied up."""
    text = task.log.read_text(errors="replace")
    if code == -signal.SIGTERM:
        ledger.counts["before it began"] += 1
        return
    lines = text.rstrip().splitlines() or [""]
    if code != 128 + signal.SIGTERM or not lines[-1].startswith("stopped by SIGTERM: "):
        ledger.add("unclear", [f"exit code {code}, {lines[-1]}"])
    ledger.add("unclear", (f"left {name}" for name, path in files_in(task.output).items() if is_part(path)))
    told = re.findall(r"stopped, (\d+) of \d+ epochs are kept", text)
    done = re.findall(r"Trainer.* Epoch\[(\d+)\] Complete", text)
    if told and int(told[-1]) != state_of(task)["epoch"]:
        ledger.add("lost", [f"epoch {told[-1]} was told"])
    if done and int(done[-1]) > state_of(task)["epoch"]:
        ledger.add("lost", [f"epoch {done[-1]} was complete"])


def after_end(task, ledger, code):
    """Look at what a rerun that came to its end has made."""
    if code != 0:
        ledger.add("lost", [f"exit code {code}: {task.log.read_text(errors='replace').rstrip().splitlines()[-1:]}"])
        return
    ledger.add("partial", (f"left {name}" for name, path in files_in(task.output).items() if is_part(path)))
    ledger.add("differing", differing(task.output, task.expected))


def run_chain(task, number, ledger, left, chance):
    """Kill a command and its reruns until one comes to its end, at most ``left`` times; return the kills."""
    shutil.rmtree(task.output, ignore_errors=True)
    # a checkpoint each epoch for what is killed outright; what is told to stop has to see to it
    options = {} if task.name == "inference" or number == signal.SIGTERM else {"checkpoint_seconds": 0}
    kills, seen = 0, set()
    while True:
        before = state_of(task)
        cold = kills < left and chance.random() < COLD
        pid = task.start(cold, **options)
        delay = chance.uniform(0, IMPORTS + task.seconds / 2 if cold else task.seconds)
        code = wait(pid, delay, processor_clock(pid)) if kills < left else wait(pid, 3600)
        if code is None:
            os.kill(pid, number)
            code = wait(pid, PATIENCE)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ledger.add("unclear", [f"not ended after {PATIENCE} s: {task.log.read_text()[-200:]}"])
        if code in (None, -number, 128 + number):
            kills += 1
            ledger.counts["kills"] += 1
            after_kill(task, ledger, before, seen)
            if number == signal.SIGTERM:
                after_stop(task, ledger, code)
            continue
        after_kill(task, ledger, before, seen)
        after_end(task, ledger, code)
        ledger.add("unclear", ["went on when told to stop"] if "Exception ignored" in task.log.read_text() else [])
        ledger.counts["chains"] += 1
        if not kills:
            ledger.counts["unbroken"] += 1
        return kills


def run_task(task, signals, kills, seed):
    """Kill a task so many times by each signal."""
    task.whole()
    for number in signals:
        chance = random.Random(f"{seed} {task.name} {number.name}")
        ledger, left = Ledger(task.name, number.name), kills
        while left > 0:
            left -= run_chain(task, number, ledger, left, chance)
        yield ledger


def warm_up(folder):
    """Load what is loaded at first use, fonts for example, so that each fork need not."""
    volume, labels = np.random.default_rng(0).random(SIZE, np.float32), {1: "one", 2: "two"}
    maps = {"seg": (2 * volume).astype(np.uint8), "entropy": volume}
    save_overview(
        folder / "warm.png",
        image=volume,
        **maps,
        labels=labels,
        affine=np.eye(4),
        title="warm",
        members=np.zeros((2, *SIZE), np.uint8),
    )
    monai.bundle.config_item.ComponentLocator().get_component_module_name("Compose")


def table(ledgers):
    """Return the table of all kills."""
    lines = [
        f"| task | signal | kills | runs to the end | {' | '.join(WRONG)} |",
        "|---|---|" + "---|" * (2 + len(WRONG)),
    ]
    for each in ledgers:
        numbers = [each.counts["kills"], each.counts["chains"], *(each.counts[what] for what in WRONG)]
        lines.append(f"| {each.task} | {each.signal} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main():
    """Kill as asked for, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each task by each signal (50)")
    parser.add_argument("--what", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="tasks (all)")
    names = [number.name for number in SIGNALS]
    parser.add_argument("--signals", nargs="+", choices=names, default=names, help="to kill with (both)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin, ledgers = time.monotonic(), []
    signals = [signal.Signals[name] for name in options.signals]
    work, parent = options.keep or Path(tempfile.mkdtemp()), os.getpid()
    try:
        work.mkdir(parents=True, exist_ok=True)
        warm_up(work)
        few = {"train": 4, "validation": 1, "test": 3, "series": 0, "annotations": 1}
        data = write_phantom(work / "data", **few, size=SIZE, spacing=(2.0, 2.0, 2.0), progress=False)
        for name in options.what:
            for ledger in run_task(Task.prepare(name, work, data), signals, options.kills, options.seed):
                ledgers.append(ledger)
                print(f"{name}, {ledger.signal}: {dict(ledger.counts)}", *ledger.notes, sep="\n  ", flush=True)
    finally:
        if os.getpid() == parent and not options.keep:  # forks come by here when they end
            shutil.rmtree(work)
    bad = sum(ledger.bad for ledger in ledgers)
    print(f"\n{table(ledgers)}\n")
    kills = sum(ledger.counts["kills"] for ledger in ledgers)
    print(f"{kills} kills in {time.monotonic() - begin:.0f} s, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
