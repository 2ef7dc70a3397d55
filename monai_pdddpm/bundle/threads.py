"""As many threads as the process may use cores, also in a container that limits its processor time."""

from __future__ import annotations

import os
from pathlib import Path

import torch

__all__ = ["core_limit", "fit_threads"]


def fit_threads(root: str | os.PathLike = "/sys/fs/cgroup") -> int:
    """Let torch use no more threads than the container has processor time for.

    Torch takes one thread for each core that it sees. A container's limit (``docker run --cpus 4``, a Kubernetes
    limit) hides none of them, so that all threads would share a few cores' time and wait for each other. What
    ``OMP_NUM_THREADS`` says is left alone.

    Args:
        root: of the control groups.

    Returns:
        the number of threads.
    """
    limit = core_limit(root)
    if limit is not None and "OMP_NUM_THREADS" not in os.environ and limit < torch.get_num_threads():
        torch.set_num_threads(max(1, int(limit)))
    return torch.get_num_threads()


def core_limit(root: str | os.PathLike = "/sys/fs/cgroup") -> float | None:
    """Return the processor time that the control group allows in cores, None without a limit, or not on Linux.

    Args:
        root: of the control groups: version 2 (``cpu.max``) or version 1 (``cpu/cpu.cfs_quota_us``).
    """
    both = _numbers(Path(root, "cpu.max"))
    if not both:
        folder = Path(root, "cpu")
        both = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    if len(both) != 2 or min(both) <= 0:
        return None
    return both[0] / both[1]


def _numbers(file: Path) -> list[float]:
    """Return the numbers in a file; none when it is not there, or says ``max``."""
    try:
        return [float(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
