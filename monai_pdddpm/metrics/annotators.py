"""A set of samples against the annotations of several raters: how far apart the two sets are, and how varied each is."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction, convert_to_tensor
from scipy.optimize import linear_sum_assignment

# Voxels that the matrix product takes at a time: one-hot maps of so few stay in the cache, and counts in float32 stay
# exact, as they are up to 2 ** 24.
CHUNK = 2**16


def checked_label_maps(num_classes: int, **sets: torch.Tensor) -> list[torch.Tensor]:
    """Flatten sets of label maps, having checked that they can be compared.

    Args:
        num_classes: number K of classes, the background among them.
        sets: by its name each set of label maps, (N, ...) with whole numbers from 0 to K - 1 of any dtype.

    Returns:
        Each set as (N, voxels), on the device of the first.

    Raises:
        ValueError: naming the set, where there is no class beside the background, no map or no voxel, grids differ, or
            a label is none of the classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: {num_classes} was found, 2 or more is expected")
    names = list(sets)
    maps = [convert_to_tensor(label_maps, track_meta=False) for label_maps in sets.values()]
    for name, label_maps in zip(names, maps, strict=True):
        shape, grid = tuple(label_maps.shape), tuple(maps[0].shape[1:])
        if len(shape) < 2 or 0 in shape:
            raise ValueError(f"{name}: shape {shape} was found, (maps, ...) with a map and a voxel is expected")
        if shape[1:] != grid:
            raise ValueError(f"{name}: maps of shape {shape[1:]} were found, {grid} as of {names[0]} is expected")
        low, high = float(label_maps.min()), float(label_maps.max())
        whole = not label_maps.is_floating_point() or torch.equal(label_maps, label_maps.round())
        # Written so that nan fails too.
        if not (whole and low >= 0 and high < num_classes):
            raise ValueError(
                f"{name}: labels from {low:g} to {high:g} were found, whole numbers from 0 to {num_classes - 1} are "
                "expected"
            )
    return [label_maps.flatten(1).to(maps[0].device) for label_maps in maps]


