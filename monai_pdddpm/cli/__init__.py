"""The commands of ``python -m monai_pdddpm``; each module is imported when its command runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Result(NamedTuple):
    """Result of a command.

    Attributes:
        content: JSON object printed with ``--json``.
        lines: text printed otherwise.
        problems: text printed even with ``--quiet``; the exit code is 1 if there is any.
    """

    content: dict[str, Any]
    lines: Sequence[str]
    problems: Sequence[str] = ()
