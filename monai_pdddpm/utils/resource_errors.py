"""What runs short on a machine, told apart from what is wrong with a file."""

from __future__ import annotations

import errno
import re

from monai_pdddpm.utils.errors import error_links

__all__ = ["files_short", "memory_short", "shortage"]

_MEMORY = re.compile(  # in the words of torch, numpy and oneDNN
    "can't allocate memory|out of memory|unable to allocate|bad_alloc|could not create a primitive", re.IGNORECASE
)
_FILES = (errno.EMFILE, errno.ENFILE)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def memory_short(error: BaseException) -> bool:
    """Tell whether an exception, or one that it was raised from, says that memory was refused."""
    return _has(error, (errno.ENOMEM,)) or any(
        isinstance(link, MemoryError) or (isinstance(link, RuntimeError) and bool(_MEMORY.search(str(link))))
        for link in error_links(error)
    )


def files_short(error: BaseException) -> bool:
    """Tell whether an exception, or one that it was raised from, says that no further file may be opened."""
    return _has(error, _FILES)


def shortage(path: object, error: BaseException) -> str | None:
    """Say on one line what ran short while a case was worked on.

    Args:
        path: the case's file.
        error: what was raised.

    Returns:
        the line, or None when nothing ran short.
    """
    if memory_short(error):
        return (
            f"{path}: the memory does not suffice for this case; give --write_members False, a smaller --roi_size or a "
            "scan that is cropped, or end other programs"
        )
    if files_short(error):
        return f"{path}: too many files are open; end other programs, or allow more with ulimit -n"
    if _has(error, _DISK):
        return f"{path}: the disk is full; free space, or set output_dir and TMPDIR to folders of a larger one"
    return None


def _has(error: BaseException, numbers: tuple[int, ...]) -> bool:
    return any(isinstance(link, OSError) and link.errno in numbers for link in error_links(error))
