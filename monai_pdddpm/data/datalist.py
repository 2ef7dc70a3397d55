"""Which cases there are: a scan, a folder of scans, or a data set as the Medical Segmentation Decathlon lays it out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from monai_pdddpm.data.dicom import has_series, require_one_series
from monai_pdddpm.utils.errors import UserError, printable

__all__ = [
    "SCAN_EXTENSIONS",
    "case_file",
    "case_name",
    "check_case_name",
    "inference_cases",
    "labelled_cases",
    "present_files",
]

SCAN_EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
SECTIONS = ("test", "validation", "training")
_LISTED = ", ".join(SCAN_EXTENSIONS)
_HOLDOUT = 0.2
_LONGEST_NAME = 200  # bytes; file systems take 255, and outputs have more after it


def present_files(image: Sequence[str | os.PathLike | None]) -> list[str | None]:
    """Tell which files of a list, one for each channel, are there.

    Args:
        image: paths; None and "" stand for a channel without a file.

    Returns:
        The paths, with None in the place of those that are not there.
    """
    files = [str(Path(entry).expanduser()) if entry else None for entry in image]
    return [file if file is not None and os.path.exists(file) else None for file in files]


def case_file(image: str | os.PathLike | Sequence[str | os.PathLike | None]) -> str:
    """Return the file that a case is named after: of a list the first that is there, else the first that is named.

    Args:
        image: path, or list of paths, one for each channel.
    """
    if isinstance(image, (str, os.PathLike)):
        return str(image)
    return next((str(file) for file in (*present_files(image), *image) if file), "unnamed")


def case_name(image: str | os.PathLike | Sequence[str | os.PathLike | None]) -> str:
    """Name a case after its file, as MONAI's ``SaveImage`` names the output.

    Args:
        image: path, or list of paths, one for each channel.

    Returns:
        The file's name without its extension; the whole name of a folder, dots included.
    """
    path = case_file(image)
    if os.path.isdir(path):
        return os.path.basename(os.path.abspath(path))
    stem, extension = os.path.splitext(os.path.basename(path))
    return os.path.splitext(stem)[0] if extension == ".gz" else stem


def check_case_name(image: str | os.PathLike | Sequence[str | os.PathLike | None]) -> None:
    """Check that outputs can be named after a case: each is a file ``<case>/<case>_<what>`` in the output folder.

    Args:
        image: path, or list of paths, one for each channel.

    Raises:
        UserError: when the name is too long, is not text that can be printed, or names a folder.
    """
    name, file = case_name(image), case_file(image)
    length = len(os.fsencode(name))
    if printable(name) != name:
        found = "a name with control codes or bytes that are no text"
    elif name in ("", ".", "..") or os.path.basename(name) != name:
        found = f"a scan that would be written as {name!r}"
    elif length > _LONGEST_NAME:
        found = f"a name of {length} bytes"
    else:
        return
    raise UserError(
        f"{file}: found {found}, expected a name that results can be written under, of at most {_LONGEST_NAME} bytes; "
        "rename the scan"
    )


def inference_cases(dataset_dir: str | os.PathLike, data_list_key: str = "test") -> list[dict[str, Any]]:
    """List the scans to segment.

    Args:
        dataset_dir: one scan file; a folder of scans (subfolders are not searched); a folder with a ``dataset.json``
            in the Decathlon's layout; a folder with one DICOM series; a folder with scans in ``imagesTs`` or
            ``imagesTr``; or a folder with subfolders of one DICOM series each.
        data_list_key: list to take from a ``dataset.json``: ``test``, ``validation`` or ``training``. When it lists
            nothing, the next of these three is taken, and a printed line says so.

    Returns:
        For each case ``{"image": path}``, and ``"label"`` where there is one; files in alphabetical order, those of
        a ``dataset.json`` in its order. There ``image`` may be a list with one path or null for each channel.

    Raises:
        UserError: when nothing is there, every file is missing, one lies outside of the folder, two cases would
            write to the same output, or several DICOM series lie in one folder. A file that is missing among others
            stays in the list, for the run to report.
    """
    root = Path(dataset_dir).expanduser()
    wanted = _sections_from(data_list_key)
    if not os.path.exists(root):  # pathlib's own raises where a folder may not be entered
        raise UserError(f"{root}: does not exist, expected a scan or a folder of scans; check dataset_dir")
    if not os.path.isdir(root):
        if not _is_scan(root):
            raise UserError(f"{root}: not a scan by its name, expected one of {_LISTED}; check dataset_dir")
        return [{"image": str(root)}]

    if os.path.isfile(root / "dataset.json"):
        cases = _from_json(root, wanted)
    elif scans := _scans_in(root):
        cases = [{"image": str(scan)} for scan in scans]
    elif has_series(root):
        require_one_series(root)
        cases = [{"image": os.path.abspath(root)}]  # "." has no name
    else:
        folders = ("Ts", "Tr") if wanted[0] == "test" else ("Tr",)
        cases = next((found for suffix in folders if (found := _from_folders(root, suffix))), _from_series(root))
    if not cases:
        raise UserError(
            f"{root}: no scan found, expected files named {_LISTED}, DICOM series in folders of their own, or "
            "imagesTs, imagesTr or a dataset.json; check dataset_dir"
        )
    _require_distinct_names(cases)
    if not any(os.path.exists(case_file(case["image"])) for case in cases):
        _require_files({"image": case["image"]} for case in cases)
    return cases


def labelled_cases(dataset_dir: str | os.PathLike, data_list_key: str) -> list[dict[str, Any]]:
    """List pairs of image and label for training or validation.

    Without a list for validation in ``dataset.json``, the last fifth of the training list (at least one case) is
    held out for it, always the same cases, and a printed line says so.

    Args:
        dataset_dir: folder with a ``dataset.json`` in the Decathlon's layout, or with ``imagesTr`` and ``labelsTr``.
        data_list_key: ``training`` or ``validation``.

    Returns:
        For each case ``{"image": path, "label": path}``. Of a ``dataset.json``, ``image`` may be a list with one path
        or null for each channel.

    Raises:
        UserError: when the folder, the list, a label or a file is missing, or one case alone is to be split. A file
            that is missing in a list with others is left for the loader, which knows what stands for it.
    """
    if data_list_key not in ("training", "validation"):
        raise UserError(
            f"data_list_key: found {data_list_key!r}, expected 'training' or 'validation'; fix the configuration"
        )
    root = Path(dataset_dir).expanduser()
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder, expected one with labelled cases and a dataset.json; check dataset_dir")

    if os.path.isfile(root / "dataset.json"):
        content = _read_json(root / "dataset.json")
        training, validation = (_entries(root, content, name) for name in ("training", "validation"))
    else:
        training, validation = _from_folders(root, "Tr", require_label=True), []
    if not training:
        raise UserError(
            f"{root}: no training case found, expected a 'training' list in dataset.json, or imagesTr and labelsTr; "
            "check dataset_dir"
        )
    if not validation:
        training, validation = _hold_out(root, training)

    cases = training if data_list_key == "training" else validation
    unlabelled = [case_file(case["image"]) for case in cases if "label" not in case]
    if unlabelled:
        raise UserError(
            f"{root}: {_some(unlabelled)} without a label; expected 'label' for each {data_list_key} case; add it"
        )
    _require_files(cases)
    return cases


def _sections_from(data_list_key: str) -> Sequence[str]:
    if data_list_key not in SECTIONS:
        raise UserError(
            f"data_list_key: found {data_list_key!r}, expected one of {', '.join(SECTIONS)}; fix the configuration"
        )
    return SECTIONS[SECTIONS.index(data_list_key) :]


def _is_scan(path: Path) -> bool:
    # hidden files are leftovers, such as macOS's "._scan.nii.gz"
    return not path.name.startswith(".") and path.name.lower().endswith(SCAN_EXTENSIONS)


def _scans_in(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    # a broken link is kept, for the check of files to report it
    return [path for path in found if _is_scan(path) and not path.is_dir()]


def _from_series(root: Path) -> list[dict[str, Any]]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [{"image": str(folder)} for folder in folders if has_series(folder)]


def _from_folders(root: Path, suffix: str, require_label: bool = False) -> list[dict[str, Any]]:
    images, labels = root / f"images{suffix}", root / f"labels{suffix}"
    cases = []
    for scan in _scans_in(images) if images.is_dir() else []:
        case = {"image": str(scan)}
        if require_label or (labels / scan.name).is_file():
            case["label"] = str(labels / scan.name)
        cases.append(case)
    return cases


def _from_json(root: Path, wanted: Sequence[str]) -> list[dict[str, Any]]:
    path = root / "dataset.json"
    content = _read_json(path)
    for name in wanted:
        if cases := _entries(root, content, name):
            if name != wanted[0]:
                print(f"{path}: lists no {wanted[0]} case, took the {len(cases)} of {name}")
            return cases
    raise UserError(
        f"{path}: lists no case, expected a list named {' or '.join(wanted)}; add it, or set dataset_dir to the "
        "folder that holds the scans"
    )


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_doubles)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:  # also when the text is not UTF-8, or nested without end
        raise UserError(f"{path}: not valid JSON ({error}); fix it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected an object with lists of cases; fix it")
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values; Python itself would take the last of a key that is there twice."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return dict(pairs)


def _entries(root: Path, content: dict, name: str) -> list[dict[str, Any]]:
    """Read one list of a ``dataset.json``: entries are images, or objects with ``image`` and maybe ``label``."""
    path = root / "dataset.json"
    root = root / _data_root(path, content)
    listed = content.get(name) or []
    if not isinstance(listed, list):
        raise UserError(f"{path}: {name!r} is a {type(listed).__name__}, expected a list of cases; fix it")
    cases = []
    for number, entry in enumerate(listed):
        files = entry if isinstance(entry, dict) else {"image": entry}
        where = f"{name}[{number}]"
        image = files.get("image")
        case: dict[str, Any] = {}
        if isinstance(image, list):
            if not any(image):
                raise UserError(f"{path}: image of {where} lists no file, expected at least one path; fix it")
            case["image"] = [str(root / _inside(path, where, "image", file)) if file else None for file in image]
        else:
            case["image"] = str(root / _inside(path, where, "image", image))
        if files.get("label") is not None:
            case["label"] = str(root / _inside(path, where, "label", files["label"]))
        cases.append(case)
    return cases


def _data_root(path: Path, content: dict) -> Path:
    """Return the folder that paths are relative to: ``root``, for a list that lies elsewhere than its scans."""
    value = content.get("root", ".")
    if not isinstance(value, str) or not os.path.isdir(path.parent / value):
        raise UserError(f"{path}: root is {value!r}, expected the folder that the scans lie in; fix it")
    return Path(value)


def _inside(path: Path, entry: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"{path}: {key} of {entry} is {value!r}, expected one path inside the folder; fix it")
    # both kinds of path, since the file may have been written elsewhere
    parts = (*PurePosixPath(value).parts, *PureWindowsPath(value).parts)
    home = PurePosixPath(value).parts[:1] and PurePosixPath(value).parts[0].startswith("~")
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).anchor or ".." in parts or home:
        raise UserError(
            f"{path}: {key} of {entry} leaves the folder ({value!r}), expected a path relative to {path.parent}; "
            "move or link the file there"
        )
    return value


def _hold_out(root: Path, training: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if len(training) < 2:
        raise UserError(f"{root}: one training case and none for validation, expected at least two; add a case")
    held = max(1, int(len(training) * _HOLDOUT))
    print(f"{root}: no validation list, held out the last {held} of {len(training)} training cases for validation")
    return training[:-held], training[-held:]


def _require_files(cases: Iterable[dict[str, Any]]) -> None:
    missing = []
    for case in cases:
        if not os.path.exists(case_file(case["image"])):  # of a list one file is enough here
            missing.append(case_file(case["image"]))
        if "label" in case and not os.path.isfile(case["label"]):
            missing.append(case["label"])
    if missing:
        raise UserError(f"{_some(missing)} missing; expected every listed file to exist; restore or unlist them")


def _some(paths: Sequence[str]) -> str:
    """Name the first three files, and how many there are in all."""
    if len(paths) == 1:
        return f"{paths[0]}: 1 file"
    return f"{', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}: {len(paths)} files"


def _require_distinct_names(cases: Iterable[dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for case in cases:
        name, file = case_name(case["image"]), case_file(case["image"])
        if name in seen:
            raise UserError(
                f"{seen[name]} and {file}: both would be written as {name!r}, expected a name of its own for each "
                "case; rename or remove one"
            )
        seen[name] = file
