"""Which cases and labels a training uses: folds, and the annotations of several readers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.data.datalist import labelled_cases
from monai_pdddpm.utils.errors import UserError


def training_cases(dataset_dir: str | os.PathLike, list_keys: Sequence[str] = ("training",)) -> list[dict[str, Any]]:
    """List the labelled cases of some list_keys of a data set, see :func:`monai_pdddpm.data.labelled_cases`.

    Args:
        dataset_dir: folder of the data set.
        list_keys: ``training``, or with ``validation`` for a last training on all there is, which no case is left to
            measure.

    Raises:
        UserError: when a list_key is another one or named twice, or its cases cannot be used.
    """
    if not list_keys or len(set(list_keys)) != len(list_keys):
        raise UserError(f"train_list_keys: found {list_keys!r}, expected ['training'] or ['training', 'validation']")
    return [case for list_key in list_keys for case in labelled_cases(dataset_dir, list_key)]


def fold_cases(cases: Sequence[dict[str, Any]], folds: int = 0, fold: int = -1) -> list[dict[str, Any]]:
    """Tag cases with their fold and leave one fold out.

    Folds are runs of neighbouring cases, so that scans of one subject, which mostly follow each other, stay together.

    Args:
        cases: in a fixed order.
        folds: number of folds; 0 returns the cases as they are.
        fold: the fold to leave out, from 0; -1 keeps all.

    Returns:
        the cases with an integer ``fold`` added.

    Raises:
        UserError: when there are fewer cases than folds, or no such fold.
    """
    if folds == 0:
        return list(cases)
    if not 2 <= folds <= len(cases):
        raise UserError(f"folds: {folds} was found, 2 to the number of training cases ({len(cases)}) is expected")
    if not -1 <= fold < folds:
        raise UserError(f"fold: {fold} was found, 0 to {folds - 1} is expected, or -1 for all cases")
    tagged = [case | {"fold": i * folds // len(cases)} for i, case in enumerate(cases)]
    return [case for case in tagged if case["fold"] != fold]


def with_annotations(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put all annotations of a case in the place of its one label, where there are any.

    Args:
        cases: with the path of a label map under ``label``; annotations are 4D files of the same name in a folder
            ``annotations...`` beside ``labels...``.

    Returns:
        the cases; :class:`monai_pdddpm.transforms.RandAnnotationd` draws one reading at each use.
    """
    found = []
    for case in cases:
        label = Path(case["label"])
        annotations = label.parent.with_name(label.parent.name.replace("labels", "annotations", 1)) / label.name
        found.append(case | {"label": str(annotations)} if annotations.is_file() else dict(case))
    return found
