"""Mistakes that the user can fix, and resources that ran out, reported in one line in place of a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from types import TracebackType

TRACEBACK_VARIABLE = "MONAI_PDDDPM_TRACEBACK"
_COMMANDS = ("monai.bundle", "monai_pdddpm")  # modules run by python -m
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not text, and line separators
_MEMORY = re.compile(  # in messages of torch, numpy and oneDNN
    "can't allocate memory|out of memory|unable to allocate|bad_alloc|could not create a primitive", re.IGNORECASE
)
_FILES = (errno.EMFILE, errno.ENFILE)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """A mistake that the user can fix.

    Its message is one line: ``<key or file>: found <value>, expected <what>; <remedy>``.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does, with all cleaning up."""


# an error in a traceback that became text, as MONAI's SaveImage and the workers of a data loader make it
_IN_TEXT = re.compile(rf"^{re.escape(UserError.__module__)}\.UserError: (.*)$", re.MULTILINE)


def error_links(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the errors that it was raised from, as Python's own traceback shows them."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = current.__cause__ is None and current.__suppress_context__
        current = None if hidden else current.__cause__ or current.__context__


def printable(text: str) -> str:
    """Return a text, such as a file's name, with escapes for what would break a line or control a terminal."""
    return "".join(ascii(letter)[1:-1] if unicodedata.category(letter) in _UNPRINTABLE else letter for letter in text)


def some_files(paths: Sequence[str]) -> str:
    """Return the first three files of a list in words, and the number of all."""
    count = "1 file" if len(paths) == 1 else f"{len(paths)} files"
    return f"{', '.join(map(printable, paths[:3]))}{', ...' if len(paths) > 3 else ''}: {count}"


def user_message(error: BaseException) -> str | None:
    """Return the message of a `UserError` in one line, however deeply MONAI or PyTorch wrapped it; None without one.

    It is in the chain of causes and contexts, or in a traceback that a message quotes.
    """
    for link in error_links(error):
        quoted = _IN_TEXT.findall(str(link))
        if quoted:
            return printable(quoted[-1].strip())
        if isinstance(link, UserError):
            return printable(" ".join(str(link).splitlines()))
    return None


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


def is_command() -> bool:
    """Return whether this process was started by ``python -m monai.bundle`` or ``python -m monai_pdddpm``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.removesuffix(".__main__") in _COMMANDS


def escape_letters() -> None:
    """Let standard output escape the letters that its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def friendly_errors(force: bool = False) -> None:
    """End a command with one line on stderr when the user made a mistake or stopped it.

    An uncaught `UserError` prints ``error: <message>``, exit code 1. Ctrl-C and SIGTERM print ``stopped by ...``, with
    the exit codes that shells expect (130, 143); SIGTERM raises `Terminated`, unless the program handles it otherwise.
    ignite's log of the same exception is left out.
    Other exceptions keep their traceback, and all do when the environment variable ``MONAI_PDDDPM_TRACEBACK`` is ``1``.

    Nothing changes in a process that was not started by ``python -m monai.bundle`` or ``python -m monai_pdddpm``, such
    as a notebook or a program that loads a bundle.

    Args:
        force: change the process in any case, for a script's own ``main``.
    """
    if not force and not is_command():
        return
    escape_letters()
    if sys.excepthook is not _report:
        sys.excepthook = _report
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        if handler is not None:
            handler.addFilter(_ends_no_engine)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    plain = os.environ.get(TRACEBACK_VARIABLE) == "1"
    # an import that is stopped raises an error of its own, in pydoc, by which MONAI imports
    stop = next((link for link in error_links(error) if isinstance(link, KeyboardInterrupt)), None)
    message = user_message(error) if isinstance(error, Exception) else None
    line = f"error: {message}" if message is not None else None
    if stop is not None:
        line = f"{stop_message(stop)}; the same command does what is missing"
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C at Python's end would print tracebacks
    if plain or line is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stdout.flush()  # earlier output comes first
        print(line, file=sys.stderr)
    if stop is not None and type(error) is not KeyboardInterrupt:  # Python itself ends the process for that one
        raise SystemExit(stop_code(stop))


@contextlib.contextmanager
def without_stops() -> Iterator[None]:
    """Ignore Ctrl-C in a short block; outside of the main thread, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def stop_message(stop: KeyboardInterrupt) -> str:
    """Return one line on a command that was stopped."""
    return f"stopped by {'SIGTERM' if isinstance(stop, Terminated) else 'Ctrl-C'}: complete files are kept"


def stop_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code that shells expect of a command that was stopped."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def _ends_no_engine(record: logging.LogRecord) -> bool:
    """Return whether a record is none of those with which ignite logs an exception that ends the command anyway."""
    return "is terminating due to exception" not in str(record.msg)


def _terminate(number: int, frame: object) -> None:
    raise Terminated("SIGTERM")
