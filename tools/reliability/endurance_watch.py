"""Memory, files and threads of a process with its children, and their growth."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

WARM_UP = 0.5  # fraction of the samples to skip: libraries load, buffers grow to their size
# allowed growth per 100 cases or requests; a leak of one file per case would be 100
BOUNDS = {"memory_mib": 4.0, "files": 1.0, "threads": 1.0, "temporary": 1.0}


@dataclass(frozen=True)
class Usage:
    """Usage at one time.

    Attributes:
        memory_mib: sum of the resident memory of each process. Mapped files do not count: the part of a library that a
            process is charged with depends on how many others use it. Pages that a forked worker shares with its parent
            count in both, since they become their own one by one, without any growth.
        files: open file descriptors.
        threads: number of threads.
        temporary: number of temporary files.
    """

    memory_mib: float
    files: float
    threads: float
    temporary: float


def usage(pid: int, temporary: Path) -> Usage:
    """Return the usage of a process and its descendants; ``temporary`` is their temporary folder."""
    held = [0.0, 0, 0]
    for each in family(pid):
        with contextlib.suppress(OSError):  # the process has ended
            held[0] += _own_kib(each) / 1024
            held[1] += len(os.listdir(f"/proc/{each}/fd"))
            held[2] += len(os.listdir(f"/proc/{each}/task"))
    return Usage(*held, sum(len(files) for _, _, files in os.walk(temporary)))


def least(seen: Sequence[Usage]) -> Usage:
    """Return the minimum of each number."""
    return Usage(*np.array([astuple(one) for one in seen]).min(axis=0))


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += family(int(child))
    return found


def _own_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Anonymous:", "Pss_Shmem:")))


def growth(done: Sequence[int], samples: Sequence[Usage]) -> Usage:
    """Return the growth per 100 cases, fitted by straight lines to the samples after the warm-up.

    Args:
        done: finished cases at each sample.
        samples: usage at each sample.
    """
    first = int(WARM_UP * len(samples))
    values = np.array([astuple(sample) for sample in samples[first:]])
    return Usage(*(100 * np.polyfit(done[first:], values, 1)[0]))


def beyond(grown: Usage) -> list[str]:
    """Describe the numbers that grow beyond their bounds."""
    return [
        f"{name} grows by {getattr(grown, name):.2f} per 100, expected at most {bound:g}"
        for name, bound in BOUNDS.items()
        if not getattr(grown, name) <= bound
    ]


def table(what: str, done: Sequence[int], samples: Sequence[Usage], grown: Usage) -> str:
    """Return the samples at the start, after the warm-up and at the end, and the growth, in Markdown."""
    shown = [0, int(WARM_UP * len(samples)), len(samples) - 1]
    head = [f"after {done[number]} {what}" for number in shown]
    rows = [f"| | {' | '.join(head)} | growth per 100 | bound |", "|---|" + "---|" * 5]
    words = ("memory (MiB)", "open files", "threads", "temporary files")
    for field, word in zip(fields(Usage), words, strict=True):
        held = [f"{getattr(samples[number], field.name):.0f}" for number in shown]
        slope = getattr(grown, field.name)
        rows.append(f"| {word} | {' | '.join(held)} | {slope:+.2f} | {BOUNDS[field.name]:g} |")
    return "\n".join(rows)
