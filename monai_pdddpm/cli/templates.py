"""The templates that bundles are rendered from."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def templates() -> Path:
    """Return the folder of the templates: ``configs`` in a checkout, or its copy in an installed package."""
    return next(f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if (f / "_new_task.json").is_file())


def license_file() -> Path:
    """Return the license of the code, beside the templates in an installed package or above them in a checkout."""
    return next(f / "LICENSE" for f in (templates(), templates().parent) if (f / "LICENSE").is_file())
