"""Annotations that came from a viewer, checked before a training spends time on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from monai_pdddpm.data.datalist import case_name
from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.data.headers import read_header
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

__all__ = ["check_annotations", "read_pairs"]

_SAME_GRID = 0.5  # voxels


def read_pairs(datastore: Any) -> list[dict[str, Any]]:
    """List the finished annotations of a MONAI Label datastore.

    Args:
        datastore: with MONAI Label's ``datalist``; of a local one the names of the segments are read too.

    Returns:
        For each ``{"image": path, "label": path, "names": [...]}``; ``names`` are those of the values 1, 2, ... as the
        viewer sent them, empty when it sent none.
    """
    pairs = []
    for pair in datastore.datalist():
        info = datastore.get_label_info(case_name(pair["image"]), "final") or {}
        names = [str(entry.get("name", "")) for entry in info.get("label_info") or []]
        pairs.append({"image": pair["image"], "label": pair["label"], "names": names})
    return sorted(pairs, key=lambda pair: pair["image"])


def check_annotations(pairs: Iterable[Mapping[str, Any]], labels: Mapping[int, str]) -> None:
    """Check that each annotation lies on its scan's grid and holds no label that the bundle does not know.

    Args:
        pairs: of `read_pairs`.
        labels: value -> name, the background (0) included.

    Raises:
        UserError: at the first annotation that does not fit, with its case, what was found and what is expected.
    """
    for pair in pairs:
        _check_grid(pair["image"], pair["label"])
        values = np.unique(np.asarray(LoadScan(channels=None)(pair["label"])))
        _check_values(case_name(pair["image"]), values, pair["names"], labels)


def _check_values(case: str, values: np.ndarray, names: Sequence[str], labels: Mapping[int, str]) -> None:
    def named(value: float) -> str:
        name = names[int(value) - 1] if value == int(value) and 0 < value <= len(names) else ""
        return f"{value:g} ({name})" if name else f"{value:g}"

    # Slicer numbers the segments in their order, so that a name may come under another's number
    wrong = [
        value
        for value in values
        if value not in labels
        or (0 < value <= len(names) and names[int(value) - 1].lower() != labels[int(value)].lower())
    ]
    if wrong:
        expected = ", ".join(f"{value} ({name})" for value, name in sorted(labels.items()))
        raise UserError(
            f"{case}: the annotation holds the label {', '.join(map(named, wrong))}, expected {expected}; name and"
            " order the segments so, remove others, and submit the label again"
        )


def _check_grid(image: str, label: str) -> None:
    scan, annotation = read_header(image), read_header(label)
    shapes = [header.spatial for header in (scan, annotation)]
    shift = largest_shift(scan.affine, annotation.affine, (*shapes[0], 1)[:3]) if shapes[0] == shapes[1] else 0.0
    if shapes[0] != shapes[1] or shift > _SAME_GRID:
        found = "x".join(map(str, shapes[1])) + (f", up to {shift:.1f} voxels away" if shift else " voxels")
        raise UserError(
            f"{case_name(image)}: the annotation lies on another grid ({found}), expected that of the scan"
            f" ({'x'.join(map(str, shapes[0]))} voxels); segment on the scan itself and submit the label again"
        )
