"""What a process and its children hold, and whether it grows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

WARM_UP = 0.2  # share of the samples that is left out: libraries are loaded, buffers find their size
# growth for each 100 cases or requests that is let pass; one lost file a case would be 100
BOUNDS = {"memory_mib": 4.0, "files": 1.0, "threads": 1.0, "temporary": 1.0}


@dataclass(frozen=True)
class Usage:
    """What is held at one moment.

    Attributes:
        memory_mib: resident memory, what processes share counted once.
        files: open file descriptors.
        threads: of all processes.
        temporary: files in the folder for temporary files.
    """

    memory_mib: float
    files: float
    threads: float
    temporary: float


def usage(pid: int, temporary: Path) -> Usage:
    """Return what a process, its children and theirs hold; ``temporary`` is their folder for temporary files."""
    held = [0.0, 0, 0]
    for each in family(pid):
        with contextlib.suppress(OSError):  # it has just ended
            held[0] += _proportional_kib(each) / 1024
            held[1] += len(os.listdir(f"/proc/{each}/fd"))
            held[2] += len(os.listdir(f"/proc/{each}/task"))
    return Usage(*held, sum(len(files) for _, _, files in os.walk(temporary)))


def least(seen: Sequence[Usage]) -> Usage:
    """Return the least of each."""
    return Usage(*np.array([astuple(one) for one in seen]).min(axis=0))


def family(pid: int) -> list[int]:
    """Return a process with all that descend from it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += family(int(child))
    return found


def _proportional_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def growth(done: Sequence[int], samples: Sequence[Usage]) -> Usage:
    """Return the slopes of straight lines through the samples after the warm-up, for each 100 cases.

    Args:
        done: cases done at each sample.
        samples: what was held then.
    """
    first = int(WARM_UP * len(samples))
    values = np.array([astuple(sample) for sample in samples[first:]])
    return Usage(*(100 * np.polyfit(done[first:], values, 1)[0]))


def beyond(grown: Usage) -> list[str]:
    """Return what grows beyond its bound, in words."""
    return [
        f"{name} grows by {getattr(grown, name):.2f} for each 100, at most {bound:g} is let pass"
        for name, bound in BOUNDS.items()
        if not getattr(grown, name) <= bound
    ]


def table(what: str, done: Sequence[int], samples: Sequence[Usage], grown: Usage) -> str:
    """Return the first sample, that after the warm-up, the last one and the growth in Markdown."""
    shown = [0, int(WARM_UP * len(samples)), len(samples) - 1]
    head = [f"after {done[number]} {what}" for number in shown]
    rows = [f"| | {' | '.join(head)} | growth for each 100 | bound |", "|---|" + "---|" * 5]
    words = ("memory (MiB)", "open files", "threads", "temporary files")
    for field, word in zip(fields(Usage), words, strict=True):
        held = [f"{getattr(samples[number], field.name):.0f}" for number in shown]
        slope = getattr(grown, field.name)
        rows.append(f"| {word} | {' | '.join(held)} | {slope:+.2f} | {BOUNDS[field.name]:g} |")
    return "\n".join(rows)
