"""A data set: cases with label maps, channels, labels, and problems."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_pdddpm.data.case import Case, case_name
from monai_pdddpm.data.dataset_json import LIST_KEYS
from monai_pdddpm.data.folds import hold_out
from monai_pdddpm.utils.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One problem of a data set: its kind, the case or file, and what to do."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True)
class LabeledCase:
    """A scan with its label map, in one of the lists `LIST_KEYS`; a subject's cases stay in one list."""

    case: Case
    label: str | None
    list_key: str
    subject: str


@dataclass(frozen=True)
class DataSet:
    """A data set of any form: ``decathlon``, ``nnunet`` or ``table``.

    Attributes:
        source: its ``dataset.json``, or the table.
        labels: value -> name, with the background (0) first; empty if none are named.
        findings: problems visible in names and lists.
        about: title, reference and license, as far as they are given.
        regions: name -> values of a union of labels, as nnU-Net has them.
        ignored: value of voxels without a label (nnU-Net's ``ignore``), or None.
        frames: whether scans and label maps are time series, (X, Y, Z, T).
    """

    form: str
    source: Path
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[LabeledCase, ...]
    findings: tuple[Finding, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: int | None = None
    frames: bool = False

    @property
    def labeled(self) -> list[LabeledCase]:
        """The cases for training and validation."""
        return [case for case in self.cases if case.list_key != "test" and case.label is not None]


def check_name(text: object, where: str) -> str:
    """Return a name from a data set if it may be written into a configuration.

    Raises:
        UserError: if it is empty or not printable, or begins with a character that MONAI interprets.
    """
    if not isinstance(text, str) or not text.strip() or text.strip()[0] in "$@%" or not text.isprintable():
        raise UserError(f"{where}: found {text!r}, expected a name that does not begin with $, @ or %; rename it")
    return text.strip()


def read_labels(source: Path, pairs: Iterable[tuple[object, object]]) -> dict[str, Any]:
    """Return the fields ``labels``, ``regions`` and ``ignored`` of a `DataSet`.

    A value that only occurs in regions becomes a class named after its smallest region and the value.

    Args:
        source: the file, for messages.
        pairs: name, and a value or the list of a region's values, of each label.
    """
    labels: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    ignored = None
    for name, given in pairs:
        listed = given if isinstance(given, list) and given else [given]
        values = tuple(int(str(value)) if str(value).isdecimal() else 2**16 for value in listed)
        name, wrong = check_name(name, f"{source}: label {given}"), max(values) >= 2**16
        if len(values) > 1 and not wrong:
            regions[name] = values
        elif wrong or values[0] in labels or values[0] == ignored or (name.lower() == "ignore" and ignored is not None):
            raise UserError(
                f"{source}: found the value {given!r} for the label {name!r}, expected a whole number of its own from "
                "0 to 65535; fix it"
            )
        elif name.lower() == "ignore":
            ignored = values[0]
        else:
            labels[values[0]] = name
    for value in {value for values in regions.values() for value in values} - labels.keys():
        labels[value] = f"{min((len(values), name) for name, values in regions.items() if value in values)[1]} {value}"
    labels = {0: "background"} | dict(sorted(labels.items()))
    if len(labels) < 2 or ignored in labels:
        raise UserError(f"{source}: labels: found {labels}, expected one above 0, and another value for ignore; fix it")
    if len({*labels.values()}) < len(labels):
        raise UserError(f"{source}: labels: found {labels}, expected a name of its own for each; rename one")
    return {"labels": labels, "regions": regions, "ignored": ignored}


def as_decathlon(dataset: DataSet) -> dict[str, Any]:
    """Return any data set as the content of a ``dataset.json`` of the Decathlon.

    Without a list for validation, the last fifth of the subjects is held out.

    Raises:
        UserError: if there are no cases for training and validation.
    """
    held: set[str] = set()
    if not any(case.list_key == "validation" for case in dataset.labeled):
        held = hold_out((case.subject for case in dataset.labeled), dataset.source)
    files = [file for case in dataset.cases for file in (*case.case.files, case.label) if file]
    root = Path(os.path.commonpath([str(Path(file).parent) for file in files]))

    def relative(file: str | None) -> str | None:
        return None if file is None else Path(file).relative_to(root).as_posix()

    named = any(case.subject != case.case.name for case in dataset.cases)
    lists: dict[str, list[dict[str, Any]]] = {key: [] for key in reversed(LIST_KEYS)}
    for case in dataset.cases:
        images = [relative(file) for file in case.case.files]
        single = len(images) == 1 and case_name(case.case.file) == case.case.name
        entry: dict[str, Any] = {"image": images[0] if single else images}
        if case.label is not None:
            entry["label"] = relative(case.label)
        if named:
            entry["subject"] = case.subject
        lists["validation" if case.list_key == "training" and case.subject in held else case.list_key].append(entry)
    if not lists["training"]:
        raise UserError(f"{dataset.source}: found no training case, expected at least one; add it")
    return {
        "name": dataset.about.get("title", dataset.source.name),
        "root": str(root),
        "modality": {str(i): name for i, name in enumerate(dataset.channels)},
        "labels": {str(value): name for value, name in dataset.labels.items()},
        **({} if dataset.ignored is None else {"ignored": dataset.ignored}),
        **lists,
    }
