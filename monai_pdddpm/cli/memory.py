"""The memory for training, and the memory that a training step needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_pdddpm.utils.memory import total_memory

GIB = 2**30
OVERHEAD = 1.38  # gradients, convolution workspaces and loss, relative to the tensors kept for the backward pass
LIBRARIES = 0.55 * GIB  # libraries, or a CUDA context
SOLVER_STEPS = 4  # the most that training draws, see trained_solver_steps


@dataclass(frozen=True)
class MemoryBudget:
    """Memory for training: bytes, a description, and whether it is a GPU's."""

    size: float
    text: str
    gpu: bool


def memory_budget(gib: float | None = None) -> MemoryBudget:
    """Return the given memory in GiB, or 90 % of the GPU's, or half of the computer's if there is no GPU."""
    gpu = torch.cuda.is_available()
    if gib is not None:
        return MemoryBudget(gib * GIB, f"{gib:g} GiB (--memory)", gpu)
    if gpu:
        size = 0.9 * torch.cuda.get_device_properties(0).total_memory
        return MemoryBudget(size, f"{size / GIB:.1f} GiB (90 % of the GPU)", True)
    size = (total_memory() or 8 * GIB) / 2
    return MemoryBudget(size, f"{size / GIB:.1f} GiB (half of this computer, which has no GPU)", False)


def training_memory(
    window: Sequence[int], batch: int, filters: int, channels: int, classes: int, segmenter_parameters: int = 0
) -> float:
    """Return the bytes of a training step of the denoiser, which needs more than the segmenter's own stage.

    The constants are those of an ``ODEUNet`` with channels of 2, 4 and 8 times ``filters``, trained in bfloat16 with
    AdamW, a moving average and up to `SOLVER_STEPS` solver steps; a test compares them with what autograd keeps.

    Args:
        window: voxels along each axis.
        batch: windows per step.
        filters: of the segmenter's first level.
        channels: image channels.
        classes: number of classes with the background.
        segmenter_parameters: parameters of a given segmenter.
    """
    weights = 0.37e6 * filters**2 + 4 * segmenter_parameters
    per_voxel = (15.6 + 25.6 * SOLVER_STEPS) * filters + 2 * channels + 4 * classes
    return LIBRARIES + weights + OVERHEAD * per_voxel * batch * math.prod(window)
