"""Find and check the bundles that a server offers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from monai_pdddpm.data.dataset_json import read_json
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.paths import with_home

_NEEDED = ("configs/inference.json", "configs/metadata.json")


def find_bundles(listed: str | None, default: str | os.PathLike) -> dict[str, Path]:
    """Find the bundles that a server offers.

    Args:
        listed: folders of bundles, separated by commas; None or "" takes all bundles in ``default``.
        default: folder that contains bundles.

    Returns:
        absolute path of each bundle by the name of its folder, in the order given.

    Raises:
        UserError: when no bundle is found, a folder or file is missing, label values have gaps, or two bundles have the
            same name.
    """
    example = "give --conf bundles <folder of a bundle>, several with commas between them"
    if listed:
        folders = [Path(with_home(part.strip())).absolute() for part in listed.split(",") if part.strip()]
    else:
        root = Path(default).absolute()
        folders = sorted(path.parents[1] for path in root.glob("*/configs/metadata.json"))
    if not folders:
        raise UserError(f"bundles: found none named and none in {default}, expected at least one; {example}")
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"bundles: found no folder {folder}, expected a bundle; {example}")
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: found no {' and no '.join(missing)}, expected a complete bundle; {example}")
        values = read_json(folder / "configs" / "inference.json").get("label_values")
        if values is not None and values != list(range(len(values))):
            raise UserError(
                f"{folder / 'configs' / 'inference.json'}: found label_values {values}, expected label values without "
                f"gaps; number the labels 0 to {len(values) - 1} and train again, or use the command line"
            )
        if folder.name in found:
            raise UserError(
                f"bundles: found {found[folder.name]} and {folder}, expected different names; rename one of the folders"
            )
        found[folder.name] = folder
    return found


def bundle_labels(bundle: str | os.PathLike) -> dict[int, str]:
    """Return the class names of a bundle by class number, the background (0) included.

    Args:
        bundle: folder of the bundle.

    Raises:
        UserError: when the metadata do not contain them.
    """
    path = Path(bundle) / "configs" / "metadata.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["outputs"]["pred"]["channel_def"]
        return {int(value): str(name) for value, name in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: found no readable network_data_format::outputs::pred::channel_def ({type(error).__name__}:"
            f" {error}), expected the name of each class; restore the file of the bundle"
        ) from error
