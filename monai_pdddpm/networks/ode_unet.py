"""ODE-U-Net: the denoiser, a U-Net of second-order ODE blocks, with a condition encoder that does not see t."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.layers.factories import Conv
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn
from torch.nn import functional as F

from monai_pdddpm.utils.checks import check_choice, check_range
from monai_pdddpm.utils.errors import UserError

from .ode_block import SecondOrderODEBlock
from .solvers import FIXED_STEP_SOLVERS, evaluations


class ConditionEncoder(nn.Module):
    """Features of the image and of the pre-segmentation for every resolution of the denoiser.

    The arguments are those of :class:`ODEUNet`; ``in_channels`` counts image and pre-segmentation together.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, stem_channels: int, stride: int, channels: Sequence[int], groups: int
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        norm = ("GROUP", {"num_groups": groups})
        self.stem = nn.Sequential(
            conv(in_channels, stem_channels, kernel_size=3, padding=1), ResBlock(spatial_dims, stem_channels, norm)
        )
        self.levels, self.to_denoiser = nn.ModuleList(), nn.ModuleList()
        previous, step = stem_channels, stride
        for width in channels:
            down = conv(previous, width, kernel_size=3, stride=step, padding=1)
            self.levels.append(nn.Sequential(down, ResBlock(spatial_dims, width, norm)))
            self.to_denoiser.append(conv(width, width, kernel_size=1))
            previous, step = width, 2

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features: first at full resolution (B, S, ...), then one per level (B, C_i, ...)."""
        h = self.stem(x)
        features = [h]
        for level, project in zip(self.levels, self.to_denoiser):  # noqa: B905  (TorchScript has no strict)
            h = level(h)
            features.append(project(h))
        return features


class ODEUNet(nn.Module):
    """The denoiser g(x_t, t, I): predicts x_0, the noise or v from a noisy label map.

    The state enters by a strided convolution, so the ODE blocks work at ``1 / stride`` of the resolution. The head
    combines it with the condition's features at full resolution. :meth:`encode` computes the features of the image
    once; :meth:`denoise` adds them at each level, by broadcasting if one image serves many members.

    Args:
        spatial_dims: 2 or 3.
        image_channels: channels of the image.
        num_classes: K, channels of x_t and of the output, the background included.
        presegmentation_channels: channels of the pre-segmentation in the condition, K or 0.
        channels: channels of each level, finest first; multiples of ``groups``.
        stem_channels: channels at full resolution; a multiple of ``groups``.
        stride: step from full resolution to the first level, 1 or 2.
        embedding_channels: width of the time embedding, even.
        groups: groups of the norms.
        solver: ``"euler"``, ``"midpoint"`` or ``"rk4"``.
        solver_steps: equal steps of a fixed-step solver in each block.
        upsampling: ``"nearest"``, or ``"linear"``, which takes a fifth of a call's time on a CPU.

    Raises:
        UserError: if a width is not a multiple of ``groups``, or stride, solver, steps or upsampling are not allowed.
    """

    def __init__(
        self,
        spatial_dims: int,
        image_channels: int,
        num_classes: int,
        presegmentation_channels: int = 0,
        channels: Sequence[int] = (32, 64, 128),
        stem_channels: int = 16,
        stride: int = 2,
        embedding_channels: int = 128,
        groups: int = 8,
        solver: str = "midpoint",
        solver_steps: int = 1,
        upsampling: str = "nearest",
    ) -> None:
        super().__init__()
        if any(width % groups for width in (stem_channels, *channels)):
            raise UserError(
                f"channels: found {stem_channels} and {tuple(channels)}, expected multiples of groups={groups}; fix "
                "network_def"
            )
        check_range("stride", stride, 1, 2)
        check_choice("solver", solver, FIXED_STEP_SOLVERS)
        check_choice("upsampling", upsampling, ("nearest", "linear"))
        check_range("solver_steps", solver_steps, 1)
        if evaluations(solver, solver_steps) == 0:
            raise UserError(
                f"solver_steps: found {solver_steps} with solver='{solver}', which then ignores the diffusion time, "
                "expected 2 or more; raise it, or use midpoint"
            )
        conv = Conv[Conv.CONV, spatial_dims]
        self.image_channels = image_channels
        self.num_classes = num_classes
        self.presegmentation_channels = presegmentation_channels
        self.embedding_channels = embedding_channels
        self.solver = solver
        self.solver_steps = solver_steps
        self.divisor = stride * 2 ** (len(channels) - 1)
        linear = "trilinear" if spatial_dims == 3 else "bilinear"
        self.up_mode = linear if upsampling == "linear" else "nearest"
        self.stride = stride

        self.encoder = ConditionEncoder(
            spatial_dims, image_channels + presegmentation_channels, stem_channels, stride, channels, groups
        )
        self.embed = nn.Sequential(
            nn.Linear(embedding_channels, embedding_channels),
            nn.SiLU(),
            nn.Linear(embedding_channels, embedding_channels),
            nn.SiLU(),
        )

        def block(width: int) -> SecondOrderODEBlock:
            return SecondOrderODEBlock(spatial_dims, width, embedding_channels, groups)

        self.inlet = conv(num_classes, channels[0], kernel_size=3, stride=stride, padding=1)
        self.down_blocks = nn.ModuleList([block(width) for width in channels[:-1]])
        self.downs = nn.ModuleList([conv(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(channels)])
        self.bottom = block(channels[-1])
        self.ups = nn.ModuleList([conv(b, a, kernel_size=1) for a, b in reversed(list(pairwise(channels)))])
        self.up_blocks = nn.ModuleList([block(width) for width in reversed(channels[:-1])])
        self.to_head = conv(channels[0], stem_channels, kernel_size=1)
        self.head = nn.Sequential(
            nn.GroupNorm(groups, stem_channels),
            nn.SiLU(),
            conv(stem_channels, stem_channels, kernel_size=3, padding=1),
            nn.SiLU(),
            conv(stem_channels, num_classes, kernel_size=1),
        )

    @torch.jit.export
    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the features of the condition, which serve every time step and every member.

        Args:
            image: (B, C, ...), each axis divisible by ``divisor``.
            presegmentation: (B, K, ...), required if the network has pre-segmentation channels.

        Raises:
            ValueError: if the pre-segmentation is required and missing.
        """
        if self.presegmentation_channels:
            if presegmentation is None:
                raise ValueError("presegmentation: found None, expected one for this denoiser; pass it to encode")
            image = torch.cat([image, presegmentation.to(image.dtype)], dim=1)
        return self.encoder(image)

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the prediction for a noisy label map.

        Args:
            x_t: (B, K, ...).
            t: time index, (B,) or (1,), any real or integer type.
            features: result of :meth:`encode`, of batch size B or 1.
            solver: replaces the network's own unless empty.
            solver_steps: replace the network's own unless 0.

        Returns:
            (B, K, ...), logits of x_0, or the quantity that the network was trained to predict.
        """
        solver = solver if solver != "" else self.solver
        steps = solver_steps if solver_steps > 0 else self.solver_steps
        e = self.embed(get_timestep_embedding(t, self.embedding_channels))
        z = self.inlet(x_t).to(x_t.dtype) + features[1]
        skips: list[torch.Tensor] = []
        for i, (block, down) in enumerate(zip(self.down_blocks, self.downs)):  # noqa: B905
            z = block(z, e, solver, steps)
            skips.append(z)
            z = down(z).to(x_t.dtype) + features[i + 2]
        z = self.bottom(z, e, solver, steps)
        for i, (up, block) in enumerate(zip(self.ups, self.up_blocks)):  # noqa: B905
            z = F.interpolate(up(z).to(x_t.dtype), scale_factor=2.0, mode=self.up_mode)
            z = block(z + skips[len(skips) - 1 - i], e, solver, steps)
        z = self.to_head(z)
        if self.stride > 1:
            z = F.interpolate(z, scale_factor=float(self.stride), mode=self.up_mode)
        return self.head(z + features[0])

    def forward(
        self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor, presegmentation: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return ``denoise(x_t, t, encode(image, presegmentation))``."""
        return self.denoise(x_t, t, self.encode(image, presegmentation), "", 0)
