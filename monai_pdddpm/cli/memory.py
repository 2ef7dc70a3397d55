"""The memory for training, and the memory that a training step needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from monai.networks.nets import SegResNet
from torch import nn

from monai_pdddpm.cli.planner import GIB, LEVELS
from monai_pdddpm.networks import ODEUNet
from monai_pdddpm.utils.memory import total_memory

__all__ = ["MemoryBudget", "MemoryNeed", "memory_budget", "memory_need", "saved_bytes"]

OVERHEAD = 1.5  # gradients, convolution workspaces and loss, relative to the tensors kept for the backward pass
LIBRARIES = 0.5 * GIB  # CUDA context and libraries


@dataclass(frozen=True)
class MemoryBudget:
    """Memory for training: bytes, a description, and whether it is a GPU's."""

    size: float
    text: str
    gpu: bool


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a training step: bytes for any window, and bytes per voxel of the batch."""

    fixed: float
    per_voxel: float

    def bytes(self, window: Sequence[int], batch: int) -> float:
        """Return the bytes of a step with a batch of windows."""
        return self.fixed + self.per_voxel * batch * math.prod(window)


def memory_budget(gib: float | None = None) -> MemoryBudget:
    """Return the given memory, or 90 % of the GPU's, or half of the computer's if there is no GPU.

    Args:
        gib: memory in GiB, or None.
    """
    gpu = torch.cuda.is_available()
    if gib is not None:
        return MemoryBudget(gib * GIB, f"{gib:g} GiB (--memory)", gpu)
    if gpu:
        size = 0.9 * torch.cuda.get_device_properties(0).total_memory
        return MemoryBudget(size, f"{size / GIB:.1f} GiB (90 % of the GPU)", True)
    size = (total_memory() or 8 * GIB) / 2
    return MemoryBudget(size, f"{size / GIB:.1f} GiB (half of this computer, which has no GPU)", False)


def saved_bytes(step: Callable[[], torch.Tensor], weights: Sequence[torch.Tensor] = ()) -> int:
    """Return the bytes that autograd keeps for the backward pass of a computation, each storage counted once.

    Args:
        step: the forward pass, as in training.
        weights: tensors that are not counted.
    """
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    found: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in found.values())


def memory_need(channels: int, classes: int, filters: int, divisor: int, segmenter: nn.Module | None) -> MemoryNeed:
    """Measure forward passes of each training stage on two small windows; return the larger need.

    Args:
        channels: image channels.
        classes: number of classes with the background.
        filters: of the segmenter's first level.
        divisor: key of :data:`monai_pdddpm.cli.planner.LEVELS`.
        segmenter: a trained segmenter, which needs no stage of its own, or None.
    """
    blocks_down, blocks_up, factors = LEVELS[divisor]
    denoiser = ODEUNet(3, channels, classes, classes, [factor * filters for factor in factors], filters)
    first = segmenter or SegResNet(3, filters, channels, classes, blocks_down=blocks_down, blocks_up=blocks_up)

    def denoise(image: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        return denoiser.denoise(one_hot, torch.zeros(1), denoiser.encode(image, one_hot), "", 0)

    def need(trained: nn.Module, forward: Callable[..., torch.Tensor], others: Sequence[nn.Module]) -> MemoryNeed:
        weights, frozen = list(trained.parameters()), [w for other in others for w in other.parameters()]
        voxels, kept = [], []
        for side in (3 * divisor, 5 * divisor):
            inputs = [torch.zeros(1, size, side, side, side) for size in (channels, classes)]
            with torch.autocast("cpu", torch.bfloat16):
                kept.append(saved_bytes(partial(forward, *inputs), [*weights, *frozen]))
            voxels.append(side**3)
        per_voxel = (kept[1] - kept[0]) / (voxels[1] - voxels[0])
        stored = 4 * sum(w.numel() for w in weights) + sum(w.numel() for w in frozen)  # gradients, AdamW's two moments
        return MemoryNeed(4.0 * stored + kept[0] - per_voxel * voxels[0] + LIBRARIES, OVERHEAD * per_voxel)

    needs = [need(denoiser, denoise, [first, denoiser])]  # the moving average is another denoiser
    if segmenter is None:
        needs.append(need(first, lambda image, _: first(image), []))
    return MemoryNeed(max(n.fixed for n in needs), max(n.per_voxel for n in needs))
