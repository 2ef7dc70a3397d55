"""What is in a data set: sizes, spacings, intensities and labels, case by case and in sum."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from monai_pdddpm.cli.datasets import Case, DataSet, Finding
from monai_pdddpm.data.checks import check_voxels
from monai_pdddpm.data.case import present_files
from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

__all__ = ["Facts", "Reader", "fingerprint", "look"]

SAMPLES = 10_000  # voxels kept of each case: enough for percentiles, and no matter for the memory
_SAME_GRID = 0.1  # voxels


@dataclass(frozen=True)
class Facts:
    """What one case holds.

    Attributes:
        case: which.
        shape: voxels along right-left, posterior-anterior, inferior-superior.
        spacing: mm along the same.
        samples: (channels, n) intensities inside the foreground, or anywhere where there is none; NaN for a channel
            that is missing.
        nonzero: share of the voxels of each channel that are not 0.
        labels: value -> number of voxels, the background included.
        content: hash of the image's voxels.
    """

    case: Case
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    samples: np.ndarray
    nonzero: tuple[float, ...]
    labels: dict[int, int]
    content: str


class Reader:
    """Reads the scans of a data set.

    Args:
        dataset: names of its channels.
    """

    def __init__(self, dataset: DataSet) -> None:
        names = {str(i): name for i, name in enumerate(dataset.channels)}
        quiet = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
        quiet.setLevel(logging.ERROR)  # it tells of DICOM on GPUs, which nobody asked for
        self.image = LoadScan(channels=len(dataset.channels), channel_names=names, missing="zero")
        self.label = LoadScan(channels=None)


def look(case: Case, dataset: DataSet, reader: Reader, seed: int = 0) -> tuple[Facts | None, list[Finding]]:
    """Read a case and tell what it holds and what is wrong with it.

    Args:
        case: of the data set.
        dataset: names of channels and labels.
        reader: made for the data set.
        seed: of the voxels that are kept.

    Returns:
        its facts, None where it cannot be read; and the findings.
    """
    files = case.image if len(case.image) > 1 else case.image[0]
    try:
        image = reader.image(files)  # type: ignore[arg-type]
        there = [file is not None for file in present_files(case.image)]
        there = there if len(there) > 1 else [True] * len(dataset.channels)
        for channel in np.flatnonzero(there):
            check_voxels(image[channel], f"{case.image[channel % len(case.image)]}")
    except UserError as error:
        return None, [Finding("unreadable", case.name, str(error))]

    voxels = image.as_tensor().numpy()
    affine = np.asarray(image.affine, dtype=float)
    order = np.argsort(nib.orientations.io_orientation(affine)[:3, 0])
    findings: list[Finding] = []
    counts: dict[int, int] = {}
    inside = np.ones(voxels.shape[1:], dtype=bool)
    if case.label is not None:
        try:
            label = reader.label(case.label)
        except UserError as error:
            return None, [Finding("unreadable", case.name, str(error))]
        findings, counts = _look_at_label(case, dataset, image.shape, affine, label)
        if tuple(label.shape[1:]) == voxels.shape[1:] and (label[0] > 0).any():
            inside = label[0].as_tensor().numpy() > 0
    index = np.flatnonzero(inside)
    if len(index) > SAMPLES:
        index = np.sort(np.random.default_rng(seed).choice(index, SAMPLES, replace=False))
    samples = voxels.reshape(len(voxels), -1)[:, index].astype(np.float32)
    samples[~np.asarray(there)] = np.nan
    return Facts(
        case,
        tuple(int(voxels.shape[1:][axis]) for axis in order),
        tuple(round(float(voxel_sizes(affine)[axis]), 6) for axis in order),
        samples,
        tuple(float(np.mean(channel != 0)) for channel in voxels),
        counts,
        hashlib.sha256(repr(voxels.shape).encode() + np.ascontiguousarray(voxels).tobytes()).hexdigest(),
    ), findings


def _look_at_label(
    case: Case, dataset: DataSet, shape: Sequence[int], affine: np.ndarray, label: Any
) -> tuple[list[Finding], dict[int, int]]:
    findings = []

    def found(kind: str, text: str) -> None:
        findings.append(Finding(kind, case.name, text))

    values, numbers = torch.unique(label.as_tensor(), return_counts=True)
    counts = {float(value): int(number) for value, number in zip(values, numbers, strict=True)}
    if len(label) != 1:
        found(
            "grid", f"the label map has {len(label)} channels, expected one; write one map with a value for each label"
        )
    if tuple(label.shape[1:]) != tuple(shape[1:]):
        sizes = [" x ".join(map(str, size[1:])) for size in (shape, label.shape)]
        found(
            "grid", f"the image is {sizes[0]} and its label map {sizes[1]} voxels; resample the label map to the image"
        )
    elif (shift := largest_shift(affine, np.asarray(label.affine, dtype=float), shape[1:])) > _SAME_GRID:
        found("grid", f"the label map lies up to {shift:.3g} voxels off the image by its header; fix the header")
    fractions = [value for value in counts if not math.isfinite(value) or value != round(value)]
    if fractions:
        few = ", ".join(f"{value:g}" for value in fractions[:3])
        found("label-fraction", f"{len(fractions)} label values are no whole numbers ({few}); round or resample anew")
    whole = {int(value): number for value, number in counts.items() if value not in fractions}
    unknown = [value for value in whole if dataset.labels and value not in dataset.labels]
    if unknown:
        known = ", ".join(map(str, dataset.labels))
        found("label-value", f"label values {', '.join(map(str, unknown[:5]))} are none of {known}; fix or name them")
    if not any(value > 0 for value in whole):
        found("label-empty", "nothing is labelled; right only for a scan without what is sought")
    return findings, whole


def fingerprint(dataset: DataSet, facts: Sequence[Facts]) -> dict[str, Any]:
    """Sum up the labelled cases of a data set, as JSON; names of cases stay out of it.

    Args:
        dataset: what it says of itself; where it names no labels, the values that occur are named by their number.
        facts: of its labelled cases.

    Raises:
        UserError: when there are none, or nothing is labelled in any.
    """
    totals = {value for each in facts for value in each.labels if value > 0}
    if not totals:
        raise UserError(f"{dataset.source}: no case with a labelled voxel, expected one at least; add label maps")
    labels = dataset.labels or {0: "background"} | {value: f"label {value}" for value in sorted(totals)}
    shapes, spacings = np.array([each.shape for each in facts]), np.array([each.spacing for each in facts])
    samples = np.concatenate([each.samples for each in facts], axis=1)
    missing = [sum(bool(np.isnan(each.samples[c]).all()) for each in facts) for c in range(len(samples))]
    return {
        "form": dataset.form,
        "cases": len(facts),
        "unlabelled": len(dataset.cases) - len(dataset.labelled),
        "files_per_case": max(len(each.case.image) for each in facts),
        "shape": _spread(shapes),
        "spacing_mm": _spread(spacings),
        "channels": [
            {"name": name, "missing": missing[c], **_intensities(samples[c])}
            | {"nonzero_share": round(float(np.median([each.nonzero[c] for each in facts])), 4)}
            for c, name in enumerate(dataset.channels)
        ],
        "labels": {str(value): _label(value, name, facts) for value, name in labels.items()},
        "each": [{"shape": list(each.shape), "spacing_mm": list(each.spacing)} for each in facts],
    }


def _spread(values: np.ndarray) -> dict[str, list[float]]:
    """Return the spread over cases of numbers along the axes, (cases, 3)."""
    numbers = {"median": np.median(values, axis=0), "min": values.min(axis=0), "max": values.max(axis=0)}
    numbers["percentile_10"] = np.percentile(values, 10, axis=0)
    return {name: [round(float(number), 6) for number in along] for name, along in numbers.items()}


def _intensities(samples: np.ndarray) -> dict[str, float]:
    known = samples[np.isfinite(samples)].astype(float)
    if not known.size:
        raise UserError("a channel that no case has; take it out of the list of channels")
    names = {"percentile_00_5": 0.5, "median": 50, "percentile_99_5": 99.5}
    numbers = {"mean": known.mean(), "sd": known.std(), "min": known.min(), "max": known.max()}
    numbers |= {name: np.percentile(known, share) for name, share in names.items()}
    return {name: float(f"{number:.6g}") for name, number in numbers.items()}


def _label(value: int, name: str, facts: Sequence[Facts]) -> dict[str, Any]:
    volumes = [each.labels.get(value, 0) * math.prod(each.spacing) / 1000 for each in facts]
    present = [ml for ml in volumes if ml > 0]
    return {"name": name, "cases": len(present), "median_ml": round(float(np.median(present or [0.0])), 4)}
