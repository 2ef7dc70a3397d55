"""A first stage that exists already: pre-segmentations on disk, and the trained folder of nnU-Net that wrote them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_pdddpm.cli.datasets import DataSet
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.dataset_json import read_json
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.data.presegmentations import (
    find_presegmentation,
    leakage,
    presegmentation_root,
    read_presegmentation,
)
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.data.scans import plan_scan
from monai_pdddpm.utils.errors import UserError

_LEAKING = 0.02  # difference of the mean Dice of training and validation cases
_UNLIKE = 0.1  # mean Dice


@dataclass(frozen=True)
class FirstStage:
    """Pre-segmentations of a data set, which a bundle without a segmenter is trained on.

    The README names their author with ``words``. ``command`` makes those of new scans, if it is known.
    """

    folder: Path
    words: str = "Another program"
    command: str = ""
    notes: tuple[str, ...] = ()


def nnunet_stage(results: Path, data: DataSet) -> FirstStage:
    """Check the folder of a trained nnU-Net (version 2), whose ``fold_k/validation`` has out-of-fold predictions.

    nnU-Net's own predictor makes the probabilities, because its cropping, its spline resampling of images and its
    resampling of logits cannot be repeated exactly by MONAI's transforms.

    Args:
        results: ``<nnUNet_results>/<data set>/<trainer>__<plans>__<configuration>``.
        data: the data set.

    Raises:
        UserError: if it is no such folder, a fold is missing or not validated, or channels or labels differ.
    """
    if not (results / "plans.json").is_file():
        found = "plans.pkl of version 1" if (results / "plans.pkl").is_file() else "no plans.json"
        named = "the results of nnU-Net version 2, such as nnUNetTrainer__nnUNetPlans__3d_fullres"
        raise _unusable(f"{found} in {results}", f"{named}; name that folder, or train with version 2")
    trained = read_json(results / "dataset.json")
    names = trained.get("channel_names", {})
    labels = {name: value for name, value in trained.get("labels", {}).items() if name.lower() != "ignore"}
    channels = tuple(names.get(str(number)) for number in range(len(names)))
    own = "give the data set that it was trained on"
    if channels != data.channels:
        raise _unusable(f"a network for the channels {channels}", f"{data.channels} in this order; {own}, or rename")
    if any(not isinstance(value, int) for value in labels.values()):
        raise _unusable("a network for regions", "one value for each label; train it on labels")
    if data.labels and {value: name for name, value in labels.items()} != data.labels:
        raise _unusable(f"a network for the labels {labels}", f"{data.labels}; {own}")
    folds = sorted(int(f.name[5:]) for f in results.glob("fold_*") if f.name[5:].isdecimal())
    if missing := sorted(set(range(max(folds, default=0) + 1)) - set(folds)):
        only = ", but fold_all, whose network saw every case" if (results / "fold_all").is_dir() else ""
        raise _unusable(f"no fold_{missing[0]} in {results}{only}", "every fold; train it")
    for fold in folds:
        folder = results / f"fold_{fold}" / "validation"
        if not any(folder.glob(f"*{trained.get('file_ending')}")):
            raise _unusable(f"no predictions in {folder}", "some; run nnUNetv2_train with --val --npz")
    words = ["nnUNetv2_predict_from_modelfolder", "-m", str(results), "-f", *map(str, folds), "--save_probabilities"]
    notes = ["nnU-Net's label maps are softened; nnUNetv2_train with --val --npz writes its probabilities"]
    notes = [] if any(results.glob("fold_*/validation/*.npz")) else notes
    return FirstStage(
        results, "nnU-Net (version 2)", f"{shlex.join(words)} -i <scans> -o <presegmentations>", tuple(notes)
    )


def _unusable(found: str, expected: str) -> UserError:
    return UserError(f"--nnunet: found {found}, expected {expected}")


def keep_usable(listed: dict[str, Any], stage: FirstStage, progress: bool) -> list[str]:
    """Read the pre-segmentations of all labeled cases; take the cases without a usable one off the lists.

    Args:
        listed: content of a ``dataset.json`` with ``root``, ``labels``, ``training`` and ``validation``.
        stage: where the pre-segmentations are.
        progress: show a progress bar.

    Returns:
        notes on these cases, on the mean Dice, and on signs that the pre-segmentations are not out-of-fold.

    Raises:
        UserError: if no training or no validation case is left.
    """
    labels, problems = {int(value): name for value, name in listed["labels"].items()}, []
    known = (labels, listed.get("ignored"))
    dice: dict[str, list[float]] = {}
    for key in ("training", "validation"):
        entries, listed[key], dice[key] = listed[key], [], []
        for entry in tqdm(entries, f"reading pre-segmentations, {key}", disable=not progress, unit="scan"):
            case = _case(entry, listed)
            try:
                dice[key].append(_mean_dice(case, Path(listed["root"]) / entry["label"], stage.folder, *known))
            except UserError as error:
                problems.append(f"left out {case.name}: {error}")
            else:
                listed[key].append(entry)
        if not listed[key]:
            raise UserError(
                f"{stage.folder}: found no usable pre-segmentation of a {key} case, expected at least one "
                f"({problems[-1]}); fix them"
            )
    train, held = (float(np.mean(values)) for values in dice.values())
    notes = [*stage.notes, *problems, f"pre-segmentations: mean Dice {train:.3f} on training, {held:.3f} on validation"]
    both = dice["training"] + dice["validation"]
    if exact := both.count(1.0):
        notes.append(f"leakage: {exact} pre-segmentations equal their label maps; give predictions of a network")
    if max(train, held) < _UNLIKE:
        notes.append("they hardly overlap their label maps; check the order of their channels and axes")
    if train - held > max(_LEAKING, 3 * float(np.std(both)) / min(map(len, dice.values())) ** 0.5):
        notes.append("leakage: training cases fit better, as if a network had seen them; give out-of-fold predictions")
    return notes


def _case(entry: Mapping[str, Any], listed: Mapping[str, Any]) -> Case:
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    return Case.of([image and str(Path(listed["root"]) / image) for image in images])


def _mean_dice(case: Case, label: Path, folder: Path, labels: Mapping[int, str], ignored: int | None) -> float:
    """Return the Dice of a pre-segmentation, averaged over the labels that it or the truth has."""
    header = next(h for h in plan_scan(case, ScanSpec(channels=None, missing="zero")).headers if h is not None)
    path = find_presegmentation(folder, case.name)
    voxels, soft = read_presegmentation(path, header.spatial, header.affine, labels)
    found = voxels.argmax(dim=0) if soft else voxels[0]
    truth = LoadScan(channels=None)(str(label))[0].as_tensor()
    scores = []
    for index, value in enumerate(labels):
        mine, theirs = (found == index) & (truth != ignored), truth == value
        if index and (total := int(mine.sum() + theirs.sum())):
            scores.append(2 * int((mine & theirs).sum()) / total)
    return float(np.mean(scores)) if scores else 1.0


def folder_stage(folder: Path, data: DataSet) -> FirstStage:
    """Return pre-segmentations of any origin; warn if nnU-Net predicted them with a network trained on the data set."""
    note = leakage(presegmentation_root(folder), data.source)
    return FirstStage(folder, notes=(note,) if note else ())
