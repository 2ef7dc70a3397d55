"""Checks of settings and output folders before a run starts; each raises `UserError`."""

from __future__ import annotations

import math
import numbers
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.errors import UserError

_LARGEST = 2**63 - 1  # whole number of torch


def check_range(name: str, value: object, low: int, high: int | None = None) -> int:
    """Check that a setting is an integer from ``low`` to ``high``; return an ``int``, which JSON can hold.

    Raises:
        UserError: when it is not, or is a boolean.
    """
    number: Any = value if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    most = _LARGEST if high is None else high
    if number is None or not low <= number <= most:
        unbounded = high is None and (number is None or number < low)
        expected = f"of at least {low}" if unbounded else f"from {low} to {most}"
        raise UserError(f"{name}: found {value!r}, expected a whole number {expected}; give {name} such a value")
    return int(number)


def check_number(name: str, value: object, low: float, high: float | None = None, below: bool = False) -> float:
    """Check that a setting is finite and from ``low`` to ``high``, or ``below`` it; return a ``float`` or ``int``.

    Raises:
        UserError: when it is not, or is a boolean.
    """
    number: Any = value if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not low <= number < math.inf or (high is not None and not (number < high if below else number <= high)):
        to = f"of at least {low:g}" if high is None else f"from {low:g} to {'below ' if below else ''}{high:g}"
        raise UserError(f"{name}: found {value!r}, expected a number {to}; give {name} such a value")
    return int(number) if isinstance(number, numbers.Integral) else float(number)


def check_switch(name: str, value: object) -> None:
    """Check that a setting is True or False.

    Raises:
        UserError: when it is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}: found {value!r}, expected True or False; write --{name} True")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a setting is one of a few words.

    Raises:
        UserError: when it is not.
    """
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise UserError(f"{name}: found {value!r}, expected {expected}; give {name} such a value")


def check_list(name: str, value: Any) -> list[Any]:
    """Return the entries of a setting that is a list, an array or a tensor.

    Raises:
        UserError: when it is a single value, also one of numpy or torch.
    """
    try:
        return list(value)
    except TypeError as error:
        raise UserError(f"{name}: found {value!r}, expected a list; fix --{name}") from error


def check_output_dir(path: str | os.PathLike) -> None:
    """Check that an output folder can be made and written to, in a trial folder that is removed again.

    The output folder itself, which need not exist, is not touched: other processes may be about to write there.

    Raises:
        UserError: when the folder cannot be made or written to.
    """
    folder = Path(path)
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    trial = existing / f".{uuid.uuid4().hex}.part"
    try:
        inner = trial / folder.relative_to(existing)
        inner.mkdir(parents=True)
        (inner / "0").write_bytes(b"0")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}), expected a folder for the results; set output_dir to "
            "one that you may write to"
        ) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)
