"""Which cases and labels a training uses: folds, and the readings of several readers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.data.datalist import labelled_cases
from monai_pdddpm.errors import UserError


def training_cases(dataset_dir: str | os.PathLike, sections: Sequence[str] = ("training",)) -> list[dict[str, Any]]:
    """List the labelled cases of some sections of a data set, see :func:`monai_pdddpm.data.labelled_cases`.

    Args:
        dataset_dir: folder of the data set.
        sections: ``training``, or with ``validation`` for a last training on all there is, which no case is left to
            measure.

    Raises:
        UserError: when a section is another one or named twice, or its cases cannot be used.
    """
    if not sections or len(set(sections)) != len(sections):
        raise UserError(f"train_sections: found {sections!r}, expected ['training'] or ['training', 'validation']")
    return [case for section in sections for case in labelled_cases(dataset_dir, section)]


def fold_cases(cases: Sequence[dict[str, Any]], folds: int = 0, leave_out: int = -1) -> list[dict[str, Any]]:
    """Tag cases with their fold and leave one fold out.

    Folds are runs of neighbouring cases, so that scans of one subject, which mostly follow each other, stay together.

    Args:
        cases: in a fixed order.
        folds: number of folds; 0 returns the cases as they are.
        leave_out: the fold to leave out, from 0; -1 keeps all.

    Returns:
        the cases with an integer ``fold`` added.

    Raises:
        UserError: when there are fewer cases than folds, or no such fold.
    """
    if folds == 0:
        return list(cases)
    if not 2 <= folds <= len(cases):
        raise UserError(f"folds: {folds} was found, 2 to the number of training cases ({len(cases)}) is expected")
    if not -1 <= leave_out < folds:
        raise UserError(f"fold: {leave_out} was found, 0 to {folds - 1} is expected, or -1 for all cases")
    tagged = [case | {"fold": i * folds // len(cases)} for i, case in enumerate(cases)]
    return [case for case in tagged if case["fold"] != leave_out]


def with_readings(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put all readings of a case in the place of its one label, where there are any.

    Args:
        cases: with the path of a label map under ``label``; readings are 4D files of the same name in a folder
            ``readings...`` beside ``labels...``.

    Returns:
        the cases; :class:`monai_pdddpm.transforms.RandReadingd` draws one reading at each use.
    """
    found = []
    for case in cases:
        label = Path(case["label"])
        readings = label.parent.with_name(label.parent.name.replace("labels", "readings", 1)) / label.name
        found.append(case | {"label": str(readings)} if readings.is_file() else dict(case))
    return found
