"""Data sets as people have them: Medical Segmentation Decathlon, nnU-Net (version 2) or BIDS, read into one form."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from monai_pdddpm.data.case import case_name, present_files
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS
from monai_pdddpm.data.dataset_json import LIST_KEYS as SECTIONS
from monai_pdddpm.utils.errors import UserError

__all__ = ["Case", "DataSet", "Finding", "as_decathlon", "check_name", "read_dataset"]

HOLDOUT = 0.2
_ABOUT = {"title": ("name",), "reference": ("reference",), "licence": ("licence", "license")}
_ENTITY = re.compile(r"([A-Za-z]+)-([^_.]+)")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set: its kind, one word; what it is about; and a sentence."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True)
class Case:
    """One scan with its label map.

    Attributes:
        image: one file, or one for each channel; None for a channel without a file.
        label: its label map, None where there is none.
        section: ``training``, ``validation`` or ``test``.
        subject: whom it is of; scans of one subject belong on one side of a split.
    """

    image: tuple[str | None, ...]
    label: str | None
    section: str
    subject: str

    @property
    def name(self) -> str:
        """Its name in messages and in folders of results."""
        return case_name(self.image)


@dataclass(frozen=True)
class DataSet:
    """A data set, whatever its form.

    Attributes:
        form: ``decathlon``, ``nnunet`` or ``bids``.
        source: its ``dataset.json``, or its folder.
        channels: what the channels of a scan are.
        labels: value in the label maps -> name, the background (0) first; empty where the data set names none.
        cases: all of them, labelled or not.
        findings: what is wrong already by the look of names and lists.
        about: title, reference and licence, as far as they are stated.
    """

    form: str
    source: Path
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...] = ()
    about: dict[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> list[Case]:
        """The cases to train on and to validate with."""
        return [case for case in self.cases if case.section != "test" and case.label is not None]


def read_dataset(
    path: str | os.PathLike, modalities: Sequence[str] = ("T1w",), derivative: str | None = None
) -> DataSet:
    """Read what a data set says of itself; no scan is opened.

    Args:
        path: a ``dataset.json`` in the form of the Decathlon or of nnU-Net, its folder, or the folder of a BIDS data
            set.
        modalities: of BIDS, the suffixes of the scans that make up the channels.
        derivative: of BIDS, the folder in ``derivatives`` that the label maps are taken from, where there are several.

    Returns:
        the data set; broken entries are in its findings.

    Raises:
        UserError: when there is no such data set, its form is none of these, or its labels cannot be used.
    """
    path = Path(path).expanduser()
    if path.is_dir() and not (path / "dataset.json").is_file():
        if any(path.glob("sub-*")):
            return _read_bids(path, tuple(modalities), derivative)
        raise UserError(
            f"{path}: neither a dataset.json nor folders named sub-*; name a data set of one of these forms"
        )
    source = path / "dataset.json" if path.is_dir() else path
    if not source.is_file():
        raise UserError(f"{source}: does not exist, expected a dataset.json or the folder of a data set; fix the path")
    content = _read_json(source)
    read = _read_nnunet if "channel_names" in content or "file_ending" in content else _read_decathlon
    found = read(source.absolute(), content)
    about = {key: str(content[name]) for key, names in _ABOUT.items() for name in names if content.get(name)}
    return replace(found, about={key: " ".join(text.split()).lstrip("$@% ") for key, text in about.items()})


def check_name(text: object, what: str) -> str:
    """Return a name that comes from a data set, safe to be written into a configuration.

    Raises:
        UserError: when it is no plain text; MONAI would evaluate one that begins with ``$`` as Python.
    """
    if not isinstance(text, str) or not text.strip() or text.strip()[0] in "$@%" or not text.isprintable():
        raise UserError(f"{what}: found {text!r}, expected a plain name that does not begin with $, @ or %; rename it")
    return text.strip()


def as_decathlon(dataset: DataSet) -> dict[str, Any]:
    """Return the content of a ``dataset.json`` in the Decathlon's form, to lie anywhere, for any data set.

    The last fifth of the subjects is held out for validation where the data set names no case for it.

    Raises:
        UserError: when there is no subject left to train on.
    """
    files = [file for case in dataset.cases for file in (*case.image, case.label) if file]
    root = Path(os.path.commonpath([str(Path(file).parent) for file in files]))
    sections = {case: case.section for case in dataset.cases}
    if not any(case.section == "validation" for case in dataset.labelled):
        subjects = list(dict.fromkeys(case.subject for case in dataset.labelled))
        if len(subjects) < 2:
            raise UserError(
                f"{dataset.source}: labelled scans of {len(subjects)} subject, expected two at least; add one"
            )
        held = set(subjects[-max(1, int(len(subjects) * HOLDOUT)) :])
        sections |= {case: "validation" for case in dataset.labelled if case.subject in held}

    def relative(file: str | None) -> str | None:
        return None if file is None else Path(file).relative_to(root).as_posix()

    def entry(case: Case) -> dict[str, Any]:
        images = [relative(file) for file in case.image]
        return {"image": images if len(images) > 1 else images[0]} | (
            {"label": relative(case.label)} if case.label is not None else {}
        )

    lists = {
        section: [entry(case) for case, own in sections.items() if own == section]
        for section in ("training", "validation", "test")
    }
    return {
        "name": dataset.about.get("title", dataset.source.name),
        "root": str(root),
        "modality": {str(i): name for i, name in enumerate(dataset.channels)},
        "labels": {str(value): name for value, name in dataset.labels.items()},
        **lists,
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); fix it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected an object with lists of cases; fix it")
    return content


def _channel_names(source: Path, key: str, names: object) -> tuple[str, ...]:
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))) or not names:
        raise UserError(f'{source}: {key} is {names!r}, expected names by number from "0" up; fix it')
    return tuple(check_name(names[str(i)], f"{source}: {key} {i}") for i in range(len(names)))


def _label_names(source: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Return value -> name, sorted, with a background."""
    labels: dict[int, str] = {}
    for value, name in pairs:
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise UserError(
                f"{source}: the label {name!r} has the value {value!r}, expected one whole number (regions of several "
                "values are not known here); give each value a label of its own"
            ) from None
        if not 0 <= number < 2**16 or number in labels:
            raise UserError(f"{source}: the label value {number} is named twice or not from 0 to 65535; fix labels")
        labels[number] = check_name(name, f"{source}: label {number}")
    labels = {0: "background"} | dict(sorted(labels.items()))
    if len(labels) < 2:
        raise UserError(f"{source}: names no label above 0, expected one at least; add it to labels")
    if ignored := [name for name in labels.values() if name.lower() == "ignore"]:
        raise UserError(f"{source}: the label {ignored[0]!r} (voxels to ignore) is not known here; give it a class")
    return labels


