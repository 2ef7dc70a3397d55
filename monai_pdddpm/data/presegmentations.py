"""Find and read the pre-segmentations that another program wrote."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.checks import ROUNDING, CheckLabeld, check_grid
from monai_pdddpm.data.datalist import SCAN_EXTENSIONS, check_names
from monai_pdddpm.data.dataset_json import read_json
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.paths import with_home

_CHANNEL = re.compile(r"_\d{4}$")  # of nnU-Net's image files, which its predictions lack
_SUM_ERROR = 0.02  # of probabilities that were rounded
_load = LoadScan(channels=None)


def find_presegmentation(folder: str | os.PathLike, case: str) -> Path:
    """Return the pre-segmentation of a case, by its name.

    It is ``<case>.npz`` (nnU-Net), a scan file ``<case>.nii.gz``, ``<case>/<case>_prob.nii.gz`` (this package), or a
    folder ``<case>`` with one mask per structure (TotalSegmentator), the first of these that exists. It lies in the
    folder, or in one of ``fold_*/validation`` in it (a results folder of nnU-Net). nnU-Net's channel number at the end
    of a case's name is ignored where no file has it.

    Raises:
        UserError: when there is no folder or none for this case, or two folds have one.
    """
    root = presegmentation_root(folder)
    places = [root, *sorted(root.glob("fold_*/validation"))]
    for name in dict.fromkeys((case, _CHANNEL.sub("", case))):
        found = [file for place in places if (file := _in_place(place, name)) is not None]
        if len(found) > 1:
            raise UserError(f"{found[0]}: found {found[1]} beside it, expected one pre-segmentation; remove the other")
        if found:
            return found[0]
    raise UserError(
        f"{root}: found no pre-segmentation of {case}, expected {case}.npz, {case}.nii.gz, {case}/{case}_prob.nii.gz "
        f"or a folder {case} with one mask per structure; add it, or fix presegmentation_dir"
    )


def presegmentation_root(folder: str | os.PathLike) -> Path:
    """Return the path of a folder of pre-segmentations.

    Raises:
        UserError: when there is no such folder.
    """
    root = Path(with_home(os.fspath(folder)))
    if not root.is_dir():
        raise UserError(f"presegmentation_dir: found no folder {root}, expected one; fix the path")
    return root


def _in_place(place: Path, name: str) -> Path | None:
    files = [f"{name}.npz", *(name + end for end in SCAN_EXTENSIONS), f"{name}/{name}_prob.nii.gz"]
    found = next((place / file for file in files if (place / file).is_file()), None)
    return found or (place / name if _masks(place / name) else None)


def _masks(folder: Path) -> dict[str, Path]:
    """Return the scan files of a folder by their comparable name."""
    files = [file for file in sorted(folder.glob("[!.]*")) if file.name.lower().endswith(SCAN_EXTENSIONS)]
    return {_comparable(re.sub(r"(?i)(\.nii)?\.\w+$", "", file.name)): file for file in files}


def _comparable(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def leakage(folder: Path, source: Path) -> str:
    """Return a note if a folder holds predictions of an nnU-Net that was trained on a data set, else an empty text.

    The data set, a folder or a ``dataset.json`` whose ``root`` may name another folder, is recognized by its name, or
    by the copy of its ``dataset.json`` beside the predictions.
    """
    if not all((folder / name).is_file() for name in ("predict_from_raw_data_args.json", "plans.json")):
        return ""
    trained_on, names, contents = read_json(folder / "plans.json").get("dataset_name"), {source.name}, []
    file = source / "dataset.json" if source.is_dir() else source
    if file.suffix == ".json" and file.is_file():
        contents = [read_json(file)]
        root = file.parent / str(contents[0].get("root", ""))
        names |= {file.absolute().parent.name, root.name}
        contents += [read_json(root / "dataset.json")] if (root / "dataset.json").is_file() else []
    copied = (folder / "dataset.json").is_file() and read_json(folder / "dataset.json") in contents
    if trained_on not in names and not copied:
        return ""
    return (
        f"leakage: {folder} was predicted by a network that was trained on {trained_on} itself; give its results "
        "folder, whose fold_k/validation is out-of-fold"
    )


def check_presegmentations(folder: str, dataset_dir: str, cases: Sequence[Mapping[str, Any]]) -> None:
    """Check that each case has pre-segmentations of its own, and print the note of `leakage`, if any.

    Args:
        folder: of the pre-segmentations; nothing is done if it is empty.
        dataset_dir: where the cases come from.
        cases: each with its scan under ``image``.

    Raises:
        UserError: when two scans have one name, by which they would get the same file.
    """
    if not folder:
        return
    check_names({Case.of(case["image"]).files: case for case in cases}.values())  # frames have one file
    if note := leakage(Path(with_home(folder)), Path(dataset_dir)):
        print(f"warning: {note}", flush=True)


def read_presegmentation(
    path: Path, shape: tuple[int, ...], affine: np.ndarray, labels: Mapping[int, str]
) -> tuple[torch.Tensor, bool]:
    """Read a pre-segmentation and check that it has the grid and the labels of its scan.

    nnU-Net's ``.npz`` holds probabilities in the scan's own geometry, with the axes z, y, x. The ``.pkl`` beside it is
    not read, because a pickle can run a program; the label map beside it states the grid and confirms the axes.

    Args:
        path: of :func:`find_presegmentation`.
        shape: of the scan, (X, Y, Z).
        affine: of the scan, (4, 4), voxel to mm.
        labels: value in label maps -> name, with the background first. Probabilities have one channel for each.

    Returns:
        Probabilities (K, X, Y, Z) float32 and True, or classes 0 to K-1 (1, X, Y, Z) and False.

    Raises:
        UserError: when the file cannot be read, or has another grid, other labels, or probabilities that do not sum
            to 1.
    """
    template = MetaTensor(torch.zeros(1).expand(1, *shape), affine=torch.as_tensor(affine))
    if path.is_dir():
        return _read_masks(path, template, labels), False
    if path.suffix == ".npz":
        return _checked(_read_npz(path, template, labels), path), True
    image = _load(path)
    check_grid(image, template, path)
    voxels = image.as_tensor()
    if len(voxels) == 1 and len(labels) == 2 and ((voxels > ROUNDING) & (voxels < 1 - ROUNDING)).any():
        # of the structure alone; a label map has at most noise between 0 and 1
        voxels = torch.cat([1 - voxels, voxels])
    if len(voxels) > 1:
        if len(voxels) != len(labels):
            raise UserError(_other_channels(path, len(voxels), labels))
        return _checked(voxels, path), True
    return _classes(image, template, labels), False


def _classes(image: MetaTensor, template: MetaTensor, labels: Mapping[int, str]) -> torch.Tensor:
    """Return the classes of a label map, (1, X, Y, Z)."""
    checked = CheckLabeld("label", list(labels))({"image": template, "label": image})["label"]
    classes = torch.zeros(checked.shape, dtype=torch.int64)
    for index, value in enumerate(labels):
        classes[checked.as_tensor() == value] = index
    return classes


def _read_masks(folder: Path, template: MetaTensor, labels: Mapping[int, str]) -> torch.Tensor:
    """Return the classes of a folder with one mask per structure, (1, X, Y, Z)."""
    files, classes = _masks(folder), torch.zeros(template.shape, dtype=torch.int64)
    for index, name in list(enumerate(labels.values()))[1:]:
        file = files.get(_comparable(name))
        if file is None:
            raise UserError(
                f"{folder}: found no mask of {name!r}, expected a file named after each label; add it, empty if the "
                "structure is absent, or rename it"
            )
        mask = _load(file)
        inside = CheckLabeld("label", [0, 1])({"image": template, "label": mask})["label"].as_tensor() > 0
        if twice := int((inside & (classes > 0)).sum()):
            other = list(labels.values())[int(classes[inside & (classes > 0)][0])]
            raise UserError(
                f"{file}: found {twice} voxels that belong to {other!r} too, expected masks that do not overlap; fix "
                "either mask"
            )
        classes[inside] = index
    return classes


def _read_npz(path: Path, template: MetaTensor, labels: Mapping[int, str]) -> torch.Tensor:
    """Return the probabilities that nnU-Net wrote, (K, X, Y, Z)."""
    try:
        with np.load(path, allow_pickle=False) as content:
            names = list(content.files)
            stored = content["probabilities"] if "probabilities" in names else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); predict it again with --save_probabilities") from error
    if stored is None or stored.ndim != 4:
        raise UserError(
            f"{path}: found {', '.join(names) or 'nothing'}, expected 4D probabilities of nnU-Net version 2; predict "
            "it again with version 2 and --save_probabilities"
        )
    if len(stored) != len(labels):
        raise UserError(_other_channels(path, len(stored), labels))
    found, scan = np.ascontiguousarray(stored.transpose(0, 3, 2, 1), dtype=np.float32), tuple(template.shape[1:])
    beside = next((file for end in SCAN_EXTENSIONS if (file := path.with_suffix(end)).is_file()), None)
    canonical = _from_canonical(found, np.asarray(template.affine))
    if beside is None:
        if found.shape[1:] != scan:
            shape, wanted = (" x ".join(map(str, sizes)) for sizes in (found.shape[1:], scan))
            raise UserError(f"{path}: found {shape} voxels, expected the {wanted} of its scan; predict this scan again")
        return torch.from_numpy(found)
    classes = _classes(_load(beside), template, labels)[0].numpy()
    for candidate in (found, canonical):  # NibabelIOWithReorient predicts on canonical axes
        if candidate.shape[1:] == scan and (candidate.argmax(axis=0) == classes).mean() > 0.999:
            return torch.from_numpy(np.ascontiguousarray(candidate))
    raise UserError(
        f"{path}: found probabilities whose likeliest labels are not those of {beside.name}, expected nnU-Net's axes "
        "and both files of one prediction; predict it again"
    )


def _from_canonical(channels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return channels (K, R, A, S) with the axes that a scan with this affine has."""
    turn = ornt_transform(axcodes2ornt("RAS"), io_orientation(affine))
    return np.stack([apply_orientation(channel, turn) for channel in channels])


def _checked(probabilities: torch.Tensor, path: Path) -> torch.Tensor:
    total = probabilities.sum(dim=0)
    low, high, least = float(total.min()), float(total.max()), float(probabilities.min())
    if not (low >= 1 - _SUM_ERROR and high <= 1 + _SUM_ERROR and least >= -_SUM_ERROR):
        raise UserError(
            f"{path}: found probabilities from {least:.3g}, whose sum over the labels is {low:.3g} to {high:.3g}, "
            "expected 0 and 1; write softmax probabilities with the background, not logits or regions"
        )
    return (probabilities.float() / total).clamp(0, 1)


def _other_channels(path: Path, found: int, labels: Mapping[int, str]) -> str:
    return (
        f"{path}: found {found} channels, expected {len(labels)} ({', '.join(labels.values())}); use a segmenter for "
        "these labels"
    )
