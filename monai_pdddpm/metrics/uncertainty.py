"""Mutual information of class probabilities."""

from __future__ import annotations

import torch

from monai_pdddpm.utils.probabilities import predictive_entropy


def mutual_information(probability_mean: torch.Tensor, mean_member_entropy: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Compute the entropy of the members' mean minus the mean of the members' entropies.

    This is the Jensen-Shannon divergence of the members, 0 if their probabilities are equal.

    Args:
        probability_mean: mean probabilities of the members, K classes along `dim`.
        mean_member_entropy: mean of the members' `predictive_entropy`, nats, without `dim`.
        dim: class axis, 0 for (K, X, Y, Z), 1 for (B, K, X, Y, Z).

    Returns:
        Mutual information in nats, from 0 to ln K; negative rounding errors become 0.
    """
    return (predictive_entropy(probability_mean, dim) - mean_member_entropy).clamp(min=0)
