"""Networks, chains and inferers that the method is compared with."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_pdddpm.inferers import EnsembleConfig, EnsembleRunInfo
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.inferers.file_ensemble import output_of
from monai_pdddpm.inferers.run_info import Stopwatch
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import Chain, decode_probabilities, uniform_steps

NOISE_STEPS = 1000


class UniformSegmenter(nn.Module):
    """Return equal logits for all classes, for chains without a pre-segmentation."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_zeros(len(image), self.num_classes, *image.shape[2:])


class FromNoise(PDDDPM):
    """A pair whose chain starts from noise alone; with a scheduler, its steps are those of MONAI's own loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scheduler: DDPMScheduler | None = None

    def start(self, presegmentation: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        return noise

    def reverse(
        self, presegmentation: torch.Tensor, features: list[torch.Tensor], noise: list[torch.Tensor], chain: Chain
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.scheduler is None:
            member = super().reverse(presegmentation, features, noise, chain)[1]
        else:
            x = noise[0]
            for t in chain.time_steps:
                output = self.denoise(x, torch.full((1,), t, device=x.device), features)
                x = self.scheduler.step(output.float(), t, x)[0]
            member = decode_probabilities(x, self.low, self.high)
        return member, member  # these methods average their members to the answer


class Concatenated(nn.Module):
    """Use an ordinary network with an argument `timesteps` as the denoiser: it sees the image beside the state."""

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 4) -> None:
        super().__init__()
        self.network, self.num_classes, self.divisor = network, num_classes, divisor

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        return [image]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        x = torch.cat([x_t, features[0].expand(len(x_t), *features[0].shape[1:])], dim=1)
        return self.network(x, timesteps=t.expand(len(x_t)))


def diffusion_unet(spatial_dims: int, image_channels: int, num_classes: int) -> PDDDPM:
    """Build ordinary conditional diffusion with MONAI's network."""
    network = DiffusionModelUNet(
        spatial_dims=spatial_dims,
        in_channels=num_classes + image_channels,
        out_channels=num_classes,
        channels=(32, 64, 128),
        num_res_blocks=(2, 2, 2),
        attention_levels=(False, False, True),
    )
    denoiser = Concatenated(network, num_classes)
    return FromNoise(UniformSegmenter(num_classes), denoiser, prediction="eps", schedule="linear_beta")


def vanilla_chain() -> tuple[Chain, DDPMScheduler]:
    """Return DDPM's chain of 1000 steps, and MONAI's scheduler that makes its steps."""
    scheduler = DDPMScheduler(num_train_timesteps=NOISE_STEPS)
    steps = scheduler.timesteps.tolist()
    return Chain(steps, [0] * len(steps)), scheduler


def fast_chain(steps: int = 10) -> tuple[Chain, None]:
    """Return Fast-DDPM's chain: a short uniform list, DDIM with eta 0."""
    return Chain(uniform_steps(NOISE_STEPS, steps), [0] * steps), None


def first_steps(chain: Chain, steps: int) -> Chain:
    """Return the first steps of a chain."""
    return chain._replace(time_steps=chain.time_steps[:steps], solver_steps=chain.solver_steps[:steps])


def all_flips(dims: int) -> list[tuple[int, ...]]:
    """Return the subsets of the axes."""
    return [axes for n in range(dims + 1) for axes in itertools.combinations(range(dims), n)]


def segmenter_answers(
    networks: Sequence[nn.Module],
    image: torch.Tensor,
    config: EnsembleConfig,
    flips: Sequence[Sequence[int]] = ((),),
) -> Iterator[torch.Tensor]:
    """Run each segmenter once for every set of flipped axes, in MONAI's windows; yield probabilities (K, ...)."""
    inferer = SlidingWindowInferer(config.roi_size, overlap=config.overlap, mode="gaussian")
    for network, axes in itertools.product(networks, flips):
        turned = [axis + 2 for axis in axes]
        with torch.no_grad(), autocast(image.device, config.precision):
            output: Any = inferer(image.flip(turned), network.segment)  # type: ignore[arg-type]
        yield output.flip(turned)[0].float()


class SegmenterPasses(Inferer):
    """Return the answers of segmenters, each called once for every set of flipped axes, as members."""

    def __init__(self, config: EnsembleConfig, flips: Sequence[Sequence[int]] = ((),)) -> None:
        super().__init__()
        self.config, self.flips = config, flips

    def __call__(self, inputs: MetaTensor, network: nn.ModuleList) -> MetaTensor:  # type: ignore[override]
        """Return what `PDDDPMInferer` does for one image, with the members."""
        watch = Stopwatch(inputs.device)
        with watch("segment"):
            drawn = list(segmenter_answers(list(network), inputs.as_tensor(), self.config, self.flips))
        with watch("statistics"):
            wrapped = MetaTensor(output_of(torch.stack(drawn))[None], meta=dict(inputs.meta))
        windows = [
            len(range(0, max(n - r, 0), max(1, int(r * (1 - self.config.overlap))))) + 1
            for n, r in zip(inputs.shape[2:], self.config.roi_size, strict=True)
        ]
        run = EnsembleRunInfo(
            config=replace(self.config, members=len(drawn)),
            frames=1,
            windows_run=0,
            windows_skipped=math.prod(windows),
            denoiser_evaluations=0,
            processes=1,
            seconds=dict(watch.seconds),
        )
        wrapped.meta["ensemble_run"] = [run]
        return wrapped


def with_dropout(network: PDDDPM) -> PDDDPM:
    """Keep the dropout of a segmenter active (MC dropout, Gal and Ghahramani 2016)."""
    for module in network.segmenter.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.train()
    return network


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating point operations of convolutions and matrix products, two for a multiplication and sum."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def on_meta(network: nn.Module) -> Any:
    """Return a copy of a network that has shapes only."""
    return copy.deepcopy(network).to("meta").eval()


def denoiser_flops(
    denoiser: nn.Module, channels: int, classes: int, roi: Sequence[int], solver: str = "", solver_steps: int = 0
) -> dict[str, int]:
    """Return the operations for one window: `encode`, once, and `call`, for each member and step."""
    network, features = on_meta(denoiser), []
    image, state = (torch.zeros(1, n, *roi, device="meta") for n in (channels, classes))
    t = torch.zeros(1, device="meta")
    encode = count_flops(lambda: features.extend(network.encode(image, state)))
    return {"encode": encode, "call": count_flops(lambda: network.denoise(state, t, features, solver, solver_steps))}