def _read_decathlon(source: Path, content: Mapping[str, Any]) -> DataSet:
    names = content.get("modality") or content.get("channel_names") or {"0": "image"}
    channels = _channel_names(source, "modality", names)
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise UserError(f'{source}: labels is {labels!r}, expected names by value such as {{"1": "lesion"}}; add it')
    root = source.parent / str(content.get("root", "."))
    cases: list[Case] = []
    findings: list[Finding] = []
    for section in reversed(SECTIONS):
        for number, item in enumerate(content.get(section) or []):
            where = f"{section}[{number}]"
            item = item if isinstance(item, dict) else {"image": item}
            images = item.get("image")
            images = images if isinstance(images, list) else [images]
            files = [*(images if any(images) else [None]), *([item["label"]] if "label" in item else [])]
            strange = [file for file in files if not (file is None and any(images)) and not _is_inside(file)]
            if strange:
                text = f"{strange[0]!r} is no path inside the folder; name each file relative to {root}"
                findings.append(Finding("missing-file", where, text))
                continue
            image = tuple(str(root / file) if file else None for file in images)
            label = str(root / item["label"]) if "label" in item else None
            cases.append(Case(image, label, section, case_name(image)))
            if len(image) not in (1, len(channels)):
                text = f"lists {len(image)} files for {len(channels)} channels; name one for each, or null"
                findings.append(Finding("missing-modality", where, text))
            if section != "test" and label is None:
                findings.append(Finding("no-label", where, "names no label; add it or move the scan to test"))
    pairs = _label_names(source, labels.items())
    return DataSet("decathlon", source, channels, pairs, tuple(cases), (*findings, *_file_findings(cases, channels)))


