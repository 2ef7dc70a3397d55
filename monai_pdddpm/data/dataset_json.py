"""A ``dataset.json`` in the layout of the Medical Segmentation Decathlon, of nnU-Net (version 1) or of Auto3DSeg."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from monai_pdddpm.data.channel_files import channel_files_of
from monai_pdddpm.utils.errors import UserError

LIST_KEYS = ("test", "validation", "training")
_ALIASES = {"testing": "test"}  # in lists of Auto3DSeg
_ENTRY_KEYS = ("image", "label", "fold", "subject")


def is_nnunet(content: dict[str, Any]) -> bool:
    """Return whether a ``dataset.json`` is one of nnU-Net, version 2, whose scans are found by their names."""
    return "file_ending" in content or ("channel_names" in content and not set(LIST_KEYS) & set(content))


def unknown_keys(content: dict[str, Any]) -> list[str]:
    """Return in words the lists of a ``dataset.json`` and the keys of its entries that nothing reads."""
    lists = {key: value for key, value in content.items() if isinstance(value, list) and value}
    known = (*LIST_KEYS, *_ALIASES)
    found = [f"the list {key!r} of dataset.json" for key in lists if key not in known and not _is_plain(lists[key])]
    entries = [entry for key in known for entry in lists.get(key, []) if isinstance(entry, dict)]
    more = Counter(key for entry in entries for key in entry if key not in _ENTRY_KEYS)
    return found + [f"the key {key!r} of {count} entries of dataset.json" for key, count in more.items()]


def _is_plain(value: list[Any]) -> bool:
    return not any(isinstance(entry, (str, dict, list)) for entry in value)  # such as regions_class_order


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: when the file cannot be read, is not valid JSON, has a key twice, or holds something else than an
            object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:  # ValueError also covers text that is not UTF-8
        raise UserError(f"{path}: not valid JSON ({error}); fix it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected an object with lists of cases; fix it")
    return content


def listed_cases(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Read one of the lists `LIST_KEYS` of a ``dataset.json``.

    An entry is an image, or an object with ``image`` and optionally ``label`` and ``subject``; an image is a path, or a
    list with one path or null for each channel. A path that does not exist stands for nnU-Net's files ``<path>_0000``,
    ``<path>_0001``, ... if they do. Without a list for validation, its cases are training entries with ``"fold": 0``,
    as in Auto3DSeg.

    Returns:
        For each entry ``{"image": path or list}`` and ``"label"`` and ``"subject"`` where there are such, with
        absolute paths.

    Raises:
        UserError: when an entry has another form, or a path leaves the folder; the message names the entry.
    """
    for name in content:
        if name not in LIST_KEYS and name.strip().lower() in LIST_KEYS:
            raise UserError(f"{path}: found the key {name!r}, expected {name.strip().lower()!r}; rename it")
    for alias, name in _ALIASES.items():
        if content.get(alias) and content.get(name):
            raise UserError(f"{path}: found the lists {alias!r} and {name!r}, expected one; join them")
    root = path.parent / _root_of(path, content)
    content = {_ALIASES.get(name, name): value for name, value in content.items()}
    folds = [] if content.get("validation") else _folds(path, _list(path, content, "training"))
    by_fold = 0 in folds
    source = "training" if by_fold and key == "validation" else key
    names = content.get("modality") or content.get("channel_names")
    channels = len(names) if isinstance(names, dict) and names else 1
    cases = []
    for number, entry in enumerate(_list(path, content, source)):
        if by_fold and source == "training" and (folds[number] == 0) != (key == "validation"):
            continue
        where = f"{source}[{number}]"
        files = entry if isinstance(entry, dict) else {"image": entry}
        if "image" not in files:
            raise UserError(f"{path}: found the keys {list(files)} in {where}, expected 'image'; rename or add it")
        image = files["image"]
        case: dict[str, Any] = {}
        if isinstance(image, list):
            if not any(image):
                raise UserError(f"{path}: image of {where} lists no file, expected at least one path; fix it")
            case["image"] = [str(root / _checked(path, where, "image", file)) if file else None for file in image]
        else:
            file = root / _checked(path, where, "image", image)
            found = None if os.path.exists(file) else channel_files_of(file, channels)
            case["image"] = found or str(file)
        if files.get("label") is not None:
            case["label"] = str(root / _checked(path, where, "label", files["label"]))
        if (subject := files.get("subject")) is not None:
            if not isinstance(subject, (str, int)):
                raise UserError(f"{path}: subject of {where} is {subject!r}, expected a name; fix it")
            case["subject"] = str(subject)
        cases.append(case)
    return cases


def _folds(path: Path, entries: list[Any]) -> list[int]:
    """Return the fold of each training entry, none if no entry has one."""
    folds: list[Any] = [entry.get("fold") if isinstance(entry, dict) else None for entry in entries]
    if folds.count(None) == len(folds):
        return []
    for number, fold in enumerate(folds):
        if type(fold) is not int:
            raise UserError(f"{path}: fold of training[{number}] is {fold!r}, expected a whole number; fix it")
    return folds


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    listed = content.get(key) or []
    if not isinstance(listed, list):
        raise UserError(f"{path}: {key!r} is a {type(listed).__name__}, expected a list of cases; fix it")
    return listed


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):  # json keeps the last one without a word
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return dict(pairs)


def _root_of(path: Path, content: dict[str, Any]) -> str:
    """Return the folder that paths are relative to, from ``root``; a list may lie elsewhere than its scans."""
    value = content.get("root", ".")
    if not isinstance(value, str) or not os.path.isdir(path.parent / value):
        raise UserError(f"{path}: root is {value!r}, expected the folder that the scans lie in; fix it")
    return value


def _checked(path: Path, entry: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"{path}: {key} of {entry} is {value!r}, expected one path inside the folder; fix it")
    # relative, and inside its folder, read as a POSIX and as a Windows path
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    parts = (*posix.parts, *windows.parts)
    if posix.is_absolute() or windows.anchor or ".." in parts or "".join(parts[:1]).startswith("~"):
        raise UserError(
            f"{path}: {key} of {entry} leaves the folder ({value!r}), expected a path relative to {path.parent}; "
            "move or link the file there"
        )
    return value
