"""Annotations of a viewer: checked when they are submitted, and read and checked again before training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_pdddpm.data.case import case_name
from monai_pdddpm.data.checks import CheckLabeld
from monai_pdddpm.data.headers import read_header
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

if TYPE_CHECKING:
    from monailabel.interfaces.datastore import Datastore


def checked_labels(datastore: Datastore, bundles: Sequence[Mapping[int, str]]) -> Callable[..., str]:
    """Return a datastore's ``save_label`` that refuses a finished label that fits no bundle.

    Args:
        datastore: the datastore of the server.
        bundles: class names by label value of each bundle.
    """
    save = datastore.save_label

    @functools.wraps(save)
    def checked(image_id: str, file: str, tag: str, info: dict[str, Any], *others: Any) -> str:
        image = datastore.get_image_uri(image_id)
        if not image:
            raise UserError(f"image: found {image_id!r}, expected a scan of the studies; GET /datastore/ lists them")
        if tag == "final" and not file.endswith(".bin"):  # raw voxels of OHIF have no header
            pair = {"image": image, "label": file, "names": _names(info)}
            errors: list[UserError] = []
            for labels in bundles:
                try:
                    check_annotations([pair], labels)
                    break
                except UserError as error:
                    errors.append(error)
            else:
                raise UserError(str(errors[0]).replace(file, f"label of {image_id}")) from errors[0]
        return save(image_id, file, tag, info, *others)

    return checked


def _names(info: Mapping[str, Any] | None) -> list[str]:
    """Return the segment names that the viewer sent for the values 1, 2, ..., empty if it sent none."""
    return [str(entry.get("name", "")) for entry in (info or {}).get("label_info") or []]


def read_pairs(datastore: Datastore) -> list[dict[str, Any]]:
    """List the finished annotations of a MONAI Label datastore.

    Args:
        datastore: the datastore of the server.

    Returns:
        one ``{"image": path, "label": path, "names": [...]}`` per annotation; ``names`` are the segment names that the
        viewer sent for the values 1, 2, ..., empty if it sent none.
    """
    pairs = []
    for pair in datastore.datalist():
        names = _names(datastore.get_label_info(case_name(pair["image"]), "final"))
        pairs.append({"image": pair["image"], "label": pair["label"], "names": names})
    return sorted(pairs, key=lambda pair: pair["image"])


def check_annotations(pairs: Iterable[Mapping[str, Any]], labels: Mapping[int, str]) -> None:
    """Check that each annotation has the grid of its scan and only labels of the bundle, under their names.

    Values are checked as in training: those within 1e-3 of an integer count as the integer.

    Args:
        pairs: annotations, as `read_pairs` returns them.
        labels: class names by label value, the background (0) included.

    Raises:
        UserError: at the first annotation that does not fit; the message names the case.
    """
    check = CheckLabeld("label", list(labels))
    for pair in pairs:
        scan, annotation = read_header(pair["image"]), LoadScan(channels=None)(pair["label"])
        _check_names(case_name(pair["image"]), np.unique(np.asarray(annotation).round()), pair["names"], labels)
        check({"image": SimpleNamespace(shape=(1, *scan.spatial), affine=scan.affine), "label": annotation})


def _check_names(case: str, values: np.ndarray, names: Sequence[str], labels: Mapping[int, str]) -> None:
    # Slicer numbers the segments in their order: the name of one class may have the number of another
    wrong = [
        f"{value} ({name})"
        for value, name in enumerate(names, start=1)
        if value in values and name.lower() != labels.get(value, "").lower()
    ]
    if wrong:
        expected = ", ".join(f"{value} ({name})" for value, name in sorted(labels.items()))
        raise UserError(
            f"{case}: found the label {', '.join(wrong)} in the annotation, expected {expected}; use these segment "
            "names in this order, remove other segments, and submit the label again"
        )
