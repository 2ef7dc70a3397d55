"""Seconds of the stages of a run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Sum the seconds of named stages; on a GPU its work is waited for.

    Args:
        device: device whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the ``with`` block to a stage, also if the block raises."""
        begin = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
