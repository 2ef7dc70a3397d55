"""The cases of a scan file, a folder of scans, or a data set in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.channel_files import group_channels
from monai_pdddpm.data.dataset_json import LIST_KEYS, is_nnunet, listed_cases, read_json, unknown_keys
from monai_pdddpm.data.dicom_files import find_series
from monai_pdddpm.data.folds import hold_out, subjects_of
from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError, some_files

SCAN_EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_EXTENSIONS = ", ".join(SCAN_EXTENSIONS)


def inference_cases(
    dataset_dir: str | os.PathLike, data_list_key: str = "test", channels: int | None = None
) -> list[dict[str, Any]]:
    """List the scans to segment.

    Args:
        dataset_dir: one scan file; a folder with a ``dataset.json`` in the Decathlon's layout, or that file; a folder
            with scans in ``imagesTs`` or ``imagesTr``, such as a data set of nnU-Net; or a folder with scan files, one
            DICOM series, or both files and subfolders with a DICOM series each, at any depth.
        data_list_key: list to take from a ``dataset.json``: ``test``, ``validation`` or ``training``. When it lists
            nothing, the next of these three is taken, and a line is printed.
        channels: number of channels of a scan: files ``<case>_0000``, ``<case>_0001``, ... are channels of one case,
            see `monai_pdddpm.data.channel_files.group_channels`. None takes each file as a case.

    Returns:
        For each case ``{"image": path, or a list with one path or null for each channel}``, and ``"label"`` where there
        is one; files in alphabetical order, those that are not grouped last, those of a ``dataset.json`` in its order.

    Raises:
        UserError: when there is no scan, every file is missing, one lies outside the folder, two cases would write to
            the same output, or one folder holds several DICOM series. A file that is missing among others stays in the
            list, for the run to report.
    """
    root = _data_root(dataset_dir)
    check_choice("data_list_key", data_list_key, LIST_KEYS)
    keys = LIST_KEYS[LIST_KEYS.index(data_list_key) :]
    if not os.path.exists(root):  # unlike pathlib, os.path raises nothing in a folder without permission
        raise UserError(f"{root}: does not exist, expected a scan or a folder of scans; check dataset_dir")
    if not os.path.isdir(root):
        if not _is_scan(root):
            raise UserError(f"{root}: not a scan by its name, expected one of {_EXTENSIONS}; check dataset_dir")
        return [{"image": str(root)}]

    content = read_json(root / "dataset.json") if os.path.isfile(root / "dataset.json") else None
    if content is not None and not is_nnunet(content):
        cases = _from_json(root / "dataset.json", content, keys)
    else:
        suffixes = ("Ts", "Tr") if keys[0] == "test" else ("Tr",)
        direct = _scans_of(root, channels)
        in_folders = [] if direct else next((found for s in suffixes if (found := folder_cases(root, s, channels))), [])
        cases = in_folders or direct + [{"image": folder} for folder in find_series(root, own=not direct)]
    if not cases:
        raise UserError(
            f"{root}: no scan found, expected files named {_EXTENSIONS}, DICOM series in folders of their own, or "
            "imagesTs, imagesTr or a dataset.json; check dataset_dir"
        )
    check_names(cases)
    if not any(any(Case.of(case["image"]).present_files) for case in cases):
        _check_files({"image": case["image"]} for case in cases)
    return cases


def labelled_cases(
    dataset_dir: str | os.PathLike, data_list_key: str, scans_per_subject: int = 1
) -> list[dict[str, Any]]:
    """List pairs of image and label, see `inference_cases`, for ``training`` or ``validation``.

    Without a list for validation in ``dataset.json``, it is fold 0 of the training list where entries name their
    fold (as in Auto3DSeg); else the last fifth of the subjects of the training list (at least one) is held out with all
    their cases, always the same, and a line is printed. A folder without lists has ``imagesTr`` and ``labelsTr``.

    Args:
        dataset_dir: see `inference_cases`.
        data_list_key: ``training`` or ``validation``.
        scans_per_subject: number of consecutively numbered cases of a subject, see `data.folds.subject_of`.

    Raises:
        UserError: when the folder, the list, a label or a file is missing, a single subject is to be split, or both
            lists name one subject. A channel that is missing in a list of files is left to the loader.
    """
    check_choice("data_list_key", data_list_key, ("training", "validation"))
    root = _data_root(dataset_dir)
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder, expected one with labeled cases and a dataset.json; check dataset_dir")

    content = read_json(root / "dataset.json") if os.path.isfile(root / "dataset.json") else None
    if content is not None and not is_nnunet(content):
        training, validation = (listed_cases(root / "dataset.json", content, key) for key in ("training", "validation"))
    else:
        channels = len(content.get("channel_names", ())) if content else None
        training, validation = folder_cases(root, "Tr", channels, require_label=True), []
    if not training:
        raise UserError(
            f"{root}: no training case found, expected a 'training' list in dataset.json, or imagesTr and labelsTr; "
            "check dataset_dir"
        )
    named = [{case["subject"] for case in cases if case.get("subject")} for cases in (training, validation)]
    if both := sorted(named[0] & named[1]):
        raise UserError(
            f"{root / 'dataset.json'}: found the subject {both[0]!r} in training and validation, expected it in one of "
            "them; move its cases to one list"
        )
    if not validation:
        subjects = subjects_of(training, scans_per_subject)
        held, by_case = hold_out(subjects, root), list(zip(training, subjects, strict=True))
        training, validation = ([case for case, own in by_case if (own in held) is side] for side in (False, True))
        print(
            f"{root}: no validation list, held out {len(validation)} of {len(by_case)} training cases for validation, "
            "those of the last subjects"
        )

    cases = training if data_list_key == "training" else validation
    if unlabelled := [Case.of(case["image"]).file for case in cases if "label" not in case]:
        raise UserError(
            f"{root}: {some_files(unlabelled)} without a label; expected 'label' for each {data_list_key} case; add it"
        )
    _check_files(cases)
    return cases


def training_cases(
    dataset_dir: str | os.PathLike, list_keys: Sequence[str] = ("training",), scans_per_subject: int = 1
) -> list[dict[str, Any]]:
    """List the cases of the lists ``training`` or also ``validation``, which leaves none to validate on."""
    return [case for list_key in list_keys for case in labelled_cases(dataset_dir, list_key, scans_per_subject)]


def given_input(folder: str | os.PathLike, cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of cases and what a folder contains beside them, see `unused_files`."""
    return {"cases": len(cases), "unused": unused_files(folder, cases)}


