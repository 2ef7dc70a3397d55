"""Running statistics of the members, whose memory does not grow with their number."""

from __future__ import annotations

import torch

from monai_pdddpm.utils.probabilities import predictive_entropy


class EnsembleStatistics:
    """Mean of the first predictions; mean and variance of the members' probabilities, and the mean of their entropies.

    Mean and sum of squares are updated by West's method, which loses no digits if the members agree.

    Args:
        sums: first predictions (K channels), means (K), squares (K) and entropies (1) of some members, (3K+1, ...)
            float32; None for no members.
        count: their number.

    Reference: West 1979, Updating mean and variance estimates: an improved method.
    """

    def __init__(self, sums: torch.Tensor | None = None, count: int = 0) -> None:
        self.sums, self.count = sums, count

    def add(self, first: torch.Tensor, member: torch.Tensor) -> None:
        """Add one member.

        Args:
            first: probabilities of its first prediction, (K, X, Y[, Z]) float32, summing to 1 over K.
            member: probabilities at the end of its chain, of the same shape and type.
        """
        if self.sums is None:
            self.sums = member.new_zeros(3 * len(member) + 1, *member.shape[1:])
        mean_first, mean, squares, entropy = _parts(self.sums)
        self.count += 1
        delta = member - mean
        mean_first += (first - mean_first) / self.count
        mean += delta / self.count
        squares += delta * (member - mean)
        entropy += (predictive_entropy(member, dim=0) - entropy) / self.count

    def merge(self, other: EnsembleStatistics) -> None:
        """Add the members of other statistics.

        Reference: Chan, Golub and LeVeque 1979.
        """
        if self.sums is None or other.sums is None:
            self.sums, self.count = (self.sums, self.count) if other.sums is None else (other.sums, other.count)
            return
        own = self.count
        self.count += other.count
        share = other.count / self.count
        first, mean, squares, entropy = _parts(self.sums)
        other_first, other_mean, other_squares, other_entropy = _parts(other.sums.to(self.sums.device))
        delta = other_mean - mean
        first += share * (other_first - first)
        mean += share * delta
        squares += other_squares
        squares += own * share * delta**2
        entropy += share * (other_entropy - entropy)

    def result(self) -> dict[str, torch.Tensor]:
        """Return the statistics of all members.

        Returns:
            ``pred``, the mean of the first predictions, (K, ...); ``member_mean``, the mean of the members, (K, ...);
            ``member_entropy``, the mean of the members' entropies in nats, (1, ...); ``variance`` over the members of
            the foreground classes, (K-1, ...), with the number of members as denominator: 0 for one member.

        Raises:
            ValueError: if no member was added.
        """
        if self.sums is None:
            raise ValueError("members: found none, expected at least one; add a member first")
        first, mean, squares, entropy = _parts(self.sums)
        variance = squares[1:] / self.count
        return {"pred": first, "member_mean": mean, "member_entropy": entropy, "variance": variance}


def _parts(sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return views of first predictions, means, squares and entropies."""
    classes = len(sums) // 3
    return sums.split([classes, classes, classes, 1])
