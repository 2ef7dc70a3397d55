"""The training loop: a moving average of the weights, a warm-up, half a cosine; an interrupted training resumes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import DeepSupervisionLoss
from torch import nn

from benchmarks.trust.batches import Batches
from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.networks import PDDDPM

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Length and rates of a training with AdamW.

    It ends after `batches` or `seconds`; only batches make its length reproducible. Each of the equal `cycles` has a
    warm-up and a cosine, and light augmentation from the fraction `light_from` on. `average` is the decay of the moving
    average.
    """

    batches: int = 10**9
    seconds: float = math.inf
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    average: float = 0.998
    cycles: int = 1
    light_from: float = 0.85

    def rate(self, elapsed: float) -> float:
        """Return the learning rate after this fraction of the training, 0 to 1."""
        within = elapsed * self.cycles % 1
        return self.learning_rate * min(1, 0.05 + 40 * within) * (1 + math.cos(math.pi * within)) / 2


class Average:
    """Exponential moving average of a network's parameters."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).requires_grad_(False), decay, 0

    def update(self, network: nn.Module) -> None:
        """Move towards the network's parameters; fast during the first batches."""
        self.updates += 1
        weight = 1 - min(self.decay, self.updates / (self.updates + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)


def train_segmenter(network: nn.Module, loss: Loss, batches: Batches, budget: Budget, state: Path) -> list[nn.Module]:
    """Train a segmenter; outputs at several depths, (B, heads, K, ...), get the loss of deep supervision."""
    deep = DeepSupervisionLoss(loss)

    def loss_at(strength: float) -> torch.Tensor:
        image, maps = batches.draw(budget.batch_size, strength)
        with torch.autocast(batches.device.type, torch.bfloat16):
            logits = network(image)
        heads = list(logits.float().unbind(1)) if logits.dim() > image.dim() else [logits.float()]
        return deep(heads, maps[0])

    return fit(network, loss_at, budget, state)


def train_denoiser(
    pair: PDDDPM, call: DenoisingInferer, loss: Loss, batches: Batches, budget: Budget, state: Path
) -> list[nn.Module]:
    """Train the denoiser of a pair with the package's training call."""

    def loss_at(strength: float) -> torch.Tensor:
        image, maps = batches.draw(budget.batch_size, strength)
        return loss(call(image, pair, maps[0], maps[1] if len(maps) > 1 else None), maps[0])

    pair.train()
    return fit(pair.denoiser, loss_at, budget, state)


def fit(network: nn.Module, loss_at: Callable[[float], torch.Tensor], budget: Budget, state: Path) -> list[nn.Module]:
    """Train a network in place; return its moving average at the end of each cycle.

    `loss_at` draws a batch and returns its loss, for a strength of the augmentation. An interrupted training resumes
    from the file `state`, which is written every minute and removed at the end.
    """
    average = Average(network, budget.average)
    optimizer = torch.optim.AdamW(network.parameters(), lr=budget.learning_rate, weight_decay=budget.weight_decay)
    done, used, ends = 0, 0.0, []
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        done, used, average.updates = kept["done"], kept["seconds"], kept["done"]
        network.load_state_dict(kept["network"])
        average.network.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        ends = [copy.deepcopy(average.network) for _ in kept["ends"]]
        for end, weights in zip(ends, kept["ends"], strict=True):
            end.load_state_dict(weights)
        torch.manual_seed(torch.initial_seed() + done)
    begin = saved = time.monotonic()
    network.train()
    while True:
        now = time.monotonic()
        elapsed = max(done / budget.batches, (used + now - begin) / budget.seconds)
        if len(ends) < min(budget.cycles, int(elapsed * budget.cycles + 1e-9)):
            ends.append(copy.deepcopy(average.network).eval())
        if elapsed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(elapsed)
        optimizer.zero_grad()
        loss_at(1.0 if elapsed * budget.cycles % 1 < budget.light_from else 0.3).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update(network)
        done += 1
        if now - saved > 60:
            parts = {"network": network, "average": average.network, "optimizer": optimizer}
            kept = {name: part.state_dict() for name, part in parts.items()}
            kept |= {"done": done, "seconds": used + now - begin, "ends": [end.state_dict() for end in ends]}
            torch.save(kept, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            saved = now
    state.unlink(missing_ok=True)
    return ends
