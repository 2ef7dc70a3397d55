"""What networks cost: parameters and floating point operations, counted on PyTorch's meta device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating point operations of convolutions and matrix products, two for a multiplication and sum."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def denoiser_flops(
    denoiser: nn.Module, channels: int, classes: int, roi: Any, solver: str = "", solver_steps: int = 0
) -> dict[str, int]:
    """Return what a denoiser needs for one window: ``encode``, once, and ``call``, for each member and step."""
    denoiser = on_meta(denoiser)
    image, state = (torch.zeros(1, n, *roi, device="meta") for n in (channels, classes))
    t = torch.zeros(1, device="meta")
    features: list[torch.Tensor] = []
    encode = count_flops(lambda: features.extend(denoiser.encode(image, state)))
    return {"encode": encode, "call": count_flops(lambda: denoiser.denoise(state, t, features, solver, solver_steps))}


def on_meta(network: nn.Module) -> Any:
    """Return a copy of a network that has shapes only."""
    return copy.deepcopy(network).to("meta").eval()
