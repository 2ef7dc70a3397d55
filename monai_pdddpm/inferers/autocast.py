"""Mixed precision around a network call, on the CPU as on the GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from monai_pdddpm.utils.errors import UserError

PRECISIONS = ("float32", "bfloat16", "float16")


def check_precision(precision: str) -> str:
    """Return the precision when it is one.

    Raises:
        UserError: otherwise.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: found {precision!r}, expected {', '.join(PRECISIONS)}; fix --precision")
    return precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the autocast context of a precision.

    MONAI's engines autocast on CUDA only, so our inferers do it themselves.

    Args:
        device: where the tensors are.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (the last on GPUs only).

    Raises:
        UserError: when the precision is another one, or float16 is asked for on a CPU.
    """
    check_precision(precision)
    if precision == "float16" and device.type == "cpu":
        raise UserError("precision: found 'float16' on a CPU, which needs a GPU; give --precision bfloat16 or float32")
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


class AutocastInferer(Inferer):
    """Call any inferer under autocast and return float32, so that losses and metrics never see a short type.

    Args:
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        inferer: what is called, :class:`monai.inferers.SimpleInferer` by default.

    Raises:
        UserError: when the precision is another one.
    """

    def __init__(self, precision: str = "bfloat16", inferer: Inferer | None = None) -> None:
        super().__init__()
        self.precision = check_precision(precision)
        self.inferer = inferer or SimpleInferer()

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return ``inferer(inputs, network)`` as float32."""
        with autocast(inputs.device, self.precision):
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float()
