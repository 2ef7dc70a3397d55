"""The first stage of a pair whose pre-segmentations come from disk."""

from __future__ import annotations

import torch
from torch import nn

from monai_pdddpm.utils.errors import UserError


class NoSegmenter(nn.Module):
    """A segmenter without weights, which cannot segment."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Raise an error.

        Raises:
            UserError: always.
        """
        raise UserError(
            "presegmentation_dir: found none, expected the folder of the pre-segmentations, because this bundle has no "
            "segmenter; give --presegmentation_dir"
        )
