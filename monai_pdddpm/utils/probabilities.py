"""Functions of class probabilities that networks, metrics and transforms share."""

from __future__ import annotations

import torch


def likeliest_class(probability: torch.Tensor, dim: int, keepdim: bool = False) -> torch.Tensor:
    """Return the class with the largest probability along `dim`, the first of equal ones, as int64."""
    # argmax gives the same and is far slower on a CPU if the classes are not the last axis.
    return torch.max(probability, dim=dim, keepdim=keepdim)[1]


def predictive_entropy(probability: torch.Tensor, dim: int) -> torch.Tensor:
    """Compute the entropy of each voxel's class distribution, H(p) = -sum_k p_k ln p_k.

    Args:
        probability: K classes along `dim`, values in [0, 1] that sum to one. Rounding errors outside [0, 1] are
            clamped; half precision is computed in float32.
        dim: class axis.

    Returns:
        Entropy in nats, from 0 to ln K, without `dim`.
    """
    if probability.dtype in (torch.float16, torch.bfloat16):
        probability = probability.float()
    return torch.special.entr(probability.clamp(0, 1)).sum(dim)


def mutual_information(probability_mean: torch.Tensor, mean_member_entropy: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of the members' mean minus the mean of the members' entropies.

    This is the Jensen-Shannon divergence of the members, 0 if their probabilities are equal.

    Args:
        probability_mean: mean probabilities of the members, (K, ...).
        mean_member_entropy: mean of the members' `predictive_entropy`, nats, (...).

    Returns:
        Mutual information in nats, from 0 to ln K; negative rounding errors become 0.
    """
    return (predictive_entropy(probability_mean, dim=0) - mean_member_entropy).clamp(min=0)


def log_probability(p: torch.Tensor) -> torch.Tensor:
    """Return ln p, of at least ln 1e-12: a probability of 0 has no logarithm to temper."""
    return p.clamp(min=1e-12).log()


def tempered(p: torch.Tensor, temperature: float, dim: int = 0) -> torch.Tensor:
    """Return p^(1/T), normalized over `dim`: softer above T = 1, sharper below, with the same argmax.

    Args:
        p: probabilities that sum to 1 over `dim`.
        temperature: T, above 0.
        dim: class axis.

    Reference: Guo et al. 2017 (arXiv:1706.04599), eq. 9, with log-probabilities as logits.
    """
    if temperature == 1:
        return p
    return (log_probability(p) / temperature).softmax(dim=dim)
