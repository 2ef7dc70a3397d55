"""The cases and labels that a training uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from monai_pdddpm.utils.errors import UserError

T = TypeVar("T")


def hold_out(cases: Sequence[T], source: object) -> tuple[list[T], list[T]]:
    """Hold out the last fifth of a list, at least one, for validation.

    Args:
        cases: cases, or subjects where one has several scans, in a fixed order.
        source: the file or folder that they come from, for the message.

    Returns:
        The cases to train on, and the cases held out.

    Raises:
        UserError: when there are fewer than two.
    """
    if len(cases) < 2:
        raise UserError(
            f"{source}: found {len(cases)} labeled case for training and none for validation, expected at least two; "
            "add a case of another subject"
        )
    held = max(1, len(cases) // 5)
    return list(cases[:-held]), list(cases[-held:])


def fold_cases(cases: Sequence[dict[str, Any]], folds: int = 0, fold: int = -1) -> list[dict[str, Any]]:
    """Tag cases with their fold and leave one fold out.

    A fold is a run of neighboring cases, so that scans of one subject, which usually follow each other, stay together.

    Args:
        cases: in a fixed order.
        folds: number of folds; 0 returns the cases unchanged.
        fold: the fold to leave out, from 0; -1 keeps all.

    Raises:
        UserError: when there are fewer cases than folds, or no such fold.
    """
    if folds == 0 and fold == -1:
        return list(cases)
    if not 2 <= folds <= len(cases):
        raise UserError(
            f"folds: found {folds} and fold {fold}, expected 2 to the number of training cases ({len(cases)}), or 0 "
            "and -1 for no folds; give folds such a value"
        )
    if not -1 <= fold < folds:
        raise UserError(f"fold: found {fold}, expected 0 to {folds - 1}, or -1 for all cases; give fold such a value")
    tagged = [case | {"fold": i * folds // len(cases)} for i, case in enumerate(cases)]
    return [case for case in tagged if case["fold"] != fold]
