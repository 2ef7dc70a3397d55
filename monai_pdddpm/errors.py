"""Mistakes of the user's, told in one line instead of in a traceback."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from types import TracebackType

__all__ = ["TRACEBACK_VARIABLE", "UserError", "friendly_errors", "printable", "user_message"]

TRACEBACK_VARIABLE = "MONAI_PDDDPM_TRACEBACK"
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control codes, bytes that are no text, and what breaks a line


class UserError(ValueError):
    """A mistake that the user can mend.

    Its message is one line: which file or key, what was found, what was expected, what to do.
    """


# a traceback that was turned into text: MONAI's SaveImage and the workers of a data loader do that
_IN_TEXT = re.compile(rf"^{re.escape(UserError.__module__)}\.UserError: (.*)$", re.MULTILINE)


def _chain(error: BaseException) -> Iterator[BaseException]:
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
    for link in _chain(error):
        quoted = _IN_TEXT.findall(str(link))
        if quoted:
            return printable(quoted[-1].strip())
        if isinstance(link, UserError):
            return printable(" ".join(str(link).splitlines()))
    return None


def friendly_errors() -> None:
    """Let an uncaught `UserError` end the program with one line ``error: <message>`` on stderr.

    Other exceptions are shown as before, and so are these when the environment variable ``MONAI_PDDDPM_TRACEBACK``
    is ``1``. The exit status stays 1. A second call changes nothing.
    """
    before = sys.excepthook
    if getattr(before, "tells_user_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        wanted = isinstance(error, Exception) and os.environ.get(TRACEBACK_VARIABLE) != "1"
        message = user_message(error) if wanted else None
        if message is None:
            before(kind, error, trace)
        else:
            sys.stdout.flush()  # so that the line comes after what was printed before
            print(f"error: {message}", file=sys.stderr)

    hook.tells_user_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
