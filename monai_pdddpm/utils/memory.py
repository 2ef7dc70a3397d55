"""The memory of this computer, and how a process keeps it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # lists are checked without torch
    import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters in glibc's malloc.h
LARGEST_KEPT = 2**26  # bytes; the layers of a window; whole volumes go back to the system unchanged


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks of up to 64 MiB for the next layer.

    By default glibc gives every block beyond some MiB back to the system, which clears its pages before it hands them
    out again; on a CPU the networks spend an eighth of their time on that. In return a process holds on to some memory
    between two cases. Linux with glibc only; elsewhere nothing is changed.

    Returns:
        whether the C library took it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # the second alone would also switch off glibc's own adapting of the first
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def total_memory() -> int | None:
    """Return the bytes of memory of this computer; None where the system does not report it, as on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` count from now on, where the system can."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the largest memory in bytes, of the GPU or else of this process; None where it is not reported."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device)
    if (status := Path("/proc/self/status")).exists():  # on Linux, ru_maxrss begins at the peak of the parent process
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
