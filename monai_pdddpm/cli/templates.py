"""The templates that bundles are rendered from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from monai_pdddpm.utils.errors import UserError

__all__ = ["license_file", "templates"]


def templates(package: Path | None = None) -> Path:
    """Return the folder of the templates: ``configs`` in a checkout, or its copy in an installed package.

    Args:
        package: folder of the package; None for this one.

    Raises:
        UserError: if neither exists.
    """
    package = package or Path(str(files("monai_pdddpm")))
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "_new_task.json").is_file():
            return folder
    raise UserError(f"{package}: found no templates (configs/), expected them; install monai_pdddpm again")


def license_file(folder: Path) -> Path:
    """Return the license of the code, beside the templates in an installed package or above them in a checkout."""
    return next(file for file in (folder / "LICENSE", folder.parent / "LICENSE") if file.is_file())
