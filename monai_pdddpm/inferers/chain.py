"""The reverse chain in one window, for a batch of members."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_pdddpm.schedulers import DDPMProcess


class Stopwatch:
    """Seconds per stage, and counts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    def __call__(self, stage: str) -> Stopwatch:
        """Name the stage that the following ``with`` block belongs to."""
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._begin = self._now()

    def __exit__(self, *_) -> None:
        self.seconds[self._stage] += self._now() - self._begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def reverse_chain(
    network: Any,
    proposal: torch.Tensor,
    features: list[torch.Tensor],
    noise: Sequence[torch.Tensor],
    time_steps: Sequence[int],
    rule: Callable[..., torch.Tensor],
    process: DDPMProcess,
    solver: str = "",
    solver_steps: int = 0,
) -> torch.Tensor:
    """Go from the noised proposal back to segmentations.

    Args:
        network: :class:`monai_pdddpm.networks.PDDDPM`, or what offers the same.
        proposal: (B, K, ...) or (1, K, ...), probabilities or one-hot.
        features: of the condition, of batch size B or 1.
        noise: the start's field, (B, K, ...), and for a stochastic rule one more per reverse step.
        time_steps: descending indices, not empty.
        rule: reverse step on a pair of times.
        process: forward process that the network was trained with.
        solver: the ODE blocks' solver, the network's own when empty.
        solver_steps: its steps, the network's own when 0.

    Returns:
        (B, K, ...) float32 probabilities, the prediction at the last time step.
    """
    x_t = network.start(proposal, noise[0], time_steps[0])
    x_pre = network.state(proposal)
    x_0 = x_t
    for i, t in enumerate(time_steps):
        output = network.denoise(x_t, torch.full((1,), t, device=x_t.device), features, solver, solver_steps)
        x_0 = network.x0(output, x_t, t)
        if i + 1 < len(time_steps):
            step_noise = noise[i + 1] if len(noise) > 1 else None
            abar_t, abar_prev = network.abar[t], network.abar[time_steps[i + 1]]
            x_t = process.step(rule, x_t, x_0, x_pre, abar_t, abar_prev, step_noise)
    return network.probabilities(x_0)
