"""Compare members with annotations: are the members samples of what annotators draw?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import convert_to_tensor

# Voxels per matrix product. Counts in float32 are exact up to 2 ** 24.
CHUNK = 2**16


def checked_label_maps(num_classes: int, **sets: torch.Tensor) -> list[torch.Tensor]:
    """Check sets of label maps and flatten them.

    Args:
        num_classes: number K of classes, the background included.
        sets: label maps (N, ...) by name, whole numbers from 0 to K - 1 of any dtype.

    Returns:
        Each set as (N, voxels), on the device of the first.

    Raises:
        ValueError: if K is below 2, a set is empty, grids differ, or a value is no class.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: found {num_classes}, expected 2 or more")
    maps = {name: convert_to_tensor(label_maps, track_meta=False) for name, label_maps in sets.items()}
    first = next(iter(maps.values()))
    for name, label_maps in maps.items():
        shape = tuple(label_maps.shape)
        if len(shape) < 2 or 0 in shape or shape[1:] != tuple(first.shape[1:]):
            raise ValueError(f"{name}: found shape {shape}, expected (maps, *{tuple(first.shape[1:])})")
        low, high = float(label_maps.min()), float(label_maps.max())
        whole = not label_maps.is_floating_point() or torch.equal(label_maps, label_maps.round())
        # NaN fails this condition too.
        if not (whole and low >= 0 and high < num_classes):
            raise ValueError(
                f"{name}: found labels from {low:g} to {high:g}, expected whole numbers from 0 to {num_classes - 1}"
            )
    return [label_maps.flatten(1).to(first.device) for label_maps in maps.values()]


def pairwise_iou(a: torch.Tensor, b: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Compute the IoU of each map of one set with each map of another, averaged over the foreground classes.

    A class that is absent from both maps counts as 1, a class that is absent from one of them as 0.

    Args:
        a: label maps (N, ...), whole numbers from 0 to `num_classes` - 1.
        b: label maps (M, ...) on the same grid.
        num_classes: number of classes, the background included.

    Returns:
        (N, M), float64 on the CPU, from 0 to 1.

    Raises:
        ValueError: see `checked_label_maps`.
    """
    a, b = checked_label_maps(num_classes, a=a, b=b)
    somewhere = (a.amax(0) > 0) | (b.amax(0) > 0)
    a, b = a[:, somewhere], b[:, somewhere]
    iou = torch.zeros(len(a), len(b), dtype=torch.float64)
    for label in range(1, num_classes):
        shared = torch.zeros(len(a), len(b), dtype=torch.float64)
        for part_a, part_b in zip(a.split(CHUNK, dim=1), b.split(CHUNK, dim=1), strict=True):
            shared += ((part_a == label).float() @ (part_b == label).float().T).cpu()
        union = (a == label).sum(1).cpu()[:, None] + (b == label).sum(1).cpu()[None] - shared
        iou += torch.where(union > 0, shared / union, 1.0)
    return iou / (num_classes - 1)


def mean_distance(maps: torch.Tensor, num_classes: int) -> float:
    """Compute the mean distance 1 - IoU of two different maps of a set.

    Args:
        maps: label maps (N, ...), N >= 2.
        num_classes: number of classes, the background included.

    Returns:
        The mean over the N (N - 1) pairs: 0 if all maps are equal, 1 if no two share a foreground voxel.

    Raises:
        ValueError: if N is below 2; see also `checked_label_maps`.
    """
    if len(maps) < 2:
        raise ValueError(f"maps: found {len(maps)}, expected 2 or more")
    return float((1 - pairwise_iou(maps, maps, num_classes)).sum() / (len(maps) * (len(maps) - 1)))


def generalized_energy_distance(
    samples: torch.Tensor, annotations: torch.Tensor, num_classes: int, unbiased: bool = False
) -> float:
    """Compute the squared generalized energy distance, 2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')].

    The distance d is 1 - IoU, averaged over the foreground classes. By default the expectations include the pairs of a
    map with itself, as in the code of CCDM; a small set then looks less diverse than the distribution it comes from.
    `unbiased` excludes these pairs. With one annotation E[d(Y, Y')] is 0 in both forms.

    Args:
        samples: label maps (N, ...), whole numbers from 0 to `num_classes` - 1.
        annotations: label maps (M, ...) on the same grid.
        num_classes: number of classes, the background included.
        unbiased: exclude the pairs of a map with itself; needs two samples.

    Returns:
        The distance, from 0 to 2; the unbiased one can be below 0.

    Raises:
        ValueError: if `unbiased` is requested of one sample; see also `checked_label_maps`.

    Reference: Kohl et al. 2018 (arXiv:1806.05034); all pairs as in Zbinden et al. 2023 (arXiv:2303.08888).
    """
    if unbiased and len(samples) < 2:
        raise ValueError("samples: found 1, expected 2 or more for the unbiased distance")
    between = 2 * float((1 - pairwise_iou(samples, annotations, num_classes)).mean())
    within = 0.0
    for maps in (samples, annotations):
        if len(maps) > 1:
            share = 1.0 if unbiased else (len(maps) - 1) / len(maps)
            within += share * mean_distance(maps, num_classes)
    # IoU is a positive definite kernel: over all pairs only rounding gives a value below 0.
    return between - within if unbiased else max(between - within, 0.0)


def disagreement_ratio(samples: torch.Tensor, annotation: torch.Tensor, num_classes: int) -> float:
    """Compute the distance of two members relative to the distance of a member and the annotation.

    The ratio is 1 on average if members and annotation come from the same distribution, and below 1 if the members are
    too similar. The distance is 1 - IoU, averaged over the foreground classes.

    Args:
        samples: label maps (N, ...), N >= 2.
        annotation: label map (...).
        num_classes: number of classes, the background included.

    Returns:
        The ratio, 0 or more; NaN if every member equals the annotation.

    Raises:
        ValueError: see `mean_distance` and `checked_label_maps`.
    """
    error = float((1 - pairwise_iou(samples, annotation[None], num_classes)).mean())
    return mean_distance(samples, num_classes) / error if error else math.nan


def volume_z(members: Sequence[float], truth: float) -> float:
    """Compute the error of the members' mean volume in units of their standard deviation, |mean - truth| / SD.

    Args:
        members: volumes of N >= 2 members, in any unit.
        truth: true volume in the same unit.

    Returns:
        The error, 0 or more; infinite if the members are equal and wrong, NaN if they are equal and right.
    """
    error, spread = abs(float(np.mean(members)) - truth), float(np.std(members, ddof=1))
    if spread:
        return error / spread
    return math.inf if error else math.nan


def crps(members: Sequence[float], truth: float) -> float:
    """Compute the fair continuous ranked probability score, E|X - y| - E|X - X'| / 2.

    E|X - X'| is taken over different members, so the expected score does not depend on their number.

    Args:
        members: values of N >= 2 members, such as volumes.
        truth: true value in the same unit.

    Returns:
        The score in the unit of the values, lower is better; small ensembles can have values below 0.

    Reference: Ferro 2014 (doi:10.1002/qj.2270).
    """
    values = np.asarray(members, dtype=float)
    apart = np.abs(values[:, None] - values[None]).sum() / (len(values) * (len(values) - 1))
    return float(np.abs(values - truth).mean() - apart / 2)