def unused_files(folder: str | os.PathLike, cases: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a folder contains beside the cases found in it, in alphabetical order, and unknown keys.

    Hidden files do not count; a folder that cannot be listed is named as a file. Of a ``dataset.json``, the lists and
    the keys of entries that nothing reads are named.
    """
    root = os.path.abspath(_data_root(folder))
    if not os.path.isdir(root):
        return []
    images = [case[key] for case in cases for key in ("image", "label") if key in case]
    used = {os.path.abspath(file) for image in images for file in Case.of(image).all_files}
    used.add(os.path.join(root, "dataset.json"))
    denied: list[str] = []
    unused = []
    for parent, folders, names in os.walk(root, onerror=lambda error: denied.append(error.filename)):
        if parent in used:  # a DICOM series takes all that lies in its folder
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [name for name in folders if os.path.islink(os.path.join(parent, name))]  # which `os.walk` leaves out
        paths = [os.path.join(parent, name) for name in names if not name.startswith(".")]
        unused += [path for path in paths if path not in used]
    unused += [path for path in denied if path not in used]
    listed = os.path.join(root, "dataset.json")
    keys = unknown_keys(read_json(listed)) if os.path.isfile(listed) else []
    return sorted(os.path.relpath(path, root) for path in unused) + keys


def _data_root(dataset_dir: str | os.PathLike) -> Path:
    """Return a data set's folder, also if its ``dataset.json`` is given."""
    path = Path(dataset_dir)
    return path.parent if path.name == "dataset.json" else path


def _is_scan(path: Path) -> bool:
    # hidden files are leftovers, such as macOS's "._scan.nii.gz"
    return not path.name.startswith(".") and path.name.lower().endswith(SCAN_EXTENSIONS)


def _scans_in(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    # a broken link stays, for the check of files to report it
    return [path for path in found if _is_scan(path) and not path.is_dir()]


def _scans_of(folder: Path, channels: int | None, labels: Path | None = None, require_label: bool = False) -> list:
    """Return the cases of the scan files in a folder, with those of their label maps that exist or are required."""
    scans = _scans_in(folder)
    images = group_channels(scans, channels) if channels else [(scan.name, str(scan)) for scan in scans]
    cases = []
    for name, image in images:
        case: dict[str, Any] = {"image": image}
        if labels is not None and (require_label or (labels / name).is_file()):
            case["label"] = str(labels / name)
        cases.append(case)
    return cases


def folder_cases(root: Path, suffix: str, channels: int | None, require_label: bool = False) -> list[dict[str, Any]]:
    """List the cases of ``images<suffix>`` with those label maps of ``labels<suffix>`` that exist or are required."""
    images = root / f"images{suffix}"
    return _scans_of(images, channels, root / f"labels{suffix}", require_label) if images.is_dir() else []


def _from_json(path: Path, content: dict[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    for key in keys:
        if cases := listed_cases(path, content, key):
            if key != keys[0]:
                print(f"{path}: lists no {keys[0]} case, took the {len(cases)} of {key}")
            return cases
    raise UserError(
        f"{path}: lists no case, expected a list named {' or '.join(keys)}; add it, or set dataset_dir to the "
        "folder that holds the scans"
    )


def _check_files(cases: Iterable[dict[str, Any]]) -> None:
    missing = []
    for case in cases:
        image = Case.of(case["image"])
        if not any(image.present_files):  # the loader reports single channels
            missing.append(image.file)
        if "label" in case and not os.path.isfile(case["label"]):
            missing.append(case["label"])
    if missing:
        raise UserError(f"{some_files(missing)} missing; expected every listed file to exist; restore or unlist them")


def check_names(cases: Iterable[Mapping[str, Any]]) -> None:
    """Check that no two names are the same for a file system that ignores case or Unicode's forms.

    Raises:
        UserError: when two are; the message names both files.
    """
    seen: dict[str, Case] = {}
    for case in (Case.of(case["image"]) for case in cases):
        if (key := case.folder_key) in seen:
            raise UserError(
                f"{seen[key].file} and {case.file}: both have the name {case.name!r}, expected a different name "
                "for each case, also for file systems that ignore case and accent encoding; rename or remove one"
            )
        seen[key] = case
