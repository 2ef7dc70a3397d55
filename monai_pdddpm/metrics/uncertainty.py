"""What a voxel's probabilities say, and how unsure they are: the package's one definition of entropy."""

from __future__ import annotations

import torch


def likeliest_class(probability: torch.Tensor, dim: int, keepdim: bool = False) -> torch.Tensor:
    """Return the class of the largest probability, the first of several.

    Args:
        probability: of K classes along `dim`, or anything that grows with them.
        dim: the class axis, 0 for (K, X, Y, Z), 1 for (B, K, X, Y, Z).
        keepdim: keep that axis, of length 1.

    Returns:
        int64, without `dim` unless it is kept.
    """
    # what argmax gives, which is far slower on a CPU where the classes do not lie side by side (a test times both)
    return torch.max(probability, dim=dim, keepdim=keepdim)[1]


def predictive_entropy(probability: torch.Tensor, dim: int) -> torch.Tensor:
    """Entropy of each voxel's class distribution, H(p) = -sum_k p_k ln p_k.

    Args:
        probability: floating point tensor with the K classes along `dim`, values in [0, 1] that sum to one.
            Values a rounding error outside [0, 1] are clamped; half precision is computed in float32.
        dim: the class axis, which the result loses: 0 for (K, X, Y, Z), 1 for (B, K, X, Y, Z).

    Returns:
        Entropy in nats, from 0 (certain) to ln K (all classes alike); a class of probability 0 adds 0.
    """
    if probability.dtype in (torch.float16, torch.bfloat16):
        probability = probability.float()
    return torch.special.entr(probability.clamp(0, 1)).sum(dim)


def mutual_information(probability_mean: torch.Tensor, mean_member_entropy: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Entropy of the mean over the members minus the mean of the members' entropies.

    The Jensen-Shannon divergence of the members: zero where they give the same probabilities, however flat these are.

    Args:
        probability_mean: mean over the members of their probabilities, K classes along `dim`.
        mean_member_entropy: mean over the members of `predictive_entropy`, nats, shaped as `probability_mean`
            without `dim`.
        dim: the class axis of `probability_mean`: 0 for (K, X, Y, Z), 1 for (B, K, X, Y, Z).

    Returns:
        Mutual information in nats, from 0 to ln K; differences below zero can only be rounding and become 0.

    Raises:
        ValueError: where `mean_member_entropy` does not have the shape of the mean's entropy.
    """
    entropy = predictive_entropy(probability_mean, dim)
    if entropy.shape != mean_member_entropy.shape:
        raise ValueError(
            f"the members' mean entropy has shape {tuple(mean_member_entropy.shape)}, the entropy of the mean over "
            f"axis {dim} has {tuple(entropy.shape)}; name the class axis of the mean probability with dim"
        )
    return (entropy - mean_member_entropy).clamp(min=0)
