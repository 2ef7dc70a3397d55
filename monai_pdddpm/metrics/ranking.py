"""Failure detection: does a confidence sort cases by their risk?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import convert_to_tensor

Values = torch.Tensor | Sequence[float]


def risk_coverage(risk: Values, confidence: Values) -> torch.Tensor:
    """Compute the selective risk: the mean risk of the k most confident cases, for k = 1..n.

    Cases of equal confidence have no order; their mean risk stands for each of them.

    Args:
        risk: (n,), for example 1 - Dice of each case.
        confidence: (n,), higher for a case that should be good; only its order counts.

    Returns:
        (n,) float64, the selective risk at the coverages 1/n, 2/n, ..., 1.

    Raises:
        ValueError: if there is no case, shapes differ, or a value is not finite.

    Reference: Geifman et al. 2019 (arXiv:1805.08206).
    """
    pair = [
        convert_to_tensor(values, dtype=torch.float64, device="cpu", wrap_sequence=True, track_meta=False)
        for values in (risk, confidence)
    ]
    if pair[0].shape != pair[1].shape or not pair[0].numel():
        raise ValueError(
            f"risk, confidence: found shapes {tuple(pair[0].shape)} and {tuple(pair[1].shape)}, expected one shape "
            "with one case or more"
        )
    if not all(bool(values.isfinite().all()) for values in pair):
        raise ValueError("risk, confidence: found values that are not finite; remove these cases")
    risks, confidences = (values.flatten() for values in pair)
    order = risks.argsort()  # equal confidences are summed in one order, however the cases come
    _, group, size = torch.unique(-confidences[order], return_inverse=True, return_counts=True)
    expected = (torch.bincount(group, weights=risks[order]) / size).repeat_interleave(size)
    return expected.cumsum(0) / torch.arange(1, len(risks) + 1)


def area_under_risk_coverage(risk: Values, confidence: Values) -> float:
    """Compute the mean of the selective risk over all coverages (AURC); see `risk_coverage`.

    Args:
        risk: (n,), for example 1 - Dice of each case.
        confidence: (n,), higher for a case that should be good.

    Returns:
        The area in units of the risk; a confidence without information gives the mean risk on average.

    Raises:
        ValueError: see `risk_coverage`.
    """
    return float(risk_coverage(risk, confidence).mean())
