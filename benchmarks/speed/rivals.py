"""Networks, chains and ways of asking that the product is measured against, and does not need itself."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn

from benchmarks.trust import measuring
from monai_pdddpm.inferers.chain import Chain
from monai_pdddpm.inferers.statistics import EnsembleStatistics
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM

NOISE_STEPS = 1000


class Silent(nn.Module):
    """In the place of a segmenter, for chains that have none: all classes are alike everywhere."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_zeros(len(image), self.num_classes, *image.shape[2:])


class FromNoise(PDDDPM):
    """A pair whose chain starts from noise alone."""

    def start(self, presegmentation: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        return noise


class Concatenated(nn.Module):
    """A network that sees state and image side by side and looks at the time: ordinary conditional diffusion.

    Args:
        network: ``(x, timesteps) -> (B, K, ...)``.
        num_classes: K.
        divisor: what the input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 4) -> None:
        super().__init__()
        self.network, self.num_classes, self.divisor = network, num_classes, divisor

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the image as it is: nothing can be computed ahead."""
        return [image]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return what the network predicts."""
        x = torch.cat([x_t, features[0].expand(len(x_t), *features[0].shape[1:])], dim=1)
        return self.network(x, timesteps=t.expand(len(x_t)))


class Plain(nn.Module):
    """A plain network in the place of the denoiser: it sees state, image, presegmentation, and the time as a channel.

    Args:
        network: ``x -> (B, K, ...)`` of ``2K + C + 1`` channels.
        num_classes: K.
        divisor: what the input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 8) -> None:
        super().__init__()
        self.network, self.num_classes, self.divisor = network, num_classes, divisor

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return image and presegmentation as they are: nothing can be computed ahead."""
        return [torch.cat([image, presegmentation], dim=1)]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return what the network predicts."""
        condition = features[0].expand(len(x_t), *features[0].shape[1:])
        time_channel = (t / NOISE_STEPS).view(-1, *[1] * (x_t.dim() - 1)).expand_as(x_t[:, :1])
        return self.network(torch.cat([x_t, condition, time_channel], dim=1))


@dataclass(frozen=True)
class SchedulerChain(Chain):
    """A chain of one of MONAI's schedulers, called as MONAI's own loop calls it.

    Args:
        scheduler: offers ``step(output, t, x_t)``.
    """

    scheduler: Any = None

    def predict(self, network: Any, x_t: torch.Tensor, i: int, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the state after the i-th step, the sample after the last."""
        t = self.time_steps[i]
        output = network.denoise(x_t, torch.full((1,), t, device=x_t.device), features)
        return self.scheduler.step(output.float(), t, x_t)[0]

    def advance(self, network: Any, x_t: Any, x_0: torch.Tensor, x_pre: Any, i: int, noise: Any) -> torch.Tensor:
        """Return what the scheduler gave."""
        return x_0


class FirstSteps:
    """The first steps of a chain, with all the noise that the whole of it draws.

    Args:
        chain: the whole.
        steps: how many to run.
    """

    def __init__(self, chain: Any, steps: int) -> None:
        self.chain = chain
        self.time_steps = list(chain.time_steps[:steps])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chain, name)


class Passes(Inferer):
    """Ask segmenters, each once for every flip, and put their answers together as members.

    Args:
        parser: of the bundle.
        flips: sets of axes.
    """

    def __init__(self, parser: ConfigParser, flips: Any = ((),)) -> None:
        super().__init__()
        self.parser, self.flips = parser, flips

    def __call__(self, inputs: torch.Tensor, network: nn.ModuleList) -> torch.Tensor:  # type: ignore[override]
        """Return what :class:`PDDDPMInferer` does for one image, (1, 3K + N K, ...)."""
        begin = _now(inputs.device)
        _, drawn = measuring.passes(self.parser, list(network), self.flips)(inputs.as_tensor())
        asked = _now(inputs.device)
        statistics = EnsembleStatistics()
        for member in drawn:
            statistics.add(member)
        output = torch.cat([*statistics.result(), drawn[0], drawn.flatten(0, 1)])[None]
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        seconds = {"segment": asked - begin, "statistics": _now(inputs.device) - asked}
        roi, size = self.parser["roi_size"], inputs.shape[2:]
        plan = WindowPlan([max(n, r) for n, r in zip(size, roi, strict=True)], roi, self.parser["overlap"])
        ran = {"members": len(drawn), "windows_run": 0, "windows_skipped": len(plan), "denoiser_evaluations": 0}
        wrapped.meta["inference"] = [json.dumps(ran | {"seconds": seconds})]
        return wrapped


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
