"""The probabilities that several networks wrote, as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from .output import EnsembleOutput
from .statistics import EnsembleStatistics


@dataclass(frozen=True)
class FileEnsembleConfig:
    """The folders of the probabilities, one for each member."""

    folders: tuple[str, ...]

    def as_report(self) -> dict[str, Any]:
        """Return the settings as JSON values; there is no chain and no pre-segmentation in the mean."""
        files = {"members": len(self.folders), "probabilities": list(self.folders)}
        return files | {"time_steps": [], "presegmentation_weight": 0.0}


class FileEnsembleInferer(Inferer):
    """Return the statistics of given probabilities in the layout of :class:`EnsembleOutput`.

    The answer is their mean, and the first network takes the place of the pre-segmentation.

    Args:
        num_classes: K.
        folders: of the probabilities, one for each member.
    """

    def __init__(self, num_classes: int, folders: Sequence[str]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = FileEnsembleConfig(tuple(folders))

    def __call__(  # type: ignore[override]
        self, inputs: MetaTensor, network: object, *args: Any, presegmentation: torch.Tensor, **kwargs: Any
    ) -> MetaTensor:
        """Return (B, K (4 + members), X, Y, Z) float32 with the metadata of the image, (B, C, X, Y, Z).

        ``presegmentation`` holds the probabilities of all members, (B, members x K, X, Y, Z).
        """
        cases = [output_of(case.unflatten(0, (-1, self.num_classes))) for case in presegmentation]
        output = MetaTensor(torch.stack(cases), meta=dict(inputs.meta))
        output.is_batch = inputs.is_batch
        return output


def output_of(members: torch.Tensor) -> torch.Tensor:
    """Return the output that holds given members, (N, K, X, Y[, Z]): their mean is the answer, the first the preseg."""
    statistics = EnsembleStatistics()
    for member in members:
        statistics.add(member, member)
    parts = statistics.result() | {"preseg": members[0], "members": members.flatten(0, 1)}
    return EnsembleOutput(members.shape[1], len(members)).join(parts)
