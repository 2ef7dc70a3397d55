"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.errors import UserError, error_links, is_too_many_files

_PART = re.compile(r"\.[0-9a-f]{32}\.part(\.[^.]+){0,2}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden path to write to, and rename it to ``path`` when the block ends.

    An older file stays until then. On an exception, an interrupt included, the partial file is removed.

    Args:
        path: the file; its folder must exist.

    Yields:
        a new path in the same folder with the same suffixes, because many writers choose the format by them.

    Raises:
        UserError: if the disk refuses the file, or a library reports that by a RuntimeError.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part{''.join(path.suffixes[-2:])}")
    try:
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        refused = next((link for link in error_links(error) if isinstance(link, OSError)), error)
        lines = str(refused).strip().splitlines() or [type(refused).__name__]
        reason = getattr(refused, "strerror", None) or lines[-1]
        remedy = "free space on the disk, or set output_dir to a folder that you may write to"
        if is_too_many_files(error):
            remedy = "end other programs, or allow more open files with ulimit -n"
        raise UserError(f"{path}: cannot be written ({reason}); {remedy}") from error
    finally:
        with contextlib.suppress(OSError):  # only there after a failure
            part.unlink()


def make_folder(folder: str | os.PathLike) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        UserError: if the disk refuses one.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set output_dir to a folder that you may write to"
        ) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all; missing folders are made."""
    make_folder(Path(path).parent)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all; missing folders are made."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def json_or_empty(path: str | os.PathLike) -> dict[str, Any]:
    """Return the object of a JSON file, empty if the file is missing, cut short or of another kind."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def remove_partial_files(folder: str | os.PathLike, suffix: str = "") -> None:
    """Remove the partial files with a suffix that a killed :func:`atomic_write` left in a folder, which may be missing.

    No other process may write there meanwhile.
    """
    for part in Path(folder).glob(f".*.part*{suffix}"):
        if _PART.fullmatch(part.name):
            with contextlib.suppress(OSError):  # a file that cannot be removed does no harm
                part.unlink()
