"""Paths as users write them."""

from __future__ import annotations

import os


def with_home(text: str) -> str:
    """Return a path with ``~/`` at its begin replaced by the home folder, as a shell does; ``~name`` is a name."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text
