"""Which bundles a server is to serve, checked before it starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from monai_pdddpm.utils.errors import UserError

__all__ = ["bundle_labels", "find_bundles"]

_NEEDED = ("configs/inference.json", "configs/metadata.json", "models/model.pt")


def find_bundles(listed: str | None, default: str | os.PathLike) -> dict[str, Path]:
    """Find the bundles that a server is to serve.

    Args:
        listed: folders of bundles, separated by commas; None or "" takes all folders in ``default``.
        default: folder of bundles.

    Returns:
        name of the bundle's folder -> the folder, absolute, in the order given.

    Raises:
        UserError: when there is none, a folder or a file in it is missing, or two have one name.
    """
    example = "give --conf bundles <folder of a bundle>, several with commas between them"
    if listed:
        folders = [Path(part.strip()).expanduser().absolute() for part in listed.split(",") if part.strip()]
    else:
        root = Path(default).absolute()
        folders = sorted(path.parents[1] for path in root.glob("*/configs/metadata.json"))
    if not folders:
        raise UserError(f"bundles: none was named and none lies in {default}; {example}")
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"bundles: {folder} is not there, expected the folder of a bundle; {example}")
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"bundles: {folder} holds no {' and no '.join(missing)}, expected a whole bundle; {example}"
            )
        if folder.name in found:
            raise UserError(f"bundles: {found[folder.name]} and {folder} have one name; rename one or leave it out")
        found[folder.name] = folder
    return found


def bundle_labels(bundle: str | os.PathLike) -> dict[int, str]:
    """Return the classes of a bundle's answer, value -> name, the background (0) included.

    Raises:
        UserError: when its metadata do not tell them.
    """
    path = Path(bundle) / "configs" / "metadata.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["outputs"]["pred"]["channel_def"]
        return {int(value): str(name) for value, name in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: network_data_format::outputs::pred::channel_def cannot be read ({type(error).__name__}: {error}),"
            " expected the name of each class; restore the bundle's own file"
        ) from error
