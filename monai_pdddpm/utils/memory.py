"""The memory of this computer."""

from __future__ import annotations

import os


def total_memory() -> int | None:
    """Return the bytes of memory of this computer; None where the system does not report it, as on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
