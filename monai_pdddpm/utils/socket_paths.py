"""Short paths for the sockets of worker processes."""

from __future__ import annotations

import multiprocessing.util
import os
import sys
import tempfile

from monai_pdddpm.utils.errors import UserError

_LONGEST = 103  # bytes of a socket's path on macOS; 107 on Linux
_NAME = "/pymp-12345678/listener-12345678"
_SHORT = "/tmp"


def shorten_socket_paths() -> None:
    """Keep the sockets of worker processes in ``/tmp`` where the folder for temporary files has too long a path.

    PyTorch's data loaders hand tensors over through such sockets. With a longer path they wait for ever, and processes
    of a forkserver do not start. All other temporary files stay where they are. Python 3.14 does this by itself.

    Raises:
        UserError: if ``/tmp`` cannot be written to either.
    """
    chosen = tempfile.gettempdir()
    if sys.platform == "win32" or len(os.fsencode(chosen + _NAME)) <= _LONGEST:
        return
    try:
        tempfile.tempdir = _SHORT
        multiprocessing.util.get_temp_dir()  # multiprocessing keeps the folder for this process and its children
    except OSError as error:
        raise UserError(
            f"TMPDIR: found {chosen}, expected at most {_LONGEST - len(_NAME)} bytes for the sockets of workers; set "
            "TMPDIR to a shorter path"
        ) from error
    finally:
        tempfile.tempdir = chosen
