"""Running statistics of the members, whose memory does not grow with their number."""

from __future__ import annotations

import torch

from monai_pdddpm.utils.probabilities import predictive_entropy


class EnsembleStatistics:
    """Mean of the first predictions; mean and variance of the members' probabilities, and the mean of their entropies.

    Mean and sum of squares are updated by West's method, which loses no digits if the members agree.

    Reference: West 1979, Updating mean and variance estimates: an improved method.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first: torch.Tensor | None = None
        self.mean: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None
        self.entropy: torch.Tensor | None = None

    def add(self, first: torch.Tensor, member: torch.Tensor) -> None:
        """Add one member.

        Args:
            first: probabilities of its first prediction, (K, X, Y[, Z]), summing to 1 over K.
            member: probabilities at the end of its chain, of the same shape.
        """
        p = member.float()
        entropy = predictive_entropy(p, dim=0)
        if self.first is None or self.mean is None or self.squares is None or self.entropy is None:
            self.first, self.mean, self.squares = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
            self.entropy = torch.zeros_like(entropy)
        self.count += 1
        delta = p - self.mean
        self.first += (first - self.first) / self.count
        self.mean += delta / self.count
        self.squares += delta * (p - self.mean)
        self.entropy += (entropy - self.entropy) / self.count

    def merge(self, other: EnsembleStatistics) -> None:
        """Add the members of other statistics.

        Reference: Chan, Golub and LeVeque 1979.
        """
        if other.first is None or other.mean is None or other.squares is None or other.entropy is None:
            return
        if self.first is None or self.mean is None or self.squares is None or self.entropy is None:
            self.count, self.first = other.count, other.first
            self.mean, self.squares, self.entropy = other.mean, other.squares, other.entropy
            return
        own = self.count
        self.count += other.count
        share = other.count / self.count
        delta = other.mean - self.mean
        self.first = self.first + share * (other.first - self.first)
        self.mean = self.mean + share * delta
        self.squares = self.squares + other.squares + own * share * delta**2
        self.entropy = self.entropy + share * (other.entropy - self.entropy)

    def packed(self) -> torch.Tensor:
        """Return the sums as one tensor, (3K+1, ...), for another process.

        Raises:
            ValueError: if no member was added.
        """
        return torch.cat([*self._sums()[:3], self._sums()[3][None]])

    @classmethod
    def unpacked(cls, packed: torch.Tensor, count: int) -> EnsembleStatistics:
        """Return the statistics that were :meth:`packed`, (3K+1, ...), of this number of members."""
        statistics, classes = cls(), len(packed) // 3
        statistics.count = count
        statistics.first, statistics.mean, statistics.squares, entropy = packed.split([classes, classes, classes, 1])
        statistics.entropy = entropy[0]
        return statistics

    def result(self) -> dict[str, torch.Tensor]:
        """Return the statistics of all members.

        Returns:
            ``pred``, the mean of the first predictions, (K, ...); ``member_mean``, the mean of the members, (K, ...);
            ``member_entropy``, the mean of the members' entropies in nats, (1, ...); ``variance`` over the members of
            the foreground classes, (K-1, ...), with the number of members as denominator: 0 for one member.

        Raises:
            ValueError: if no member was added.
        """
        first, mean, squares, entropy = self._sums()
        variance = (squares / self.count).clamp_(min=0)[1:]
        return {"pred": first, "member_mean": mean, "member_entropy": entropy[None], "variance": variance}

    def _sums(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.first is None or self.mean is None or self.squares is None or self.entropy is None:
            raise ValueError("members: found none, expected at least one; add a member first")
        return self.first, self.mean, self.squares, self.entropy
