"""Write a data set of phantoms.

The layout is that of the Medical Segmentation Decathlon. :mod:`monai_pdddpm.data.phantom_distribution` describes the
scans.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_pdddpm.utils.errors import UserError

from .phantom_distribution import DEFAULT_SIZE, DEFAULT_SPACING, LABELS, make_phantom_scan, phantom_affine


def write_phantom(
    dataset_dir: str | os.PathLike[str],
    train: int = 48,
    validation: int = 12,
    test: int = 6,
    annotations: int = 8,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
    seed: int = 0,
) -> Path:
    """Write a data set of phantoms in the layout of the Medical Segmentation Decathlon, all on one oblique grid.

    Training and validation cases are in ``imagesTr`` and ``labelsTr``, test cases in ``imagesTs`` and ``labelsTs``. A
    case has the same file name in each folder: the image (float32), the label (uint8, the first annotation),
    ``annotationsTr|Ts`` (4D uint8, last axis annotation) and ``probabilityTr|Ts`` (4D float32, last axis class).
    ``dataset.json`` lists the cases and the arguments of the generator.

    Args:
        dataset_dir: folder to create; it gets this name only when it is complete.
        train: number of training cases.
        validation: number of validation cases.
        test: number of test cases.
        annotations: annotations per case, at least 1.
        size: voxels along X, Y, Z.
        spacing: voxel size in mm.
        seed: random seed; a case depends only on it and on the number of the case.

    Returns:
        The folder.

    Raises:
        FileExistsError: if ``dataset_dir`` exists.
    """
    target = Path(dataset_dir)
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove it, or choose another folder for the phantom.")
    counts = {"training": train, "validation": validation, "test": test}
    grid: dict[str, Any] = {"size": [int(n) for n in size], "spacing": [float(h) for h in spacing]}
    target.parent.mkdir(parents=True, exist_ok=True)
    # written beside the target, so that renaming stays within one file system and is atomic
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "phantom"
        root.mkdir()
        lists: dict[str, list[dict[str, str]]] = {key: [] for key in counts}
        keys = [key for key, n in counts.items() for _ in range(n)]
        for number, key in enumerate(tqdm(keys, desc="phantom", unit="case", disable=None)):
            lists[key].append(_write_case(root, number, "Ts" if key == "test" else "Tr", annotations, seed, **grid))
        _write_list(root, lists, {"seed": int(seed), "annotations": int(annotations), **grid})
        root.rename(target)
    return target


def _write_case(
    root: Path, number: int, split: str, annotations: int, seed: int, size: Sequence[int], spacing: Sequence[float]
) -> dict[str, str]:
    """Write image, label, annotations and probabilities of one case; return its entry of the list."""
    sequence = np.random.SeedSequence(seed, spawn_key=(0, number))
    phantom = make_phantom_scan(size, spacing, sequence)
    annotator = np.random.default_rng(sequence.spawn(1)[0])
    drawn = np.stack([phantom.draw_annotation(annotator) for _ in range(annotations)], axis=-1)
    name = f"phantom_{number:03d}.nii.gz"
    _save(root / f"images{split}" / name, phantom.image, spacing)
    _save(root / f"labels{split}" / name, drawn[..., 0], spacing)
    _save(root / f"annotations{split}" / name, drawn, spacing)
    _save(root / f"probability{split}" / name, np.moveaxis(phantom.probability, 0, -1), spacing)
    return {"image": f"images{split}/{name}", "label": f"labels{split}/{name}"}


def _save(path: Path, array: NDArray[Any], spacing: Sequence[float]) -> None:
    """Write one NIfTI file."""
    affine = phantom_affine(spacing)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)


def _write_list(root: Path, lists: dict[str, list[dict[str, str]]], settings: dict[str, Any]) -> None:
    """Write ``dataset.json``: the cases, and the arguments of the generator."""
    contents = {
        "name": "Phantom",
        "description": "Synthetic nested structures with blurred borders and known class probabilities",
        "reference": "monai_pdddpm.data.phantom",
        "tensorImageSize": "3D",
        "modality": {"0": "synthetic"},
        "labels": {str(k): name for k, name in enumerate(LABELS)},
        **{f"num{key.capitalize()}": len(entries) for key, entries in lists.items()},
        **lists,
        "generator": settings,
    }
    (root / "dataset.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def ensure_phantom(folder: str | os.PathLike[str], dataset_dir: str | os.PathLike[str], **settings: Any) -> None:
    """Write the phantom data set of a bundle if it is asked for and does not exist.

    Args:
        folder: the bundle's own folder for data. An existing one stays unchanged.
        dataset_dir: the folder or scan that a command reads; for another one than ``folder`` nothing is written.
        settings: arguments of `write_phantom`.

    Raises:
        UserError: when the folder cannot be written.
    """
    target = Path(folder)
    if os.path.realpath(dataset_dir) == os.path.realpath(target) and not os.path.lexists(target):
        print(f"No dataset at {target}: writing the synthetic phantom there.", flush=True)
        try:
            write_phantom(target, **settings)
        except OSError as error:
            # several processes may start at once (torchrun); the first one to finish wins, and all write the same files
            if not target.is_dir():
                raise UserError(
                    f"{target}: cannot be written ({error.strerror}), expected a folder for the phantom; make it "
                    "writable, or give scans with --dataset_dir"
                ) from error
