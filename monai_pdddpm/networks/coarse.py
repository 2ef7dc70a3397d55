"""An ODE-U-Net that predicts on a coarser grid at high noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .ode_unet import ODEUNet


class CoarseODEUNet(ODEUNet):
    """An ODE-U-Net that predicts on half the grid at late times: a chain from coarse to fine.

    At high noise a state contains little but large regions, for which a coarse mask suffices. Every other voxel of the
    state is used, which keeps the variance of the noise, unlike a mean. Image and pre-segmentation are averaged, and
    the prediction is interpolated. The state stays on the scan's grid, so chain, rules and inferers are those of any
    denoiser. The weights have the shapes of :class:`ODEUNet` and should be trained with this class. TorchScript cannot
    express it.

    Args:
        coarse_from: first time index at which the prediction is coarse.
        kwargs: arguments of :class:`ODEUNet`.

    Raises:
        UserError: as :class:`ODEUNet`.

    Reference: Abu-Hussein and Giryes 2023 (UDPM).
    """

    def __init__(self, *, coarse_from: int = 800, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coarse_from = coarse_from

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the condition's features on the scan's grid, followed by those on the coarser grid."""
        size = self.coarse_size(image.shape[2:])
        smaller = [None if x is None else F.interpolate(x, size, mode="area") for x in (image, presegmentation)]
        return super().encode(image, presegmentation) + super().encode(*smaller)  # type: ignore[arg-type]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the prediction, (B, K, ...), coarse for states with a time index of ``coarse_from`` or later."""
        coarse = (t >= self.coarse_from).expand(len(x_t))
        if coarse.all():
            return self._coarse(x_t, t, features, solver, solver_steps)
        if not coarse.any():
            return super().denoise(x_t, t, features[: len(features) // 2], solver, solver_steps)
        output = torch.empty_like(x_t)
        for chosen in (coarse, ~coarse):  # a training batch, whose times differ
            own = [f[chosen] if len(f) > 1 else f for f in features]
            output[chosen] = self.denoise(x_t[chosen], t[chosen], own, solver, solver_steps).to(output.dtype)
        return output

    def coarse_size(self, size: Sequence[int]) -> list[int]:
        """Return half the size, rounded up to multiples of ``divisor``."""
        return [-(-n // (2 * self.divisor)) * self.divisor for n in size]

    def _coarse(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str, solver_steps: int
    ) -> torch.Tensor:
        size = x_t.shape[2:]
        fewer = F.interpolate(x_t, self.coarse_size(size), mode="nearest-exact")
        output = super().denoise(fewer, t, features[len(features) // 2 :], solver, solver_steps)
        return F.interpolate(output, size, mode="trilinear" if len(size) == 3 else "bilinear")
