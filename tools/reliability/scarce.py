"""Run a bundle's command where something is short: a fork of this process, prepared before the command begins."""

import contextlib
import os
import resource
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import monai.bundle
import monai.networks.nets  # noqa: F401
import pytest

import monai_pdddpm.engines
import monai_pdddpm.handlers
import monai_pdddpm.inferers
import monai_pdddpm.transforms  # noqa: F401

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"


@dataclass
class Done:
    """What a command left behind on its streams."""

    code: int
    text: str

    @property
    def errors(self):
        """The lines that tell of a mistake at the end of the run."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


def run(config, log, prepare=lambda: None, **options):
    """Run ``python -m monai.bundle run`` with a file of the phantom's bundle, after ``prepare`` in the same process."""
    options = {"config_file": BUNDLE / "configs" / f"{config}.json", "device": "cpu", "precision": "float32", **options}
    verb = "inference" if config == "inference" else "training"
    pid = os.fork()
    if pid == 0:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.close(stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)  # pytest's own lead elsewhere
        sys.excepthook = sys.__excepthook__
        code = 1
        try:
            prepare()
            sys.argv = ["monai.bundle", "run", verb, *(w for k, v in options.items() for w in (f"--{k}", str(v)))]
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # pytest's own end is not for this process
    _, status = os.waitpid(pid, 0)
    return Done(os.waitstatus_to_exitcode(status), Path(log).read_text(errors="replace"))


def limit(what, amount):
    """Return what lowers a limit of a process, such as ``resource.RLIMIT_FSIZE``."""
    return lambda: resource.setrlimit(what, (amount, resource.getrlimit(what)[1]))


@contextlib.contextmanager
def small_disk(folder, size, read_only=False):
    """Mount a disk in memory of so many bytes; where that is not allowed, the test is left out."""
    options = f"size={size}{',ro' if read_only else ''}"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:  # no such command
        pytest.skip(f"a small disk cannot be mounted here ({error})")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
