"""Extra inputs of a network that not every batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch, PrepareBatchExtraInput


class PrepareCase(PrepareBatch):
    """MONAI's ``PrepareBatchExtraInput`` that leaves out what a batch does not have.

    Args:
        extra_keys: argument of the inferer -> key of the batch.
    """

    def __init__(self, extra_keys: Mapping[str, str]) -> None:
        self.extra_keys = dict(extra_keys)

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return image, label, and the extra arguments."""
        found = {name: key for name, key in self.extra_keys.items() if key in batchdata}
        return PrepareBatchExtraInput(found)(batchdata, device, non_blocking, **kwargs)
