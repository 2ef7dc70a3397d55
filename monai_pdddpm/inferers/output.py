"""The channel layout of the tensor that the inferer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from monai_pdddpm.utils.errors import UserError


@dataclass(frozen=True)
class EnsembleOutput:
    """Names and slices of the channels of an inferer's output.

    A frame has the answer's probabilities (K channels), mean of the members' probabilities (K), mean of the members'
    entropies (1), variance over the members of the foreground classes (K - 1), pre-segmentation (K) and, if wanted, the
    members' probabilities (members x K). The answer is the average of the first predictions, mixed with the
    pre-segmentation. The frames of a time series follow one another.

    Args:
        num_classes: K, the background included, 2 or more.
        members: number of members in the tensor, 0 if they are left out.

    Example:
        >>> EnsembleOutput(2, members=3).slices()["members"]
        slice(8, 14, None)
    """

    num_classes: int
    members: int = 0

    @property
    def channels(self) -> int:
        """Return the number of channels of one frame, K (4 + members)."""
        return self.num_classes * (4 + self.members)

    def slices(self) -> dict[str, slice]:
        """Return the channels of each part of one frame, in order; members only if there are any."""
        k = self.num_classes
        parts = {
            "pred": slice(0, k),
            "member_mean": slice(k, 2 * k),
            "member_entropy": slice(2 * k, 2 * k + 1),
            "variance": slice(2 * k + 1, 3 * k),
            "preseg": slice(3 * k, 4 * k),
        }
        return parts | ({"members": slice(4 * k, self.channels)} if self.members else {})

    def split(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Split an output, (T x channels, X, Y[, Z]), into the parts of :meth:`slices`.

        Returns:
            By name, views of (T x C, X, Y[, Z]) with the C channels of the part, frame after frame.

        Raises:
            UserError: if the number of channels is no multiple of :attr:`channels`.
        """
        if not len(tensor) or len(tensor) % self.channels:
            raise UserError(
                f"pred: found {len(tensor)} channels, expected {self.channels} for each frame ({self.num_classes} "
                f"classes, {self.members} members); fix num_classes or 'labels', or use PDDDPMInferer"
            )
        by_frame = tensor.unflatten(0, (-1, self.channels))
        return {name: by_frame[:, part].flatten(0, 1) for name, part in self.slices().items()}

    def join(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the output whose parts :meth:`split` returns, (T x channels, X, Y[, Z])."""
        frames = parts["member_entropy"].shape[0]
        by_frame = [parts[name].unflatten(0, (frames, -1)) for name in self.slices()]
        return torch.cat(by_frame, dim=1).flatten(0, 1)
