"""Statistics of the members, kept as running sums so that memory does not grow with their number."""

from __future__ import annotations

import torch

from monai_pdddpm.metrics.uncertainty import predictive_entropy


class EnsembleStatistics:
    """Weighted mean and variance of the members' probabilities, and the mean of their entropies.

    Mean and sum of squares are updated by West's method (1979), which loses no digits where members agree.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None
        self.entropy: torch.Tensor | None = None

    def add(self, probabilities: torch.Tensor, weight: float = 1.0) -> None:
        """Take in one member.

        Args:
            probabilities: (K, X, Y[, Z]), summing to 1 over K.
            weight: of this member, above 0.
        """
        p = probabilities.float()
        entropy = predictive_entropy(p, dim=0)
        if self.mean is None or self.squares is None or self.entropy is None:
            self.mean, self.squares, self.entropy = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(entropy)
        self.weight += weight
        share = weight / self.weight
        delta = p - self.mean
        self.mean += share * delta
        self.squares += weight * delta * (p - self.mean)
        self.entropy += share * (entropy - self.entropy)

    def merge(self, other: EnsembleStatistics) -> None:
        """Take in the members of another one, by the formula of Chan, Golub and LeVeque (1979)."""
        if other.mean is None or other.squares is None or other.entropy is None:
            return
        if self.mean is None or self.squares is None or self.entropy is None:
            self.weight, self.mean, self.squares, self.entropy = other.weight, other.mean, other.squares, other.entropy
            return
        own = self.weight
        self.weight += other.weight
        share = other.weight / self.weight
        delta = other.mean - self.mean
        self.mean = self.mean + share * delta
        self.squares = self.squares + other.squares + own * share * delta**2
        self.entropy = self.entropy + share * (other.entropy - self.entropy)

    def packed(self) -> torch.Tensor:
        """Return mean, squares and entropy as one tensor, (2K+1, ...), for another process.

        Raises:
            ValueError: when no member was added.
        """
        if self.mean is None or self.squares is None or self.entropy is None:
            raise ValueError("members: none was added, at least one is needed")
        return torch.cat([self.mean, self.squares, self.entropy[None]])

    @classmethod
    def unpacked(cls, packed: torch.Tensor, weight: float) -> EnsembleStatistics:
        """Return what was :meth:`packed`, (2K+1, ...), with its weight."""
        statistics, classes = cls(), len(packed) // 2
        statistics.weight = weight
        statistics.mean, statistics.squares, entropy = packed.split([classes, classes, 1])
        statistics.entropy = entropy[0]
        return statistics

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the members say together.

        Returns:
            mean (K, ...); mean of the members' entropies in nats, (1, ...); variance over the members of the
            foreground classes (K-1, ...), the population's: 0 for one member.

        Raises:
            ValueError: when no member was added.
        """
        if self.mean is None or self.squares is None or self.entropy is None:
            raise ValueError("members: none was added, at least one is needed")
        return self.mean, self.entropy[None], (self.squares / self.weight).clamp_(min=0)[1:]
