"""Running statistics of the members, whose memory does not grow with their number."""

from __future__ import annotations

import torch

from monai_pdddpm.utils.probabilities import predictive_entropy


class EnsembleStatistics:
    """Weighted mean and variance of the members' probabilities, and the mean of their entropies.

    Mean and sum of squares are updated by West's method, which loses no digits if the members agree.

    Reference: West 1979, Updating mean and variance estimates: an improved method.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None
        self.entropy: torch.Tensor | None = None

    def add(self, probabilities: torch.Tensor, weight: float = 1.0) -> None:
        """Add one member.

        Args:
            probabilities: (K, X, Y[, Z]), summing to 1 over K.
            weight: weight of the member, above 0.
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
        """Add the members of other statistics.

        Reference: Chan, Golub and LeVeque 1979.
        """
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
            ValueError: if no member was added.
        """
        if self.mean is None or self.squares is None or self.entropy is None:
            raise ValueError("members: found none, expected at least one; add a member first")
        return torch.cat([self.mean, self.squares, self.entropy[None]])

    @classmethod
    def unpacked(cls, packed: torch.Tensor, weight: float) -> EnsembleStatistics:
        """Return the statistics that were :meth:`packed`, (2K+1, ...), and their weight."""
        statistics, classes = cls(), len(packed) // 2
        statistics.weight = weight
        statistics.mean, statistics.squares, entropy = packed.split([classes, classes, 1])
        statistics.entropy = entropy[0]
        return statistics

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the statistics of all members.

        Returns:
            mean (K, ...); mean of the members' entropies in nats, (1, ...); variance over the members of the
            foreground classes (K-1, ...), the population's: 0 for one member.

        Raises:
            ValueError: if no member was added.
        """
        if self.mean is None or self.squares is None or self.entropy is None:
            raise ValueError("members: found none, expected at least one; add a member first")
        return self.mean, self.entropy[None], (self.squares / self.weight).clamp_(min=0)[1:]
