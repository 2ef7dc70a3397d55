"""The subjects of cases, and which of them a training uses."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

from monai_pdddpm.data.case import case_name
from monai_pdddpm.utils.errors import UserError

T = TypeVar("T", bound=Hashable)


def subject_of(case: str, scans_per_subject: int = 1, named: str = "") -> str:
    """Return a name for the subject of a case, or of a frame of it.

    With 2 scans per subject, the numbers 2 k - 1 and 2 k at the end of names belong to one subject. A case without a
    number is its own subject. The subject that the data list names, if any, comes before names.
    """
    if named:
        return named
    case = re.sub(r" frame \d+$", "", case)
    found = re.fullmatch(r"(.*?)(\d+)", case)
    if scans_per_subject == 1 or found is None:
        return case
    return f"{found[1]}subject {(int(found[2]) - 1) // scans_per_subject + 1}"


def subjects_of(cases: Sequence[dict[str, Any]], scans_per_subject: int = 1) -> list[Hashable]:
    """Return the subject of each case of a list: its key ``subject``, or by its name, see `subject_of`.

    With one scan per subject, each case without the key is a subject of its own, whatever its name.
    """
    by_name = scans_per_subject > 1
    return [
        case.get("subject") or (subject_of(case_name(case["image"]), scans_per_subject) if by_name else number)
        for number, case in enumerate(cases)
    ]


def hold_out(subjects: Iterable[T], source: object) -> set[T]:
    """Return the last fifth of the subjects, at least one, for validation.

    Args:
        subjects: subject of each case, in a fixed order.
        source: the file or folder that they come from, for the message.

    Raises:
        UserError: when there are fewer than two subjects.
    """
    distinct = list(dict.fromkeys(subjects))
    if len(distinct) < 2:
        raise UserError(
            f"{source}: found labeled cases of {len(distinct)} subject and no validation list, expected at least two "
            "subjects; add a case of another subject"
        )
    return set(distinct[-max(1, len(distinct) // 5) :])


def fold_cases(
    cases: Sequence[dict[str, Any]], folds: int = 0, fold: int = -1, scans_per_subject: int = 1
) -> list[dict[str, Any]]:
    """Tag cases with their fold and leave one fold out.

    A fold is a run of neighboring subjects, in the order of their first cases. All cases of a subject are in one fold.

    Args:
        cases: in a fixed order; their subjects, see `subjects_of`.
        folds: number of folds; 0 returns the cases without a fold.
        fold: the fold to leave out, from 0; -1 keeps all.
        scans_per_subject: number of consecutively numbered cases of a subject, see `subject_of`.

    Raises:
        UserError: when there are fewer subjects than folds, or no such fold.
    """
    subjects = subjects_of(cases, scans_per_subject)
    if folds == 0 and fold == -1:
        return list(cases)
    number = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    if not 2 <= folds <= len(number):
        raise UserError(
            f"folds: found {folds} and fold {fold}, expected 2 to the number of training subjects ({len(number)}), or "
            "0 and -1 for no folds; give folds such a value"
        )
    if not -1 <= fold < folds:
        raise UserError(f"fold: found {fold}, expected 0 to {folds - 1}, or -1 for all cases; give fold such a value")
    by_case = zip(cases, subjects, strict=True)
    tagged = [case | {"fold": number[subject] * folds // len(number)} for case, subject in by_case]
    return [case for case in tagged if case["fold"] != fold]
