"""Whether an uncertainty puts things in the right order: bad cases last, wrong voxels first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import MetricReduction, convert_to_tensor
from torchmetrics.functional.regression import pearson_corrcoef

from monai_pdddpm.metrics.annotators import CaseMetric

Values = torch.Tensor | Sequence[float]


def checked_values(**values: Values) -> list[torch.Tensor]:
    """Flatten sets of numbers that belong together one by one.

    Args:
        values: by its name each set, all of one shape.

    Returns:
        Each set as (n,), float64 on the CPU: sums come out the same for any device.

    Raises:
        ValueError: naming the set, where it is empty, its shape is not that of the first, or a value is not finite.
    """
    names = list(values)
    tensors = [
        convert_to_tensor(found, dtype=torch.float64, device="cpu", wrap_sequence=True, track_meta=False)
        for found in values.values()
    ]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)} was found, {tuple(tensors[0].shape)} as of {names[0]} is expected"
            )
        if not tensor.numel():
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} was found, one value or more is expected")
        strange = int((~tensor.isfinite()).sum())
        if strange:
            raise ValueError(f"{name}: {strange} of {tensor.numel()} values were found not finite, none is expected")
    return [tensor.flatten() for tensor in tensors]


def area_under_risk_coverage(risk: Values, confidence: Values) -> float:
    """Mean over k = 1..n of the mean risk of the k most confident cases (AURC).

    The selective risk averaged over the coverages 1/n, 2/n, ..., 1: a sum, not a trapezoid as fd-shifts and VALUES have
    it, so that the best order gives exactly what `excess_aurc` takes off. Cases of one confidence have no order: their
    mean risk stands for each of them, which is what any order of theirs gives on average.

    Args:
        risk: (n,), e.g. 1 - Dice of each case.
        confidence: (n,), higher for a case that should be good, e.g. the negative mean entropy; only its order counts.

    Returns:
        The area, in units of the risk; a confidence that knows nothing gives the mean risk on average.

    Raises:
        ValueError: where there is no case, shapes differ, or a value is not finite.

    Source: Geifman et al. 2019 (arXiv:1805.08206).
    """
    risk, confidence = checked_values(risk=risk, confidence=confidence)
    # Sorted first, cases of one confidence are summed in the same order however they come.
    order = risk.argsort()
    _, group, size = torch.unique(-confidence[order], return_inverse=True, return_counts=True)
    expected = (torch.bincount(group, weights=risk[order]) / size).repeat_interleave(size)
    return float((expected.cumsum(0) / torch.arange(1, len(risk) + 1)).mean())


def excess_aurc(risk: Values, confidence: Values) -> float:
    """What AURC has above that of the best order, by rising risk (E-AURC): 0 where the confidence sorts the risks.

    torch-uncertainty calls a trapezoid form of this AURC.

    Args:
        risk: (n,), see `area_under_risk_coverage`.
        confidence: (n,), see `area_under_risk_coverage`.

    Returns:
        The difference, in units of the risk, 0 or more.

    Raises:
        ValueError: see `area_under_risk_coverage`.

    Source: Geifman et al. 2019 (arXiv:1805.08206).
    """
    risk, confidence = checked_values(risk=risk, confidence=confidence)
    # No order beats the best one: a difference below 0 can only be rounding.
    return max(area_under_risk_coverage(risk, confidence) - area_under_risk_coverage(risk, -risk), 0.0)


def uncertainty_error_overlap(uncertainty: torch.Tensor, error: torch.Tensor) -> tuple[float, float]:
    """The largest Dice coefficient of the uncertain and the wrong voxels, max over tau of Dice(1[u > tau], error).

    Every threshold that makes a difference is tried. MONAI's Dice takes one threshold at a time, and torchmetrics'
    precision-recall curve squeezes entropies above 1 nat through a sigmoid.

    Args:
        uncertainty: tensor of any shape, e.g. an entropy in nats.
        error: boolean, or 0 and 1, of the same shape: where the label map differs from the truth.

    Returns:
        The overlap, 0 to 1, and the threshold, a value of the uncertainty, or -inf where all voxels together overlap
        best; of thresholds that overlap alike the highest. Both are nan where no voxel is wrong: two empty masks would
        agree for any uncertainty.

    Raises:
        ValueError: where shapes differ, there is no voxel, a value is not finite, or an error is neither 0 nor 1.

    Source: Jungo et al. 2020 (doi:10.3389/fnins.2020.00282), at the best threshold.
    """
    uncertainty, error = checked_values(uncertainty=uncertainty, error=error)
    if not bool(((error == 0) | (error == 1)).all()):
        raise ValueError(f"error: values from {error.min():g} to {error.max():g} were found, 0 and 1 are expected")
    if not bool(error.any()):
        return math.nan, math.nan
    ranked, order = uncertainty.sort(descending=True)
    # A threshold falls between two levels: it marks all voxels down to the last one of a level.
    last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])
    found, marked = error[order].cumsum(0)[last], torch.arange(1, len(ranked) + 1)[last]
    dice, levels = 2 * found / (marked + error.sum()), ranked[last]
    best = int(dice.argmax())
    return float(dice[best]), float(levels[best + 1]) if best + 1 < len(levels) else -math.inf


def normalized_cross_correlation(a: torch.Tensor, b: torch.Tensor, ddof: int = 1) -> float:
    """Normalized cross-correlation of two maps, sum (a - mean a) (b - mean b) / (n sd_a sd_b).

    For S_NCC one map is the uncertainty, the other what it should look like: how far the raters differ, or with one
    reading the error. With `ddof` 1 the result is Pearson's coefficient times (n - 1) / n, as in VALUES' code; with 0
    it is the coefficient itself, as in PHiSeg's. In a scan of a million voxels the two are the same.

    Args:
        a: tensor of any shape.
        b: tensor of the same shape.
        ddof: what the standard deviations take off n, 0 or 1.

    Returns:
        The correlation, -1 to 1; nan where one of the maps is constant.

    Raises:
        ValueError: where shapes differ, there is no voxel, a value is not finite, or `ddof` is neither 0 nor 1.

    Source: Baumgartner et al. 2019 (PHiSeg, arXiv:1906.04045); `ddof` 1 as in Kahl et al. 2024 (VALUES).
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof: {ddof} was found, 0 or 1 is expected")
    a, b = checked_values(a=a, b=b)
    # Asked here: torchmetrics may find a variance, the rounding of the mean's, in a constant like 0.1.
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return math.nan
    return float(pearson_corrcoef(a, b)) * (len(a) - ddof) / len(a)