def _is_inside(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    parts = (*PurePosixPath(value).parts, *PureWindowsPath(value).parts)
    return not (PurePosixPath(value).is_absolute() or PureWindowsPath(value).anchor or ".." in parts)


def _read_nnunet(source: Path, content: Mapping[str, Any]) -> DataSet:
    channels = _channel_names(source, "channel_names", content.get("channel_names"))
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise UserError(f'{source}: labels is {labels!r}, expected values by name such as {{"lesion": 1}}; add it')
    ending = content.get("file_ending")
    if ending not in SCAN_EXTENSIONS:
        raise UserError(f"{source}: file_ending is {ending!r}, expected one of {', '.join(SCAN_EXTENSIONS)}; convert")
    root = source.parent
    listed = content.get("dataset")
    if isinstance(listed, dict):
        found = {
            name: ([str(root / file) for file in files["images"]], str(root / files["label"]))
            for name, files in listed.items()
        }
        cases = [Case(tuple(images), label, "training", name) for name, (images, label) in sorted(found.items())]
    else:
        cases = [*_nnunet_cases(root, "Tr", ending, len(channels)), *_nnunet_cases(root, "Ts", ending, len(channels))]
    findings = _file_findings(cases, channels)
    images = {case.subject for case in cases}
    for file in sorted((root / "labelsTr").glob(f"*{ending}")) if not listed else []:
        if not file.name.startswith(".") and file.name.removesuffix(ending) not in images:
            text = f"no image of that name in imagesTr ({file.name.removesuffix(ending)}_0000{ending})"
            findings.append(Finding("missing-file", str(file), f"{text}; add it or remove the label"))
    pairs = _label_names(source, ((value, name) for name, value in labels.items()))
    return DataSet("nnunet", source, channels, pairs, tuple(cases), tuple(findings))


def _nnunet_cases(root: Path, suffix: str, ending: str, channels: int) -> list[Case]:
    files: dict[str, dict[int, str]] = {}
    for file in sorted((root / f"images{suffix}").glob(f"*{ending}")):
        named = _CHANNEL.fullmatch(file.name.removesuffix(ending))
        if named and not file.name.startswith("."):
            files.setdefault(named[1], {})[int(named[2])] = str(file)
    section, cases = ("training" if suffix == "Tr" else "test"), []
    for name, own in files.items():
        label = str(root / f"labels{suffix}" / f"{name}{ending}")
        image = tuple(own.get(i) for i in range(channels))
        if any(image):
            cases.append(Case(image, label if section == "training" else None, section, name))
    return cases


def _read_bids(root: Path, modalities: tuple[str, ...], derivative: str | None) -> DataSet:
    root = root.absolute()
    if derivative and not (root / "derivatives" / derivative).is_dir():
        raise UserError(f"{root / 'derivatives' / derivative}: does not exist; name one of the folders there")
    channels = tuple(check_name(name, "--modalities") for name in modalities)
    cases: list[Case] = []
    findings: list[Finding] = []
    for folder in sorted({*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")}):
        relative = folder.relative_to(root)
        scans = _bids_scans(folder, modalities)
        if not scans:
            findings.append(Finding("missing-modality", str(relative), f"no scan named *_{modalities[0]}.nii[.gz]"))
        maps = sorted(root.glob(f"derivatives/{derivative or '*'}/{relative.as_posix()}/*.nii*"))
        for image in scans:
            entities = dict(_ENTITY.findall(case_name(image)))
            fitting = [file for file in maps if _belongs(file, entities)]
            for kind in ("dseg", "mask"):
                own = [file for file in fitting if file.name.split(".")[0].endswith(kind)]
                if own:
                    break
            if len(own) > 1:
                text = f"several label maps: {', '.join(str(file.relative_to(root)) for file in own[:3])}"
                findings.append(Finding("no-label", str(relative), f"{text}; choose by --derivative, or keep one"))
                continue
            label = str(own[0]) if own else None
            cases.append(Case(image, label, "training" if own else "test", relative.parts[0]))
    if not cases:
        raise UserError(f"{root}: no scan like sub-01/anat/sub-01_{modalities[0]}.nii.gz; see --modalities")
    findings += _file_findings(cases, channels)
    about = {"title": root.name}
    return DataSet("bids", root, channels, _bids_labels(root, derivative), tuple(cases), tuple(findings), about)


def _bids_scans(folder: Path, modalities: Sequence[str]) -> list[tuple[str | None, ...]]:
    """Return the scans of a session, each as the files of its channels: those of the first suffix with their like."""

    def of(modality: str, stem: str = "*") -> list[Path]:
        files = sorted({*folder.glob(f"{stem}_{modality}.nii.gz"), *folder.glob(f"{stem}_{modality}.nii")})
        return [file for file in files if not file.name.startswith(".")]

    scans: list[tuple[str | None, ...]] = []
    for first in of(modalities[0]):
        stem = first.name.split(".")[0].removesuffix(f"_{modalities[0]}")
        others = [next(map(str, of(modality, stem) or of(modality)), None) for modality in modalities[1:]]
        scans.append((str(first), *others))
    return scans


def _belongs(label: Path, entities: Mapping[str, str]) -> bool:
    own = dict(_ENTITY.findall(label.name))
    return all(own.get(key, entities[key]) == entities[key] for key in entities)


def _bids_labels(root: Path, derivative: str | None) -> dict[int, str]:
    """Return the names in the first ``*dseg.tsv``; nothing where there is none."""
    files = [*root.glob(f"derivatives/{derivative or '*'}/*dseg.tsv"), *root.glob("*dseg.tsv")]
    files += root.glob(f"derivatives/{derivative or '*'}/sub-*/anat/*dseg.tsv")
    if not files:
        return {}
    header, *rows = [line.split("\t") for line in files[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not {"index", "name"} <= set(header):
        raise UserError(f"{files[0]}: found the columns {header}, expected index and name; fix it")
    return _label_names(files[0], ((row[header.index("index")], row[header.index("name")]) for row in rows))


def _file_findings(cases: Sequence[Case], channels: Sequence[str]) -> list[Finding]:
    """Tell what is missing or named twice."""
    findings = []
    for case in cases:
        files = present_files(case.image)
        if not any(files):
            first = next((str(file) for file in case.image if file), case.name)
            findings.append(Finding("missing-file", first, "the image does not exist; restore or unlist it"))
        elif len(files) == len(channels):
            for name, file, wanted in zip(channels, files, case.image, strict=True):
                if file is None:
                    text = f"no {name} ({wanted or 'no file is named'}); add it, or train with zeros in its place"
                    findings.append(Finding("missing-modality", case.name, text))
        if case.label is not None and not os.path.isfile(case.label):
            findings.append(
                Finding("missing-file", case.label, f"the label map of {case.name} does not exist; restore it")
            )
    for name, count in Counter(case.name for case in cases).items():
        if count > 1:
            findings.append(
                Finding("name-clash", name, f"{count} cases of this name would write to one folder; rename")
            )
    return findings
