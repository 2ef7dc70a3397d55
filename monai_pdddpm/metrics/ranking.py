"""Failure detection: does a confidence sort cases by their risk?"""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
