"""Where a running bundle lies, and which device it uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from monai_pdddpm.utils.errors import UserError


def pick_device() -> torch.device:
    """Return the first CUDA device when there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def find_bundle_root(name: str, argv: Sequence[str] | None = None) -> str:
    """Find the folder of the bundle called ``name``.

    MONAI does not tell a configuration where it was read from, and a relative ``bundle_root`` would make the command
    depend on the folder it is typed in. Looked at, in this order: the folder of ``--config_file`` on the command line,
    the working directory, and ``bundles/<name>`` below it. A folder counts when its ``configs/metadata.json`` carries
    the bundle's name.

    Args:
        name: the bundle's name as in its metadata.
        argv: command line, ``sys.argv`` by default.

    Returns:
        absolute path of the bundle's folder.

    Raises:
        UserError: when none of these folders is the bundle.
    """
    candidates = [*_config_folders(sys.argv if argv is None else argv), Path.cwd(), Path.cwd() / "bundles" / name]
    for folder in candidates:
        if _bundle_name(folder) == name:
            return str(folder.resolve())
    raise UserError(
        f"bundle_root: the folder of the bundle '{name}' was not found from {Path.cwd()}; "
        f"run the command from the bundle's folder or name it with --bundle_root"
    )


def _config_folders(argv: Sequence[str]) -> Iterator[Path]:
    """Yield the bundle folders of the files given as ``--config_file``, one file or a list in brackets."""
    for i, word in enumerate(argv):
        key, _, value = word.partition("=")
        if key == "--config_file":
            value = value or (argv[i + 1] if i + 1 < len(argv) else "")
            for item in value.strip("[]()").split(",") if value.startswith(("[", "(")) else [value]:
                yield Path(item.strip(" '\"")).absolute().parent.parent


def _bundle_name(folder: Path) -> str | None:
    try:
        return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        return None
