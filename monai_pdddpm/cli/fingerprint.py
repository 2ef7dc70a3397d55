"""Sizes, spacings, intensities and labels of a data set, case by case and in sum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from monai_pdddpm.cli.datasets import DataSet, Finding, LabeledCase
from monai_pdddpm.data.checks import CheckLabeld, check_voxels
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError

SAMPLES = 10_000  # intensities kept per case


@dataclass(frozen=True)
class CaseStatistics:
    """Statistics of one case, with sizes along R, A and S.

    Attributes:
        spacing: mm.
        frames: of a time series, else 1.
        samples: (channels, n) intensities inside the labels, or anywhere if nothing is labeled; NaN if a channel is
            missing.
        background: for each channel, the value that surrounds the scan and the fraction of voxels that have it.
        labels: value -> number of voxels, with the background; of a time series their mean over the frames.
        content: hash of the image's voxels.
    """

    case: LabeledCase
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    frames: int
    samples: np.ndarray
    background: tuple[tuple[float, float], ...]
    labels: dict[int, float]
    content: str


def read_case(case: LabeledCase, dataset: DataSet, seed: int = 0) -> tuple[CaseStatistics | None, list[Finding]]:
    """Return the statistics of a labeled case, None if it cannot be used, and its problems.

    ``seed`` draws the intensities that are kept.
    """
    name, files = case.case.name, case.case.present_files
    present = [file is not None for file in files] if len(files) > 1 else [True] * len(dataset.channels)
    try:
        image = _loader(dataset.channels, dataset.frames)(case.case)
        for channel in np.flatnonzero(present):
            check_voxels(image[channel], files[channel % len(files)] or name)
    except UserError as error:
        return None, [Finding("unreadable", name, str(error))]
    voxels = image.as_tensor().numpy()
    frames = len(voxels) if dataset.frames else 1  # labels are those of each frame
    inside = np.ones((frames, *voxels.shape[1:]), dtype=bool)
    counts: dict[int, int] = {}
    findings = []
    if case.label is not None:
        try:
            pair: dict[Hashable, Any] = {"image": image, "label": _loader(None, False)(case.label)}
            check = CheckLabeld("label", list(dataset.labels) or range(2**16), dataset.ignored)
            label = check(pair)["label"].as_tensor()
            if len(label) != (len(image) if dataset.frames else 1):
                expected = f"the {len(image)} frames of the scan" if dataset.frames else "one"
                raise UserError(f"{case.label}: found {len(label)} channels, expected {expected}; fix the label map")
        except UserError as error:
            return None, [Finding("label", name, str(error))]
        values, numbers = torch.unique(label, return_counts=True)
        counts = {int(value): int(number) for value, number in zip(values, numbers, strict=True)}
        counts.pop(dataset.ignored, None)  # type: ignore[arg-type]
        if any(counts.keys() - {0}):
            inside = ((label > 0) & (label != dataset.ignored)).numpy()
        else:
            findings.append(Finding("label-empty", name, "nothing is labeled; correct only if nothing is there"))
    index = np.flatnonzero(inside)
    if len(index) > SAMPLES:
        index = np.sort(np.random.default_rng(seed).choice(index, SAMPLES, replace=False))
    samples = voxels.reshape(len(dataset.channels), -1)[:, index].astype(np.float32)
    samples[~np.asarray(present)] = np.nan
    affine = np.asarray(image.affine, dtype=float)
    order = np.argsort(nib.orientations.io_orientation(affine)[:3, 0])
    return CaseStatistics(
        case,
        shape=tuple(int(voxels.shape[1:][axis]) for axis in order),
        spacing=tuple(round(float(voxel_sizes(affine)[axis]), 6) for axis in order),
        frames=frames,
        samples=samples,
        background=tuple(map(_background, voxels[: len(dataset.channels)])),
        labels={value: number / frames for value, number in counts.items()},
        content=hashlib.sha256(repr(voxels.shape).encode() + np.ascontiguousarray(voxels).tobytes()).hexdigest(),
    ), findings


def _background(voxels: np.ndarray) -> tuple[float, float]:
    """Return the value that more voxels of a channel have, of 0 and the usual value of its corners; and how many."""
    corners, counts = np.unique(voxels[np.ix_(*([0, -1] for _ in voxels.shape))], return_counts=True)
    found = [(value, float(np.mean(voxels == value))) for value in (0.0, float(corners[counts.argmax()]))]
    return max(found, key=lambda one: one[1])


@cache
def _loader(channels: tuple[str, ...] | None, frames: bool) -> LoadScan:
    if channels is None:
        return LoadScan(channels=None)
    if frames:
        return LoadScan(fourth_dimension="time")
    names = {str(i): channel for i, channel in enumerate(channels)}
    return LoadScan(channels=len(channels), channel_names=names, missing="zero")


def fingerprint(dataset: DataSet, cases: Sequence[CaseStatistics]) -> dict[str, Any]:
    """Return the statistics of a data set as JSON, without names of cases; values without names become labels.

    Raises:
        UserError: if no case has a labeled voxel, or a channel is missing in all cases.
    """
    values = sorted({value for case in cases for value in case.labels if value > 0})
    if not values:
        raise UserError(f"{dataset.source}: found no labeled voxel, expected at least one; add label maps")
    labels = dataset.labels or {0: "background"} | {value: f"label {value}" for value in values}
    return {
        "form": dataset.form,
        "cases": len(cases),
        "unlabeled": len(dataset.cases) - len(dataset.labeled),
        "frames": dataset.frames,
        "files_per_case": max(len(case.case.case.files) for case in cases),
        "shape": _distribution(np.array([case.shape for case in cases])),
        "spacing_mm": _distribution(np.array([case.spacing for case in cases])),
        "channels": [_channel(dataset, index, cases) for index in range(len(dataset.channels))],
        "labels": {str(value): _label(value, name, cases) for value, name in labels.items()},
        "each": [
            {"shape": list(case.shape), "spacing_mm": list(case.spacing), "frames": case.frames} for case in cases
        ],
    }


def _distribution(values: np.ndarray) -> dict[str, list[float]]:
    """Return statistics over cases of numbers along the axes, (cases, 3)."""
    numbers = {"median": np.median(values, axis=0), "min": values.min(axis=0), "max": values.max(axis=0)}
    numbers["percentile_10"] = np.percentile(values, 10, axis=0)
    return {name: [round(float(number), 6) for number in axes] for name, axes in numbers.items()}


def _channel(dataset: DataSet, index: int, cases: Sequence[CaseStatistics]) -> dict[str, Any]:
    known = [case for case in cases if not np.isnan(case.samples[index]).all()]
    if not known:
        raise UserError(f"{dataset.source}: found the channel {dataset.channels[index]!r} in no case; remove it")
    samples = np.concatenate([case.samples[index] for case in known]).astype(float)
    numbers = {"mean": samples.mean(), "sd": samples.std(), "min": samples.min(), "max": samples.max()}
    for name, percentage in (("percentile_00_5", 0.5), ("median", 50), ("percentile_99_5", 99.5)):
        numbers[name] = np.percentile(samples, percentage)
    backgrounds = {case.background[index][0] for case in known}
    return {
        "name": dataset.channels[index],
        "missing": len(cases) - len(known),
        **{name: float(f"{number:.6g}") for name, number in numbers.items()},
        "background": backgrounds.pop() if len(backgrounds) == 1 else None,
        "foreground_fraction": round(1 - float(np.median([case.background[index][1] for case in known])), 4),
    }


def _label(value: int, name: str, cases: Sequence[CaseStatistics]) -> dict[str, Any]:
    volumes = [case.labels.get(value, 0) * math.prod(case.spacing) / 1000 for case in cases]
    present = [volume for volume in volumes if volume > 0]
    return {"name": name, "cases": len(present), "median_ml": round(float(np.median(present or [0.0])), 4)}
