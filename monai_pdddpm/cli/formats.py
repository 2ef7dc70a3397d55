"""Data sets of the Medical Segmentation Decathlon, nnU-Net or Auto3DSeg, or tables, read into one form."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_pdddpm.cli.datasets import DataSet, Finding, LabeledCase, check_name, read_labels
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS, folder_cases
from monai_pdddpm.data.dataset_json import LIST_KEYS, is_nnunet, listed_cases, read_json
from monai_pdddpm.data.headers import count_frames
from monai_pdddpm.utils.errors import UserError


def read_dataset(path: Path) -> DataSet:
    """Read the lists and names of a ``dataset.json`` (Decathlon, nnU-Net, Auto3DSeg), of its folder, or of a table.

    Findings list broken entries. Only the header of a label map is read.

    Raises:
        UserError: if there is no data set of these forms, or its lists, channels or labels cannot be used.
    """
    path = path.absolute()
    if path.is_dir() and not (path / "dataset.json").is_file():
        raise UserError(f"{path}: found no dataset.json, expected the folder of a data set; fix the path")
    if path.suffix.lower() == ".csv":
        found = read_table(path)
    else:
        source = path / "dataset.json" if path.is_dir() else path
        content = read_json(source)
        found = (_read_nnunet if is_nnunet(content) else _read_decathlon)(source, content)
        about = {"title": content.get("name"), "reference": content.get("reference")}
        about["license"] = content.get("licence") or content.get("license")
        texts = {key: " ".join(str(text).split()).lstrip("$@% ") for key, text in about.items() if text}
        found = replace(found, about=texts)
    return replace(found, findings=(*found.findings, *_findings(found)), frames=_has_frames(found))


def _has_frames(dataset: DataSet) -> bool:
    """Return whether the first label map that can be read is a time series, of scans of one channel."""
    for case in dataset.labeled if len(dataset.channels) == 1 else ():
        try:
            return count_frames(str(case.label)) > 1
        except UserError:
            continue
    return False


def _names(source: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(content.get(key), dict):
        raise UserError(f"{source}: {key}: found {content.get(key)!r}, expected names and numbers; add them")
    return content[key]


def _labels(source: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `read_labels`; nnU-Net has values by name, the Decathlon names by value."""
    if "labels" not in content:
        return {"labels": {}}
    found = _names(source, content, "labels")
    by_value = all(key.strip().lstrip("-").replace(".", "").isdecimal() for key in found)
    return read_labels(source, [(name, value) for value, name in found.items()] if by_value else found.items())


def _channels(source: Path, content: dict[str, Any], key: str) -> tuple[str, ...]:
    names = _names(source, content, key)
    if not names or sorted(names) != sorted(str(i) for i in range(len(names))):
        raise UserError(f'{source}: {key}: found {names!r}, expected names by number, from "0"; fix it')
    return tuple(check_name(names[str(i)], f"{source}: {key} {i}") for i in range(len(names)))


def _read_decathlon(source: Path, content: dict[str, Any]) -> DataSet:
    cases = []
    for key in reversed(LIST_KEYS):  # training cases first
        for entry in listed_cases(source, content, key):
            case = Case.of(entry["image"])
            cases.append(LabeledCase(case, entry.get("label"), key, entry.get("subject", case.name)))
    count = max((len(case.case.files) for case in cases), default=1)
    unnamed = {str(number): f"image {number}" if count > 1 else "image" for number in range(count)}
    key = "channel_names" if "channel_names" in content else "modality"
    channels = _channels(source, {key: unnamed} | content, key)
    return DataSet("decathlon", source, channels, cases=tuple(cases), **_labels(source, content))


def _read_nnunet(source: Path, content: dict[str, Any]) -> DataSet:
    channels = _channels(source, content, "channel_names")
    ending = content.get("file_ending")
    if ending not in SCAN_EXTENSIONS:
        raise UserError(
            f"{source}: file_ending: found {ending!r}, expected one of {', '.join(SCAN_EXTENSIONS)}; convert the scans "
            "to these (two-dimensional images are not supported)"
        )
    root, cases = source.parent, []
    for key, suffix in (("training", "Tr"), ("test", "Ts")):
        for entry in folder_cases(root, suffix, len(channels), require_label=key == "training"):
            if not isinstance(entry["image"], list):
                raise UserError(
                    f"{root / f'images{suffix}'}: found names without a channel, expected <case>_0000{ending} to "
                    f"<case>_{len(channels) - 1:04d}{ending} as channel_names counts; rename them"
                )
            case = Case.of(entry["image"])
            cases.append(LabeledCase(case, entry["label"] if key == "training" else None, key, case.name))
    listed = content.get("dataset")  # files listed one by one
    if isinstance(listed, dict):
        cases = [_nnunet_case(source, name, files) for name, files in sorted(listed.items())]
    used = {os.path.abspath(case.label or "") for case in cases}
    findings = [
        Finding("missing-file", str(file), "there is no image of this name in imagesTr; add it or remove the label map")
        for file in sorted((root / "labelsTr").glob(f"[!.]*{ending}"))
        if os.path.abspath(file) not in used
    ]
    return DataSet("nnunet", source, channels, cases=tuple(cases), findings=tuple(findings), **_labels(source, content))


