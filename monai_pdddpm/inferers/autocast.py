"""Mixed precision around a network call, on the CPU as on the GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from monai.inferers import Inferer, SimpleInferer


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the autocast context of a precision.

    MONAI's engines autocast on CUDA only, so our inferers do it themselves.

    Args:
        device: where the tensors are.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (the last on GPUs only).

    Raises:
        ValueError: when the precision is another one, or float16 is asked for on a CPU.
    """
    if precision not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"precision: '{precision}' was found, float32, bfloat16 or float16 is expected")
    if precision == "float16" and device.type == "cpu":
        raise ValueError("precision: float16 needs a GPU; use bfloat16 on a CPU")
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


class AutocastInferer(Inferer):
    """Call any inferer under autocast and return float32, so that losses and metrics never see a short type.

    Args:
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        inferer: what is called, :class:`monai.inferers.SimpleInferer` by default.
    """

    def __init__(self, precision: str = "bfloat16", inferer: Inferer | None = None) -> None:
        super().__init__()
        self.precision = precision
        self.inferer = inferer or SimpleInferer()

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        """Return ``inferer(inputs, network)`` as float32."""
        with autocast(inputs.device, self.precision):
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float()
