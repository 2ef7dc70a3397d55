"""Errors of a machine that ran out of memory, open files or disk space."""

from __future__ import annotations

import errno
import re

from monai_pdddpm.utils.errors import error_links

_MEMORY = re.compile(  # in messages of torch, numpy and oneDNN
    "can't allocate memory|out of memory|unable to allocate|bad_alloc|could not create a primitive", re.IGNORECASE
)
_FILES = (errno.EMFILE, errno.ENFILE)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, or one that it was raised from, means that memory was refused."""
    return _has(error, (errno.ENOMEM,)) or any(
        isinstance(link, MemoryError) or (isinstance(link, RuntimeError) and bool(_MEMORY.search(str(link))))
        for link in error_links(error)
    )


def is_too_many_files(error: BaseException) -> bool:
    """Return whether an exception, or one that it was raised from, means that no further file may be opened."""
    return _has(error, _FILES)


def resource_message(path: object, error: BaseException) -> str | None:
    """Return one line on the resource that ran out while a case's file was processed; None for other errors."""
    if is_out_of_memory(error):
        return (
            f"{path}: not enough memory for this case; set --inferer#return_members False, a smaller --roi_size, crop "
            "the scan, or close other programs"
        )
    if is_too_many_files(error):
        return f"{path}: too many open files; close other programs, or raise the limit with ulimit -n"
    if _has(error, _DISK):
        return f"{path}: the disk is full; free space, or set output_dir and TMPDIR to folders on a larger one"
    return None


def _has(error: BaseException, numbers: tuple[int, ...]) -> bool:
    return any(isinstance(link, OSError) and link.errno in numbers for link in error_links(error))
