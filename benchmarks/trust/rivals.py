"""Networks that the method is compared with and that the product does not need."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from monai_pdddpm.networks import ODEUNet, SecondOrderODEBlock
from monai_pdddpm.networks.ode_block import Acceleration
from monai_pdddpm.networks.solvers import evaluations


class Refiner(nn.Module):
    """A plain network given image and presegmentation, in the place of a denoiser: it looks at neither x_t nor t.

    Trained and asked through the same pipeline with a single step, it is a refiner without diffusion.

    Args:
        network: (B, image channels + K, ...) -> (B, K, ...) logits.
        num_classes: K.
        divisor: what its input's size must be a multiple of.
    """

    def __init__(self, network: nn.Module, num_classes: int, divisor: int = 8) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.divisor = divisor

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the refined logits as the only feature."""
        return [self.network(torch.cat([image, presegmentation], dim=1))]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the refined logits, whatever x_t and t are."""
        return features[0].expand(len(x_t), *features[0].shape[1:])


class UntiedODEUNet(ODEUNet):
    """An ODE-U-Net whose blocks have an acceleration of their own for each evaluation: residual blocks, no equation.

    Args:
        kwargs: as :class:`monai_pdddpm.networks.ODEUNet`, with a fixed-step solver.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        count = evaluations(self.solver, self.solver_steps)
        for block in self.modules():
            if isinstance(block, SecondOrderODEBlock):
                block.acceleration = _InTurns([deepcopy(block.acceleration) for _ in range(count)])


class SeparableODEUNet(ODEUNet):
    """An ODE-U-Net whose accelerations convolve each channel by itself and mix them pointwise (MobileNet).

    Args:
        kwargs: as :class:`monai_pdddpm.networks.ODEUNet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.modules():
            if isinstance(block, Acceleration):
                block.conv_in, block.conv_out = _separable(block.conv_in), _separable(block.conv_out)
                nn.init.zeros_(block.conv_out[1].weight)  # a new block starts as z + v(0)
                nn.init.zeros_(block.conv_out[1].bias)


class SubPixelODEUNet(ODEUNet):
    """An ODE-U-Net whose head works on the first level's grid and writes all voxels of a cell at once.

    The last layer is the sub-pixel convolution of Shi et al. 2016; no layer but the inlet sees single voxels' states.

    Args:
        head_channels: channels of the head, a multiple of 8.
        kwargs: as :class:`monai_pdddpm.networks.ODEUNet`, for 3D.
    """

    def __init__(self, head_channels: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        stride, stem, first = self.stride, self.to_head.out_channels, self.to_head.in_channels
        self.cells = nn.Conv3d(stem, head_channels, kernel_size=stride, stride=stride)
        self.to_head = nn.Conv3d(first, head_channels, kernel_size=1)
        self.head = nn.Sequential(
            nn.GroupNorm(8, head_channels),
            nn.SiLU(),
            nn.Conv3d(head_channels, head_channels, kernel_size=3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose3d(head_channels, self.num_classes, kernel_size=stride, stride=stride),
        )
        self.stride = 1  # from the head's input to the first level's grid

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the condition's features, those of the head on the first level's grid too."""
        head, *levels = super().encode(image, presegmentation)
        return [self.cells(head), *levels]


def _separable(conv: nn.Module) -> nn.Sequential:
    width, kind = conv.in_channels, type(conv)
    return nn.Sequential(kind(width, width, 3, padding=1, groups=width), kind(width, width, 1))


class _InTurns(nn.Module):
    """Modules that are called one after the other, and then from the first again."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._next = 0

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        part = self.parts[self._next]
        self._next = (self._next + 1) % len(self.parts)
        return part(*args)
