"""A denoiser that ``torch.compile`` has made faster, where it can."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

COMPILE_MODES = ("default", "reduce-overhead")


class CompiledDenoiser(nn.Module):
    """Another denoiser with its ``denoise`` compiled on the first call, anew for each size of its input.

    Where that fails, for want of a C++ compiler or of Triton for example, one line says so and the denoiser goes on as
    it was.

    Args:
        denoiser: as :class:`monai_pdddpm.networks.PDDDPM` takes it.
        mode: ``"default"``, or ``"reduce-overhead"``, with which torch records CUDA graphs on a GPU.

    Raises:
        ValueError: when the mode is another one.
    """

    def __init__(self, denoiser: nn.Module, mode: str = "default") -> None:
        super().__init__()
        if mode not in COMPILE_MODES:
            raise ValueError(f"compile: '{mode}' was found, one of {', '.join(COMPILE_MODES)} is expected")
        self.denoiser = denoiser
        self._compiled: Any = torch.compile(denoiser.denoise, mode=mode, dynamic=False)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Return the denoiser's own attribute, such as ``divisor``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("denoiser"), name)

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the condition's features; being run once a window, this part is left as it is."""
        return self.denoiser.encode(image, presegmentation)  # type: ignore[operator]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the denoiser's output, (B, K, ...), to rounding."""
        if self._compiled is not None:
            try:
                return self._compiled(x_t, t, features, solver, solver_steps)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler's errors are of many kinds
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                logger.warning("compile: the denoiser runs uncompiled (%s)", reason)
                self._compiled = None
        return self.denoiser.denoise(x_t, t, features, solver, solver_steps)  # type: ignore[operator]