def _nnunet_case(source: Path, name: str, files: object) -> LabeledCase:
    images, label = (files.get("images"), files.get("label")) if isinstance(files, dict) else (None, None)
    if not isinstance(images, list) or not all(isinstance(file, str) for file in (*images, label or "")):
        raise UserError(
            f"{source}: dataset: {name}: found {files!r}, expected a list of files under images, and a file under "
            "label; fix it"
        )
    case = Case.of([os.path.abspath(source.parent / file) for file in images])
    return LabeledCase(case, label and os.path.abspath(source.parent / label), "training", name)


def read_table(path: Path) -> DataSet:
    """Read a table of cases with a header, in UTF-8, separated by commas, semicolons or tabs.

    Its columns are ``image``, or ``image 1``, ``image 2``, ... (any text after ``image``) for channels; ``label``; and
    optionally ``split`` (``training``, ``validation``, ``test``) and ``subject``. Paths are absolute or relative to the
    table; an empty cell is no file. Empty lines, and empty cells after the last column, are left out.

    Raises:
        UserError: if it is not such a text, or has no column of images, another column, or a row with other cells; the
            message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        header = next((line for line in lines if line.strip()), "")
        separator = max(",;\t", key=header.count)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: found no table ({error}), expected one in UTF-8; save it as CSV UTF-8") from error
    columns = rows[0][1] if len(rows) > 1 else []
    while columns and not columns[-1]:
        columns.pop()
    images = [column for column in columns if column.lower().startswith("image")]
    unknown = [column for column in columns if column not in (*images, "label", "split", "subject")]
    if not images or unknown or len({*columns}) < len(columns):
        raise UserError(
            f"{path}: found the columns {', '.join(columns) or 'none'}, expected image (one column per "
            "channel), label, split and subject, each once; rename or remove them"
        )
    cases = []
    for number, row in rows[1:]:
        cells, where = dict(zip(columns, row, strict=False)), f"{path}: line {number}"
        if len(row) < len(columns) or any(row[len(columns) :]):
            raise UserError(f"{where}: found {len(row)} cells, expected {len(columns)} as in the header; fix the line")
        split = cells.get("split") or ("training" if cells.get("label") else "test")
        if split not in LIST_KEYS:
            raise UserError(f"{where}: found split {split!r}, expected {', '.join(LIST_KEYS)}; fix the line")
        files = [os.path.abspath(path.parent / cells[name]) if cells[name] else None for name in images]
        if not any(files):
            raise UserError(f"{where}: found no image, expected at least one; fix the line")
        case = Case.of(files if len(files) > 1 else str(files[0]))
        label = os.path.abspath(path.parent / cells["label"]) if cells.get("label") else None
        cases.append(LabeledCase(case, label, split, cells.get("subject") or case.name))
    channels = tuple(check_name(column, f"{path}: column") for column in images)
    return DataSet("table", path, channels, {}, tuple(cases))


def _findings(dataset: DataSet) -> list[Finding]:
    """Return missing files and labels, and names that clash."""
    found = []
    for case in dataset.cases:
        files, name = case.case.present_files, case.case.name
        if not any(files):
            found.append(Finding("missing-file", case.case.file, "the image does not exist; restore or unlist it"))
        elif len(files) not in (1, len(dataset.channels)):
            text = f"found {len(files)} files for {len(dataset.channels)} channels; list one per channel, or null"
            found.append(Finding("missing-modality", name, text))
        elif missing := [c for c, file in zip(dataset.channels, files, strict=False) if file is None]:
            text = f"found no {', '.join(missing)}; add it, or train with zeros in its place"
            found.append(Finding("missing-modality", name, text))
        if case.label is None and case.list_key != "test":
            found.append(Finding("no-label", name, "no label map is listed; add it, or move the scan to test"))
        if case.label is not None and not os.path.isfile(case.label):
            found.append(Finding("missing-file", case.label, f"the label map of {name} does not exist; restore it"))
    sides = [{case.subject for case in dataset.labeled if case.list_key == key} for key in ("training", "validation")]
    for subject in sorted(set.intersection(*sides)):
        found.append(Finding("leakage", subject, "is listed for training and for validation; keep it on one side"))
    names: dict[str, list[str]] = {}
    labels: dict[str, set[str]] = {}
    for case in dataset.cases:
        labels.setdefault(case.label or "", set()).add(case.case.file)
        names.setdefault(case.case.folder_key, []).append(case.case.name)
    for label, images in labels.items():
        if label and len(images) > 1:
            found.append(Finding("duplicate", label, f"is the label map of {len(images)} images; give each its own"))
    for alike in names.values():
        if len(alike) > 1:
            text = f"{len(alike)} cases have this name, ignoring case and accent encoding; rename all but one"
            found.append(Finding("name-clash", alike[0], text))
    return found
