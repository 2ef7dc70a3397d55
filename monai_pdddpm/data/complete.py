"""Files that are seen complete or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from monai_pdddpm.errors import UserError

__all__ = ["complete_file"]


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
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
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space on the disk, or set output_dir to a "
            "folder that you may write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is there only when something failed
            part.unlink()
