"""Mistakes of the user's, told in one line instead of in a traceback."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from types import TracebackType
from typing import Any

__all__ = [
    "TRACEBACK_VARIABLE",
    "Terminated",
    "UserError",
    "error_links",
    "friendly_errors",
    "printable",
    "user_message",
]

TRACEBACK_VARIABLE = "MONAI_PDDDPM_TRACEBACK"
_MOMENT = 0.1  # seconds
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control codes, bytes that are no text, and what breaks a line


class UserError(ValueError):
    """A mistake that the user can fix.

    Its message is one line: which file or key, what was found, what was expected, what to do.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does: what was begun is finished or removed on the way out."""


# a traceback that was turned into text: MONAI's SaveImage and the workers of a data loader do that
_IN_TEXT = re.compile(rf"^{re.escape(UserError.__module__)}\.UserError: (.*)$", re.MULTILINE)


def error_links(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from, as Python's own traceback would show them."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = current.__cause__ is None and current.__suppress_context__
        current = None if hidden else current.__cause__ or current.__context__


def printable(text: str) -> str:
    """Return a text, a file's name for example, with escapes for what would break a line or steer a terminal."""
    return "".join(ascii(letter)[1:-1] if unicodedata.category(letter) in _UNPRINTABLE else letter for letter in text)


def user_message(error: BaseException) -> str | None:
    """Find the message for the user in an exception, however deeply MONAI or PyTorch wrapped it.

    Args:
        error: any exception.

    Returns:
        The message of the `UserError` in its chain of causes and contexts, or in a traceback quoted in its text,
        as one line; None when there is none.
    """
    for link in error_links(error):
        quoted = _IN_TEXT.findall(str(link))
        if quoted:
            return printable(quoted[-1].strip())
        if isinstance(link, UserError):
            return printable(" ".join(str(link).splitlines()))
    return None


def friendly_errors() -> None:
    """Let a mistake of the user's, and being stopped, end the program with one line on stderr.

    An uncaught `UserError` is told as ``error: <message>``, exit status 1. Ctrl-C and SIGTERM are told as
    ``stopped ...``, with the exit status that a shell expects of them, 130 and 143; SIGTERM is raised as `Terminated`
    where it was left to the system before. Other exceptions are shown as before, and so are these when the environment
    variable ``MONAI_PDDDPM_TRACEBACK`` is ``1``. A second call changes nothing.
    """
    before = sys.excepthook
    if getattr(before, "tells_user_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        plain = os.environ.get(TRACEBACK_VARIABLE) == "1"
        # pydoc, by which MONAI imports, makes an error of its own of whatever comes while it does
        stop = next((link for link in error_links(error) if isinstance(link, KeyboardInterrupt)), None)
        by = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        message = user_message(error) if isinstance(error, Exception) and not plain else None
        if stop is not None and not plain:
            name = "SIGTERM" if by == signal.SIGTERM else "Ctrl-C"
            _tell(f"stopped by {name}: what is finished is kept; the same command goes on from there")
        elif message is not None:
            _tell(f"error: {message}")
        else:
            before(kind, error, trace)
        if (
            stop is not None and type(error) is not KeyboardInterrupt
        ):  # that one Python ends by itself, as shells expect
            raise SystemExit(128 + by)

    hook.tells_user_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
    # only the main thread may, and a server's own way of stopping is left alone
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
        _repeat_where_ignored()


def _tell(line: str) -> None:
    sys.stdout.flush()  # so that the line comes after what was printed before
    print(line, file=sys.stderr)


def _terminate(number: int, frame: object) -> None:
    raise Terminated("SIGTERM")


def _repeat_where_ignored() -> None:
    """Raise `Terminated` again a moment later where Python ignores it: in finalizers and callbacks of references."""
    if not hasattr(signal, "setitimer") or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        return
    signal.signal(signal.SIGALRM, _terminate)
    before, ending = sys.unraisablehook, threading.Event()

    def end() -> None:  # all is done, and Python gives signals back to the system: an alarm would then kill
        ending.set()
        signal.setitimer(signal.ITIMER_REAL, 0)

    atexit.register(end)

    def hook(ignored: Any) -> None:
        if isinstance(ignored.exc_value, Terminated):
            if not ending.is_set():
                signal.setitimer(signal.ITIMER_REAL, _MOMENT)
        else:
            before(ignored)

    sys.unraisablehook = hook
