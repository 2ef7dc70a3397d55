"""Measurements in processes of their own, kept on disk: what was measured with the same settings is not repeated."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.trust import measuring
from benchmarks.trust.report import commit
from monai_pdddpm.utils.errors import UserError

SPEED = Path(__file__).resolve().with_name("speed.py")


def machine(device: str, threads: int = 0) -> dict[str, Any]:
    """Return what a measurement depends on beside its settings; threads are this process's unless given."""
    chosen = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Return the processor's name as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine()


def machine_line(args: argparse.Namespace) -> str:
    """Return a sentence on the machine."""
    here = machine(args.device)
    return f"{here['device']}, {here['processor']}, {here['threads']} threads, torch {here['torch']}."


def when(rows: list[Mapping[str, Any]]) -> str:
    """Return a sentence on the time at which rows, at least one, were measured."""
    times = sorted(row["at"] for row in rows)
    return f"Measured from {times[0]} to {times[-1]}."


def kept(name: str, job: Mapping[str, Any], args: argparse.Namespace, threads: int = 0) -> dict[str, Any] | None:
    """Return what was measured under a name, None unless it was with the same settings on the same machine."""
    path = _path(name, args)
    row = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return row if row and row["asked"] == {**job, "machine": machine(args.device, threads)} else None


def measured(
    name: str, job: Mapping[str, Any], args: argparse.Namespace, threads: int = 0, script: Path = SPEED
) -> dict[str, Any]:
    """Return what a job gives: measured in a process of its own, or as it was with the same settings.

    Args:
        name: of the file below ``args.work``.
        job: what the script is given as ``--job``, JSON; it writes its result to ``--job_file``.
        args: of the command line: ``work``, ``device``, ``again``.
        threads: of the process, 0 for as many as this one has.
        script: to be run.

    Raises:
        UserError: when the process fails.
    """
    before = None if args.again else kept(name, job, args, threads)
    if before:
        return before
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    path = _path(name, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    command = [sys.executable, str(script), "--job", json.dumps(job), "--job_file", str(part)]
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{name}: its process ended with {done.returncode}; what was measured before it is kept")
    found = json.loads(part.read_text(encoding="utf-8"))
    part.unlink()
    asked = {**job, "machine": machine(args.device, threads)}
    stamp = {"at": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()}
    measuring.write_json(path, {"asked": asked, **stamp, **found})
    return json.loads(path.read_text(encoding="utf-8"))


def _path(name: str, args: argparse.Namespace) -> Path:
    return args.work / "measured" / f"{name}.json"
