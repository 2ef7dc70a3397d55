"""Run the command of a bundle in a fork with limited resources."""

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
    """Exit code and output of a command."""

    code: int
    text: str

    @property
    def errors(self):
        """Lines that begin with "error: "."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


def run(config, log, prepare=lambda: None, **options):
    """Run ``python -m monai.bundle run`` with a configuration of the phantom, after ``prepare`` in the same process."""
    options = {"config_file": BUNDLE / "configs" / f"{config}.json", "device": "cpu", "precision": "float32", **options}
    verb = "inference" if config == "inference" else "training"
    pid = os.fork()
    if pid == 0:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.close(stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)  # pytest replaces them
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
            os._exit(code)  # without the exit functions of pytest
    _, status = os.waitpid(pid, 0)
    return Done(os.waitstatus_to_exitcode(status), Path(log).read_text(errors="replace"))


def limit(what, amount):
    """Return a function that lowers a limit of the process, such as ``resource.RLIMIT_FSIZE``."""
    return lambda: resource.setrlimit(what, (amount, resource.getrlimit(what)[1]))


@contextlib.contextmanager
def small_disk(folder, size, read_only=False):
    """Mount a disk of so many bytes in memory; skip the test where that is not allowed."""
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
