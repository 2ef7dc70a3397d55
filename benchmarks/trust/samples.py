"""Compare members with annotations: are the members samples of what annotators draw, and do they rank failures?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import convert_to_tensor

# Voxels per matrix product. Counts in float32 are exact up to 2 ** 24.
CHUNK = 2**16


def pairwise_iou(a: torch.Tensor, b: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Compute the IoU of each map of one set with each map of another, averaged over the foreground classes.

    A class that is absent from both maps counts as 1, a class that is absent from one of them as 0. The maps, (N, ...)
    and (M, ...), are on one grid; the result is (N, M), float64 on the CPU, from 0 to 1.
    """
    a, b = (convert_to_tensor(maps).flatten(1) for maps in (a, b))
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
    """Compute the mean distance 1 - IoU of two different maps of a set of N >= 2 label maps, (N, ...), from 0 to 1."""
    return float((1 - pairwise_iou(maps, maps, num_classes)).sum() / (len(maps) * (len(maps) - 1)))


def generalized_energy_distance(samples: torch.Tensor, annotations: torch.Tensor, num_classes: int) -> float:
    """Compute the squared generalized energy distance, 2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')], without bias.

    The distance d is 1 - IoU, averaged over the foreground classes. The expectations exclude the pairs of a map with
    itself, with which a small set would look less diverse than the distribution it comes from.

    Args:
        samples: label maps (N, ...), N >= 2, whole numbers from 0 to `num_classes` - 1.
        annotations: label maps (M, ...) on the same grid; with one annotation E[d(Y, Y')] is 0.
        num_classes: number of classes, the background included.

    Returns:
        The distance, at most 2; 0 on average for two sets of one distribution, so it can be below 0.

    Reference: Kohl et al. 2018 (arXiv:1806.05034).
    """
    between = 2 * float((1 - pairwise_iou(samples, annotations, num_classes)).mean())
    return between - sum(mean_distance(maps, num_classes) for maps in (samples, annotations) if len(maps) > 1)


def disagreement_ratio(samples: torch.Tensor, annotation: torch.Tensor, num_classes: int) -> float:
    """Compute the distance of two members relative to the distance of a member and the annotation.

    The ratio is 1 on average if members and annotation come from the same distribution, and below 1 if the members are
    too similar. The distance is 1 - IoU, averaged over the foreground classes.

    Args:
        samples: label maps (N, ...), N >= 2.
        annotation: label map (...).
        num_classes: as above.

    Returns:
        The ratio, 0 or more; NaN if every member equals the annotation.
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


def area_under_risk_coverage(risk: Sequence[float], confidence: Sequence[float]) -> float:
    """Compute the mean over all coverages k/n of the mean risk of the k most confident cases (AURC).

    Cases of equal confidence have no order; their mean risk stands for each of them.

    Args:
        risk: (n,), finite, for example 1 - Dice of each case.
        confidence: (n,), finite, higher for a case that should be good; only its order counts.

    Returns:
        The area in units of the risk; a confidence without information gives the mean risk on average.

    Reference: Geifman et al. 2019 (arXiv:1805.08206).
    """
    risks, confidences = (torch.as_tensor(values, dtype=torch.float64) for values in (risk, confidence))
    order = risks.argsort()  # equal confidences are summed in one order, however the cases come
    _, group, size = torch.unique(-confidences[order], return_inverse=True, return_counts=True)
    expected = (torch.bincount(group, weights=risks[order]) / size).repeat_interleave(size)
    return float((expected.cumsum(0) / torch.arange(1, len(risks) + 1)).mean())
