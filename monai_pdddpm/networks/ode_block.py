"""A block that moves its features along a second-order ordinary differential equation."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn

from .solvers import tableau


class Acceleration(nn.Module):
    """``a(z, v, e)``: norm, conv of z plus a pointwise map of v, norm, scale and shift by e, conv.

    The time embedding e enters by scale and shift *after* the norm, which would cancel it before. The last convolution
    starts at zero, so a new block is ``z + v(0)``.
    """

    def __init__(self, spatial_dims: int, channels: int, groups: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.norm_in = nn.GroupNorm(groups, channels)
        self.conv_in = conv(channels, channels, kernel_size=3, padding=1)
        self.from_velocity = conv(channels, channels, kernel_size=1, bias=False)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = conv(channels, channels, kernel_size=3, padding=1)
        self.act = nn.SiLU()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, z: torch.Tensor, v: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return the acceleration, (B, C, ...), for z and v of that shape, scale and shift of (B or 1, C, 1, ...)."""
        h = self.conv_in(self.act(self.norm_in(z))) + self.from_velocity(v)
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        return self.conv_out(self.act(h))


class InitialVelocity(nn.Module):
    """``v(0) = g(z(0))``: norm, activation, pointwise convolution."""

    def __init__(self, spatial_dims: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.act = nn.SiLU()
        self.conv = Convolution(spatial_dims, channels, channels, kernel_size=1, conv_only=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the velocity at t = 0, of z's shape."""
        return self.conv(self.act(self.norm(z)))


class SecondOrderODEBlock(nn.Module):
    """Solve ``dz/dt = v, dv/dt = a(z, v, e), v(0) = g(z(0))`` from t = 0 to 1 and return z(1).

    The state is float32 or wider, whatever autocast does to the convolutions.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of z.
        embedding_channels: width of the time embedding e.
        groups: groups of the norms.

    Reference: Norcliffe et al. 2020 (SONODE); Cheng et al. 2024 (Continuous U-Net); Calvo-Ordonez et al. 2024
    (The Missing U).
    """

    def __init__(self, spatial_dims: int, channels: int, embedding_channels: int, groups: int) -> None:
        super().__init__()
        self.acceleration = Acceleration(spatial_dims, channels, groups)
        self.velocity = InitialVelocity(spatial_dims, channels, groups)
        self.film = nn.Linear(embedding_channels, 2 * channels)

    def forward(self, z: torch.Tensor, embedding: torch.Tensor, solver: str, steps: int) -> torch.Tensor:
        """Return z(1) after ``steps`` equal steps of an explicit Runge-Kutta method.

        Args:
            z: z(0), (B, C, ...).
            embedding: e, (B or 1, E).
            solver: ``euler``, ``midpoint`` or ``rk4``.
            steps: number of equal steps, 1 or more.

        Raises:
            ValueError: if the solver is another one.
        """
        scale, shift = self.film(embedding).chunk(2, dim=1)
        for _ in range(z.dim() - 2):
            scale, shift = scale.unsqueeze(-1), shift.unsqueeze(-1)
        a, b = tableau(solver)
        h = 1.0 / steps
        v = self.velocity(z).to(z.dtype)
        for step in range(steps):
            dz: list[torch.Tensor] = []
            dv: list[torch.Tensor] = []
            for i in range(len(b)):
                v_i = v
                for j in range(i):
                    if a[i][j] != 0.0:
                        v_i = torch.add(v_i, dv[j], alpha=h * a[i][j])
                dz.append(v_i)
                if step + 1 < steps or i + 1 < len(b):  # the very last one would change v(1) only, which is not used
                    z_i = z
                    for j in range(i):
                        if a[i][j] != 0.0:
                            z_i = torch.add(z_i, dz[j], alpha=h * a[i][j])
                    dv.append(self.acceleration(z_i, v_i, scale, shift).to(z.dtype))
            for j in range(len(b)):
                if b[j] != 0.0:
                    z = torch.add(z, dz[j], alpha=h * b[j])
                    if j < len(dv):
                        v = torch.add(v, dv[j], alpha=h * b[j])
        return z
