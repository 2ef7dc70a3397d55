"""Where the templates lie that bundles are rendered from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from monai_pdddpm.utils.errors import UserError

__all__ = ["licence_file", "templates"]


def templates(package: Path | None = None) -> Path:
    """Return the folder of the templates: the checkout's ``configs``, or the copy that ``setup.py`` puts in a wheel.

    Args:
        package: folder of the package, this one's by default.

    Raises:
        UserError: when neither is there.
    """
    package = package or Path(str(files("monai_pdddpm")))
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "_new_task.json").is_file():
            return folder
    raise UserError(f"{package}: the templates (configs/) are not there; install monai_pdddpm again")


def licence_file(folder: Path) -> Path:
    """Return the licence of the code: beside the templates in a wheel, above them in a checkout."""
    return next(file for file in (folder / "LICENSE", folder.parent / "LICENSE") if file.is_file())