def mean_iou(a: torch.Tensor, b: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """Mean IoU over some classes of each pair of flattened label maps, see `pairwise_iou`."""
    if 0 not in labels:
        # Where no map has a foreground there is nothing to count, and that is most of a scan.
        somewhere = (a.amax(0) > 0) | (b.amax(0) > 0)
        a, b = a[:, somewhere], b[:, somewhere]
    shared = torch.zeros(len(labels), len(a), len(b), dtype=torch.float64)
    size_a = torch.zeros(len(labels), len(a), 1, dtype=torch.float64)
    size_b = torch.zeros(len(labels), 1, len(b), dtype=torch.float64)
    for part_a, part_b in zip(a.split(CHUNK, dim=1), b.split(CHUNK, dim=1), strict=True):
        for index, label in enumerate(labels):
            one, other = (part_a == label).float(), (part_b == label).float()
            shared[index] += (one @ other.T).cpu()
            size_a[index, :, 0] += one.sum(1).cpu()
            size_b[index, 0] += other.sum(1).cpu()
    union = size_a + size_b - shared
    return torch.where(union > 0, shared / union, 1.0).mean(0)


def pairwise_iou(a: torch.Tensor, b: torch.Tensor, num_classes: int, include_background: bool = False) -> torch.Tensor:
    """Intersection over union |A and B| / |A or B| of each map of one set with each of another, mean over classes.

    A class that neither of the two maps has counts as 1, one that only one of them has as 0. All intersections of a
    class come from one matrix product of the one-hot maps, |A or B| = |A| + |B| - |A and B|.

    Args:
        a: label maps (N, ...), whole numbers from 0 to `num_classes` - 1.
        b: label maps (M, ...) on the same grid.
        num_classes: number of classes, the background among them.
        include_background: take the mean over class 0 too.

    Returns:
        (N, M), float64 on the CPU, from 0 to 1.

    Raises:
        ValueError: see `checked_label_maps`.
    """
    a, b = checked_label_maps(num_classes, a=a, b=b)
    return mean_iou(a, b, range(0 if include_background else 1, num_classes))


def mean_within(distance: torch.Tensor, distinct: bool) -> float:
    """E[d(S, S')] of a set with itself.

    Args:
        distance: (N, N), distances of the set's members, 0 on the diagonal.
        distinct: leave out the pairs of a member with itself.

    Returns:
        The mean over the N^2 pairs, or over the N (N - 1) distinct ones; 0 for a single member.
    """
    count = len(distance)
    return float(distance.sum() / (count * max(count - 1, 1) if distinct else count**2))


def generalized_energy_distance(
    samples: torch.Tensor, annotations: torch.Tensor, num_classes: int, unbiased: bool = False
) -> float:
    """Squared generalized energy distance of two sets, 2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')].

    d = 1 - IoU, mean over the foreground classes as in `pairwise_iou`. By default the expectations run over all pairs,
    those of a map with itself among them, as in CCDM's code: the distance of a set to itself is 0, but a few samples
    look less varied than what they are drawn from. `unbiased` leaves those pairs out.

    One reading says nothing of how raters differ, and E[d(Y, Y')] counts as 0 in both forms. The distance then rewards
    spread for its own sake; report `diversity` beside it.

    Args:
        samples: label maps (N, ...), whole numbers from 0 to `num_classes` - 1.
        annotations: label maps (M, ...) on the same grid.
        num_classes: number of classes, the background among them.
        unbiased: leave out the pairs of a map with itself; needs two samples.

    Returns:
        The distance, from 0 to 2; `unbiased` may come out below 0.

    Raises:
        ValueError: where `unbiased` is asked of one sample, else see `checked_label_maps`.

    Source: Kohl et al. 2018 (arXiv:1806.05034); all pairs as in Zbinden et al. 2023 (CCDM, arXiv:2303.08888).
    """
    samples, annotations = checked_label_maps(num_classes, samples=samples, annotations=annotations)
    count = len(samples)
    if unbiased and count < 2:
        raise ValueError("samples: 1 map was found, 2 or more are expected for the unbiased distance")
    both = torch.cat([samples, annotations])
    distance = 1 - mean_iou(both, both, range(1, num_classes))
    among_samples = mean_within(distance[:count, :count], unbiased)
    among_readings = mean_within(distance[count:, count:], unbiased)
    found = 2 * float(distance[:count, count:].mean()) - among_samples - among_readings
    # IoU is a positive definite kernel: over all pairs a value below 0 can only be rounding.
    return found if unbiased else max(found, 0.0)


def hungarian_iou(samples: torch.Tensor, annotations: torch.Tensor, num_classes: int) -> float:
    """Mean IoU of the best one-to-one match of samples and annotations.

    Both sets are repeated to the least common multiple of their sizes; the match has the largest sum of IoU, mean over
    the foreground classes as in `pairwise_iou`. With one reading it is the samples' mean IoU with that.

    Args:
        samples: label maps (N, ...), whole numbers from 0 to `num_classes` - 1.
        annotations: label maps (M, ...) on the same grid.
        num_classes: number of classes, the background among them.

    Returns:
        The mean, from 0 to 1; 1 for two sets of the same maps.

    Raises:
        ValueError: see `checked_label_maps`.

    Source: Kohl et al. 2019 (arXiv:1905.13077), repeated as in Zbinden et al. 2023 (CCDM, arXiv:2303.08888).
    """
    samples, annotations = checked_label_maps(num_classes, samples=samples, annotations=annotations)
    iou = mean_iou(samples, annotations, range(1, num_classes)).numpy()
    size = math.lcm(*iou.shape)
    repeated = np.tile(iou, (size // len(samples), size // len(annotations)))
    return float(repeated[linear_sum_assignment(1 - repeated)].mean())


def diversity(samples: torch.Tensor, num_classes: int) -> float:
    """Mean distance E[d(S, S')] of the distinct pairs of a set, d = 1 - IoU as in `generalized_energy_distance`.

    Args:
        samples: label maps (N, ...), N >= 2, whole numbers from 0 to `num_classes` - 1.
        num_classes: number of classes, the background among them.

    Returns:
        The mean, 0 for samples all alike, 1 where no two share a voxel.

    Raises:
        ValueError: where there is one sample only, else see `checked_label_maps`.
    """
    (samples,) = checked_label_maps(num_classes, samples=samples)
    if len(samples) < 2:
        raise ValueError("samples: 1 map was found, 2 or more are expected")
    return mean_within(1 - mean_iou(samples, samples, range(1, num_classes)), distinct=True)


class CaseMetric(CumulativeIterationMetric):
    """Keep one number for each case, and reduce the numbers as MONAI's own metrics do.

    Used as these: called with a batch, or with a list of cases, it returns (B, 1); `aggregate` reduces all cases since
    the last `reset`. A case whose number is nan is left out, and MONAI's mean of no case at all is 0: `get_not_nans`
    tells the two apart.

    Args:
        reduction: MONAI's name of a reduction, see `monai.metrics.do_metric_reduction`.
        get_not_nans: let `aggregate` return (metric, number of cases that are not nan).
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN, get_not_nans: bool = False) -> None:
        super().__init__()
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    @abstractmethod
    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the number of one case, whose tensors have no batch axis."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return the numbers of a batch, (B, 1) float32 on the device of `y_pred`."""
        if y is None or len(y) != len(y_pred):
            found = "nothing" if y is None else f"a batch of {len(y)}"
            raise ValueError(f"y: {found} was found, a batch of {len(y_pred)} as of y_pred is expected")
        values = [self.case_value(one, other) for one, other in zip(y_pred, y, strict=True)]
        return torch.tensor(values, dtype=torch.float32, device=y_pred.device)[:, None]

    def aggregate(
        self, reduction: MetricReduction | str | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Reduce the numbers of all cases.

        Args:
            reduction: used instead of the one given at construction.

        Returns:
            The metric, with `get_not_nans` the pair (metric, number of cases that are not nan).

        Raises:
            ValueError: where there was no case.
        """
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError("cases: none was found, a call with one or more is expected before aggregate")
        metric, not_nans = do_metric_reduction(data, reduction or self.reduction)
        return (metric, not_nans) if self.get_not_nans else metric


class LabelMapMetric(CaseMetric):
    """A `CaseMetric` of sets of label maps with a known number of classes.

    Args:
        num_classes: number of classes, the background among them.
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def __init__(
        self,
        num_classes: int,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.num_classes = num_classes


class GeneralizedEnergyDistanceMetric(LabelMapMetric):
    """`generalized_energy_distance` of each case: `y_pred` are the samples (B, N, ...), `y` the annotations (B, M, ...).

    Cases with different numbers of samples or annotations, or on different grids, come as lists of (N, ...) and (M, ...).

    Args:
        num_classes: number of classes, the background among them.
        unbiased: leave out the pairs of a map with itself.
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def __init__(
        self,
        num_classes: int,
        unbiased: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(num_classes, reduction, get_not_nans)
        self.unbiased = unbiased

    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the distance of the samples (N, ...) to the annotations (M, ...)."""
        return generalized_energy_distance(y_pred, y, self.num_classes, self.unbiased)


class HungarianIoUMetric(LabelMapMetric):
    """`hungarian_iou` of each case: `y_pred` are the samples (B, N, ...), `y` the annotations (B, M, ...).

    Cases with different numbers of samples or annotations, or on different grids, come as lists of (N, ...) and (M, ...).

    Args:
        num_classes: number of classes, the background among them.
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the mean IoU of the match of the samples (N, ...) and the annotations (M, ...)."""
        return hungarian_iou(y_pred, y, self.num_classes)


class DiversityMetric(LabelMapMetric):
    """`diversity` of each case: `y_pred` are the samples (B, N, ...); `y` may be given and is not looked at.

    Args:
        num_classes: number of classes, the background among them.
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return the numbers of a batch, whatever `y` is."""
        return super()._compute_tensor(y_pred, y_pred)

    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the diversity of the samples (N, ...)."""
        return diversity(y_pred, self.num_classes)
