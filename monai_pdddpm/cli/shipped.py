"""Files beside the code: the templates that bundles are rendered from, and the bundles."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def templates() -> Path:
    """Return the folder of the templates."""
    return _shipped("configs")


def bundles() -> Path:
    """Return the folder of the bundles; in an installed package, only the phantom's is complete."""
    return _shipped("bundles")


def _shipped(name: str) -> Path:
    """Return the copy in an installed package, or the folder in a checkout."""
    return next(folder for folder in (_PACKAGE / name, _PACKAGE.parent / name) if folder.is_dir())
