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
    """A scan with its label map.

    Attributes:
        case: name and files of the scan, one file or one per channel.
        label: file of the label map, or None.
        list_key: ``training``, ``validation`` or ``test``.
        subject: cases of one subject are never split between training and validation.
    """

    case: Case
    label: str | None
    list_key: str
    subject: str


@dataclass(frozen=True)
class DataSet:
    """A data set of any form.

    Attributes:
        form: ``decathlon``, ``nnunet`` or ``table``.
        source: its ``dataset.json``, or the table.
        channels: names of the channels.
        labels: value -> name, with the background (0) first; empty if none are named.
        regions: name -> values of a union of labels, as nnU-Net has them.
        ignored: value of voxels without a label (nnU-Net's ``ignore``), or None.
        frames: whether scans and label maps are time series, (X, Y, Z, T).
        cases: all cases.
        findings: problems visible in names and lists.
        about: title, reference and license, as far as they are given.
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


def label_names(where: object, pairs: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Return value -> name, sorted by value, with a background.

    Args:
        where: the file, for messages.
        pairs: value and name of each label.

    Raises:
        UserError: if a value is not a whole number from 0 to 65535 or is named twice, or a name cannot be used.
    """
    labels: dict[int, str] = {}
    for value, name in pairs:
        text = str(value)
        if not text.isdecimal() or not 0 <= int(text) < 2**16 or int(text) in labels:
            raise UserError(
                f"{where}: found the value {value!r} for the label {name!r}, expected a whole number of its own from 0 "
                "to 65535; fix it"
            )
        labels[int(text)] = check_name(name, f"{where}: label {text}")
    labels = {0: "background"} | dict(sorted(labels.items()))
    if len(labels) < 2:
        raise UserError(f"{where}: found no label above 0, expected at least one; add it to labels")
    return labels


def split_regions(pairs: Iterable[tuple[Any, Any]]) -> tuple[list[tuple[Any, Any]], dict[str, tuple[int, ...]]]:
    """Split labels as nnU-Net has them into classes and regions, which are lists of values.

    A value that only occurs in regions becomes a class named after its smallest region and the value.

    Args:
        pairs: value or list of values, and name.

    Returns:
        Value and name of each class; name -> values of each region with several values.
    """
    pairs = [(value[0] if isinstance(value, list) and len(value) == 1 else value, name) for value, name in pairs]
    classes = [(value, name) for value, name in pairs if not isinstance(value, list)]
    regions = {name: value for value, name in pairs if isinstance(value, list)}
    named = {str(value) for value, _ in classes}
    for value in sorted({str(value) for values in regions.values() for value in values} - named):
        within = [(len(values), name) for name, values in regions.items() if value in map(str, values)]
        classes.append((value, f"{min(within)[1]} {value}"))
    return classes, {name: tuple(values) for name, values in regions.items()}


def as_decathlon(dataset: DataSet) -> dict[str, Any]:
    """Return the content of a ``dataset.json`` of the Decathlon for any data set.

    Without a list for validation, the last fifth of the subjects is held out.

    Raises:
        UserError: if there are no cases for training and validation.
    """
    held: list[str] = []
    if not any(case.list_key == "validation" for case in dataset.labeled):
        held = hold_out(list(dict.fromkeys(case.subject for case in dataset.labeled)), dataset.source)[1]
    files = [file for case in dataset.cases for file in (*case.case.files, case.label) if file]
    root = Path(os.path.commonpath([str(Path(file).parent) for file in files]))

    def relative(file: str | None) -> str | None:
        return None if file is None else Path(file).relative_to(root).as_posix()

    lists: dict[str, list[dict[str, Any]]] = {key: [] for key in reversed(LIST_KEYS)}
    for case in dataset.cases:
        images = [relative(file) for file in case.case.files]
        single = len(images) == 1 and case_name(case.case.file) == case.case.name
        entry: dict[str, Any] = {"image": images[0] if single else images}
        if case.label is not None:
            entry["label"] = relative(case.label)
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
