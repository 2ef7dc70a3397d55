"""The reverse chain: one prediction, and all steps of it for a batch of members."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monai_pdddpm.schedulers import AncestralRule, DDIMRule, DDPMProcess
from monai_pdddpm.utils.errors import UserError

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Chain:
    """What a reverse chain is made of, but for the network.

    Args:
        time_steps: descending indices, not empty where the chain is run.
        rule: reverse step on a pair of times.
        process: forward process that the network was trained with.
        solver: the ODE blocks' solver, the network's own when empty.
        solver_steps: its steps at each time, the network's own where 0, or everywhere when empty.
    """

    time_steps: Sequence[int]
    rule: DDIMRule | AncestralRule
    process: DDPMProcess
    solver: str = ""
    solver_steps: Sequence[int] = ()

    @property
    def draws(self) -> int:
        """Noise fields that a member needs: one for the start and, with a stochastic rule, one for each step."""
        return len(self.time_steps) if self.rule.stochastic else 1

    def predict(self, network: Any, x_t: torch.Tensor, i: int, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the x_0 predicted from the state at the i-th time, both (B, K, ...), the features' batch B or 1.

        Where the device has not enough memory for all members, the halves follow each other.

        Raises:
            UserError: when there is not enough for one.
        """
        t = self.time_steps[i]
        try:
            time_index = torch.full((1,), t, device=x_t.device)
            solver_steps = self.solver_steps[i] if self.solver_steps else 0
            output = network.denoise(x_t, time_index, features, self.solver, solver_steps)
            return network.x0(output, x_t, t)
        except torch.OutOfMemoryError as error:
            if len(x_t) == 1:
                raise UserError(
                    f"roi_size: found {list(x_t.shape[2:])}, for which the memory of {x_t.device} does not suffice, "
                    "even for one member; give a smaller --roi_size, or --device cpu"
                ) from error
        logger.warning(
            "the memory of %s does not suffice for %d members at once, taking half of them", x_t.device, len(x_t)
        )
        if x_t.device.type == "cuda":
            torch.cuda.empty_cache()
        halves = x_t.split((len(x_t) + 1) // 2)
        return torch.cat([self.predict(network, half, i, features) for half in halves])

    def advance(
        self, network: Any, x_t: torch.Tensor, x_0: torch.Tensor, x_pre: torch.Tensor, i: int, noise: Sequence[Any]
    ) -> torch.Tensor:
        """Return the state at the time after the i-th, by the reverse rule, (B, K, ...)."""
        abar_t, abar_prev = network.abar[self.time_steps[i]], network.abar[self.time_steps[i + 1]]
        step_noise = noise[i + 1] if len(noise) > 1 else None
        return self.process.step(self.rule, x_t, x_0, x_pre, abar_t, abar_prev, step_noise)


def reverse_chain(
    network: Any,
    presegmentation: torch.Tensor,
    features: list[torch.Tensor],
    noise: Sequence[torch.Tensor],
    chain: Chain,
) -> torch.Tensor:
    """Go from the noised presegmentation back to segmentations.

    Args:
        network: :class:`monai_pdddpm.networks.PDDDPM`, or what offers the same.
        presegmentation: (B, K, ...) or (1, K, ...), probabilities or one-hot.
        features: of the condition, of batch size B or 1.
        noise: the start's field, (B, K, ...), and for a stochastic rule one more per reverse step.
        chain: times, rule and process.

    Returns:
        (B, K, ...) float32 probabilities, the prediction at the last time step.
    """
    x_t = network.start(presegmentation, noise[0], chain.time_steps[0])
    x_pre = network.state(presegmentation)
    x_0 = chain.predict(network, x_t, 0, features)
    for i in range(1, len(chain.time_steps)):
        x_t = chain.advance(network, x_t, x_0, x_pre, i - 1, noise)
        x_0 = chain.predict(network, x_t, i, features)
    return network.probabilities(x_0)
