"""Mixed precision around a network call, on the CPU as on the GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError

PRECISIONS = ("float32", "bfloat16", "float16")


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the autocast context of a precision.

    MONAI's engines autocast on CUDA only, therefore the inferers of this package do it.

    Raises:
        UserError: if the precision is unknown, or float16 on a CPU.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float16" and device.type == "cpu":
        raise UserError("precision: found 'float16' on a CPU, expected a GPU; give --precision bfloat16 or float32")
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


class AutocastInferer(Inferer):
    """Call any inferer under autocast and return float32, which losses and metrics need.

    Args:
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        inferer: inferer to call, :class:`monai.inferers.SimpleInferer` by default.

    Raises:
        UserError: if the precision is another one.
    """

    def __init__(self, precision: str = "bfloat16", inferer: Inferer | None = None) -> None:
        super().__init__()
        check_choice("precision", precision, PRECISIONS)
        self.precision = precision
        self.inferer = inferer or SimpleInferer()

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return ``inferer(inputs, network)`` as float32."""
        with autocast(inputs.device, self.precision):
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float()
