"""Data sets of the Medical Segmentation Decathlon, nnU-Net (version 2) or BIDS, read into one form."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_pdddpm.cli.bids import read_bids
from monai_pdddpm.cli.datasets import DataSet, Finding, LabeledCase, check_name, label_names
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS
from monai_pdddpm.data.dataset_json import LIST_KEYS, listed_cases, read_json
from monai_pdddpm.utils.errors import UserError

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def read_dataset(path: Path, modalities: Sequence[str] = ("T1w",), derivative: str | None = None) -> DataSet:
    """Read the lists and names of a data set; no scan is opened.

    Args:
        path: a ``dataset.json`` of the Decathlon or of nnU-Net, its folder, or the folder of a BIDS data set.
        modalities: BIDS only: suffixes of the scans that make up the channels.
        derivative: BIDS only: folder in ``derivatives`` with the label maps, if there are several.

    Returns:
        the data set; its findings list broken entries.

    Raises:
        UserError: if there is no data set of these forms, or its lists, channels or labels cannot be used.
    """
    path = path.absolute()
    if path.is_dir() and not (path / "dataset.json").is_file():
        if not any(path.glob("sub-*")):
            raise UserError(f"{path}: found no dataset.json and no folders sub-*, expected one of them; fix the path")
        found = read_bids(path, tuple(modalities), derivative)
    else:
        source = path / "dataset.json" if path.is_dir() else path
        content = read_json(source)
        read = _read_nnunet if "channel_names" in content or "file_ending" in content else _read_decathlon
        found = read(source, content)
        about = {"title": content.get("name"), "reference": content.get("reference")}
        about["license"] = content.get("licence") or content.get("license")
        texts = {key: " ".join(str(text).split()).lstrip("$@% ") for key, text in about.items() if text}
        found = replace(found, about=texts)
    return replace(found, findings=(*found.findings, *_findings(found)))


def _names(source: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(content.get(key), dict):
        raise UserError(f"{source}: {key}: found {content.get(key)!r}, expected names and numbers; add them")
    return content[key]


def _channels(source: Path, content: dict[str, Any], key: str) -> tuple[str, ...]:
    names = _names(source, content, key)
    if not names or sorted(names) != sorted(str(i) for i in range(len(names))):
        raise UserError(f'{source}: {key}: found {names!r}, expected names by number, from "0"; fix it')
    return tuple(check_name(names[str(i)], f"{source}: {key} {i}") for i in range(len(names)))


def _read_decathlon(source: Path, content: dict[str, Any]) -> DataSet:
    channels = _channels(source, {"modality": {"0": "image"}} | content, "modality")
    cases = []
    for key in reversed(LIST_KEYS):  # training cases first
        for entry in listed_cases(source, content, key):
            case = Case.of(entry["image"])
            cases.append(LabeledCase(case, entry.get("label"), key, case.name))
    labels = label_names(source, _names(source, content, "labels").items())
    return DataSet("decathlon", source, channels, labels, tuple(cases))


def _read_nnunet(source: Path, content: dict[str, Any]) -> DataSet:
    channels = _channels(source, content, "channel_names")
    ending = content.get("file_ending")
    if ending not in SCAN_EXTENSIONS:
        raise UserError(
            f"{source}: file_ending: found {ending!r}, expected one of {', '.join(SCAN_EXTENSIONS)}; convert the scans"
        )
    root, cases = source.parent, []
    for key, suffix in (("training", "Tr"), ("test", "Ts")):
        files: dict[str, dict[int, str]] = {}
        for file in sorted((root / f"images{suffix}").glob(f"[!.]*{ending}")):
            if named := _CHANNEL.fullmatch(file.name.removesuffix(ending)):
                files.setdefault(named[1], {})[int(named[2])] = str(file)
        for name, own in files.items():
            label = str(root / f"labels{suffix}" / f"{name}{ending}") if key == "training" else None
            cases.append(LabeledCase(Case.of([own.get(i) for i in range(len(channels))]), label, key, name))
    listed = content.get("dataset")  # files listed one by one
    if isinstance(listed, dict):
        cases = [_nnunet_case(source, name, files) for name, files in sorted(listed.items())]
    used = {case.label for case in cases}
    findings = [
        Finding("missing-file", str(file), "there is no image of this name in imagesTr; add it or remove the label map")
        for file in sorted((root / "labelsTr").glob(f"[!.]*{ending}"))
        if str(file) not in used
    ]
    labels = label_names(source, ((value, name) for name, value in _names(source, content, "labels").items()))
    return DataSet("nnunet", source, channels, labels, tuple(cases), tuple(findings))


def _nnunet_case(source: Path, name: str, files: object) -> LabeledCase:
    images, label = (files.get("images"), files.get("label")) if isinstance(files, dict) else (None, None)
    if not isinstance(images, list) or not all(isinstance(file, str) for file in (*images, label or "")):
        raise UserError(
            f"{source}: dataset: {name}: found {files!r}, expected a list of files under images, and a file under "
            "label; fix it"
        )
    case = Case.of([str(source.parent / file) for file in images])
    return LabeledCase(case, label and str(source.parent / label), "training", name)


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
    for name, count in Counter(case.case.name for case in dataset.cases).items():
        if count > 1:
            found.append(Finding("name-clash", name, f"{count} cases have this name; rename all but one"))
    return found
