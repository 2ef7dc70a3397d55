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

    d is 1 - IoU, averaged over the foreground classes, of label maps (N, ...) and (M, ...). The expectations exclude
    the pairs of a map with itself; with one annotation E[d(Y, Y')] is 0. Sets of one distribution have 0 on average.

    Reference: Kohl et al. 2018 (arXiv:1806.05034).
    """
    between = 2 * float((1 - pairwise_iou(samples, annotations, num_classes)).mean())
    return between - sum(mean_distance(maps, num_classes) for maps in (samples, annotations) if len(maps) > 1)


def disagreement_ratio(samples: torch.Tensor, annotation: torch.Tensor, num_classes: int) -> float:
    """Compute the distance 1 - IoU of two members, (N, ...), relative to that of a member and the annotation, (...).

    1 on average if both come from one distribution, below 1 if the members are too similar; NaN if all equal it.
    """
    error = float((1 - pairwise_iou(samples, annotation[None], num_classes)).mean())
    return mean_distance(samples, num_classes) / error if error else math.nan


def volume_z(members: Sequence[float], truth: float) -> float:
    """Compute |mean - truth| / SD of the members' volumes; infinite if they are equal and wrong, NaN if right."""
    error, spread = abs(float(np.mean(members)) - truth), float(np.std(members, ddof=1))
    if spread:
        return error / spread
    return math.inf if error else math.nan


def crps(members: Sequence[float], truth: float) -> float:
    """Compute the fair continuous ranked probability score of two members or more, E|X - y| - E|X - X'| / 2.

    E|X - X'| is taken over different members, so the expected score does not depend on their number.

    Reference: Ferro 2014 (doi:10.1002/qj.2270).
    """
    values = np.asarray(members, dtype=float)
    apart = np.abs(values[:, None] - values[None]).sum() / (len(values) * (len(values) - 1))
    return float(np.abs(values - truth).mean() - apart / 2)


def area_under_risk_coverage(risk: Sequence[float], confidence: Sequence[float]) -> float:
    """Compute the mean over all coverages k/n of the mean risk of the k most confident cases (AURC).

    Cases of equal confidence have no order; their mean risk stands for each of them.

    Reference: Geifman et al. 2019 (arXiv:1805.08206).
    """
    risks, confidences = (torch.as_tensor(values, dtype=torch.float64) for values in (risk, confidence))
    order = risks.argsort()  # equal confidences are summed in one order, however the cases come
    _, group, size = torch.unique(-confidences[order], return_inverse=True, return_counts=True)
    expected = (torch.bincount(group, weights=risks[order]) / size).repeat_interleave(size)
    return float((expected.cumsum(0) / torch.arange(1, len(risks) + 1)).mean())
