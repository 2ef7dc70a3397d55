"""Processes that wait for their turn, so that measurements alternate. Imports nothing beyond Python's own library."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Turns:
    """A process that measures one case at each call, and waits in between.

    The script takes the options of :func:`job_options` and calls :func:`serve`; `job` holds JSON values.
    """

    def __init__(self, script: Path, job: Mapping[str, Any], python: str = sys.executable) -> None:
        ours, theirs = os.pipe()
        command = [python, str(script), "--job", json.dumps(job), "--answers", str(theirs)]
        command += ["--launched", str(time.time())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(theirs,), text=True)
        os.close(theirs)
        self._answers = os.fdopen(ours)
        self.ready_seconds = self._read()

    def __call__(self, case: int) -> Any:
        """Return the measurement of a case."""
        assert self._process.stdin is not None
        print(case, file=self._process.stdin, flush=True)
        return self._read()

    def end(self) -> Any:
        """End the process and return its last words."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = self._read()
        self._process.wait()
        return last

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self._process.args}: found exit code {self._process.wait()}, expected an answer")
        return json.loads(line)


def serve(answers: int, ready_seconds: float, measure: Callable[[int], Any], end: Callable[[], Any]) -> None:
    """Answer the calls of :class:`Turns`: `measure` for a line with a number, and `end` for the end of the input."""
    with os.fdopen(answers, "w") as file:
        print(json.dumps(ready_seconds), file=file, flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(int(line))), file=file, flush=True)
        print(json.dumps(end()), file=file, flush=True)


def job_options(options: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options with which :class:`Turns` calls a script."""
    for name, kind in (("job", json.loads), ("answers", int), ("launched", float)):
        options.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return options
