"""Record of one run of the inferer on one case: settings, counts and seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .config import EnsembleConfig


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


@dataclass(frozen=True, kw_only=True)
class EnsembleRunInfo:
    """The settings, counts and seconds of one case.

    Args:
        config: settings of the inferer.
        frames: number of frames, 1 without a time axis.
        windows_run: windows in which the denoiser ran, all frames together.
        windows_skipped: windows of the even grid minus ``windows_run``.
        denoiser_evaluations: denoiser calls, counted per member and window.
        processes: number of processes that drew members.
        seconds: seconds of each stage.
    """

    # MONAI's decollate_batch raises for unknown objects, but returns the ``item()`` of whatever has no dimension
    ndim: ClassVar[int] = 0

    config: EnsembleConfig
    frames: int
    windows_run: int
    windows_skipped: int
    denoiser_evaluations: int
    processes: int
    seconds: Mapping[str, float]

    def item(self) -> EnsembleRunInfo:
        """Return this object, see ``ndim``."""
        return self

    def as_report(self) -> dict[str, Any]:
        """Return settings and counts as JSON values, with the seconds under ``"seconds"``."""
        counts = {
            "frames": self.frames,
            "windows_run": self.windows_run,
            "windows_skipped": self.windows_skipped,
            "denoiser_evaluations": self.denoiser_evaluations,
        }
        if self.processes > 1:
            counts["processes"] = self.processes
        return self.config.as_report() | counts | {"seconds": dict(self.seconds)}

    def meanings(self) -> dict[str, str]:
        """Return what ``answer`` and ``members`` of this run are, each as one phrase for the report."""
        steps, weight = self.config.time_steps, self.config.presegmentation_weight
        if not steps:
            return {"answer": "the pre-segmentation", "members": "copies of the pre-segmentation"}
        mixed = f", pre-segmentation weight {weight:g}" if weight else ""
        return {
            "answer": f"mean of the first predictions at time index {steps[0]}{mixed}",
            "members": f"ends of the chains at time index {steps[-1]}",
        }
