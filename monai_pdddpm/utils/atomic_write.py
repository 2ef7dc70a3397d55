"""Files that are seen complete or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.resource_errors import is_too_many_files

__all__ = ["atomic_write", "remove_partial_files"]

_PART = re.compile(r"\.[0-9a-f]{32}\.part(\.[^.]+){0,2}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Give a hidden path to write to, and rename it to ``path`` when all is written.

    Until then an older file stays as it is. When anything is raised, an interrupt included, the part that was written
    is removed.

    Args:
        path: the file; its folder must exist.

    Yields:
        a new path in the same folder and with the same suffixes, since many writers go by these.

    Raises:
        UserError: when the disk does not take the file.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part{''.join(path.suffixes[-2:])}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        remedy = "free space on the disk, or set output_dir to a folder that you may write to"
        if is_too_many_files(error):
            remedy = "end other programs, or allow more open files with ulimit -n"
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
    finally:
        with contextlib.suppress(OSError):  # it is there only when something failed
            part.unlink()


def remove_partial_files(folder: str | os.PathLike, suffix: str = "") -> None:
    """Remove what a killed run had begun to write with :func:`atomic_write`; nobody else may write there meanwhile.

    Args:
        folder: folder of the files; it need not exist.
        suffix: only of files whose names end so.
    """
    for part in Path(folder).glob(f".*.part*{suffix}"):
        if _PART.fullmatch(part.name):
            with contextlib.suppress(OSError):  # a file that cannot be removed harms no result
                part.unlink()