class AreaUnderRiskCoverageMetric(CumulativeIterationMetric):
    """`area_under_risk_coverage` over all cases since the last `reset`, or their `excess_aurc`.

    Called in the functions' order: `y_pred` are the risks, `y` the confidences, one of each for a case, (B,) or (B, 1).
    The buffer holds a pair (risk, confidence) for each case, (n, 2).

    Args:
        excess: let `aggregate` return E-AURC instead of AURC.
    """

    def __init__(self, excess: bool = False) -> None:
        super().__init__()
        self.excess = excess

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return the pairs of a batch, (B, 2)."""
        for name, values in (("y_pred", y_pred), ("y", y)):
            found = None if values is None else tuple(values.shape)
            if found not in ((len(y_pred),), (len(y_pred), 1)):
                raise ValueError(
                    f"{name}: shape {found} was found, a number for each case, (B,) or (B, 1), is expected"
                )
        pair = [values.reshape(-1, 1) for values in (y_pred, y) if values is not None]
        checked_values(risk=pair[0], confidence=pair[1])
        return torch.cat(pair, dim=1)

    def aggregate(self) -> torch.Tensor:
        """Rank all cases.

        Returns:
            The area, a scalar tensor.

        Raises:
            ValueError: where there was no case.
        """
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError("cases: none was found, a call with one or more is expected before aggregate")
        area = excess_aurc if self.excess else area_under_risk_coverage
        return torch.tensor(area(data[:, 0], data[:, 1]))


class UncertaintyErrorOverlapMetric(CaseMetric):
    """`uncertainty_error_overlap` of each case, at its own best threshold; nan for a case without an error.

    `y_pred` are the uncertainties (B, ...), `y` the errors of the same shape, boolean or 0 and 1.

    Args:
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the overlap of one case."""
        return uncertainty_error_overlap(y_pred, y)[0]


class NormalizedCrossCorrelationMetric(CaseMetric):
    """`normalized_cross_correlation` of each case's maps, `y_pred` and `y`, (B, ...); nan for a constant one.

    Args:
        ddof: what the standard deviations take off n, 0 or 1.
        reduction: see `CaseMetric`.
        get_not_nans: see `CaseMetric`.
    """

    def __init__(
        self,
        ddof: int = 1,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.ddof = ddof

    def case_value(self, y_pred: torch.Tensor, y: torch.Tensor) -> float:
        """Return the correlation of the maps of one case."""
        return normalized_cross_correlation(y_pred, y, self.ddof)
