"""The memory of this computer, and how a process keeps it."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters in glibc's malloc.h
_LARGEST = 2**26  # the layers of a window; whole volumes go back to the system unchanged


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
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def total_memory() -> int | None:
    """Return the bytes of memory of this computer; None where the system does not report it, as on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
