"""How much memory there is, and how much a training step of a network needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from monai_pdddpm.utils.memory import total_memory

__all__ = ["Need", "Room", "memory_at_hand", "need_of", "saved_bytes"]

GIB = 2**30
# gradients, convolution workspaces and the loss come on top of what is kept for the backward pass
OVERHEAD = 1.5
CONTEXT = 0.5 * GIB  # CUDA's own, and the libraries


@dataclass(frozen=True)
class Room:
    """The memory to train in: bytes; what it is, in words; and whether it is a GPU's."""

    size: float
    words: str
    gpu: bool


@dataclass(frozen=True)
class Need:
    """What a training needs: bytes whatever the window, and bytes for each voxel of a batch."""

    fixed: float
    per_voxel: float

    def of(self, window: Sequence[int], batch: int) -> float:
        """Return the bytes of a step."""
        return self.fixed + self.per_voxel * batch * math.prod(window)


def memory_at_hand(gib: float | None = None) -> Room:
    """Return the memory to plan for: what is asked for, else 90 % of the GPU's, else half of the computer's.

    Args:
        gib: in GiB, or None.
    """
    gpu = torch.cuda.is_available()
    if gib is not None:
        return Room(gib * GIB, f"{gib:g} GiB as asked for", gpu)
    if gpu:
        size = 0.9 * torch.cuda.get_device_properties(0).total_memory
        return Room(size, f"{size / GIB:.1f} GiB, 90 % of this GPU's", True)
    size = computer_memory() / 2
    return Room(size, f"{size / GIB:.1f} GiB, half of this computer's, which has no GPU", False)


def computer_memory() -> float:
    """Return the bytes of this computer's memory; 8 GiB where the system does not report it."""
    return float(total_memory() or 8 * GIB)


def saved_bytes(step: Callable[[], torch.Tensor], weights: Sequence[torch.Tensor] = ()) -> int:
    """Return how many bytes autograd keeps for the backward pass of a computation, each storage counted once.

    Args:
        step: the forward pass, as in training.
        weights: tensors that are there anyway.
    """
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    found: dict[int, int] = {}
    kept = []  # so that no storage is freed and its address used again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in found:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = step()
    del result
    return sum(found.values())


def need_of(
    trained: nn.Module, step: Callable[[], torch.Tensor], voxels: int, others: Sequence[nn.Module] = ()
) -> Need:
    """Measure what training a network needs, on a small batch on the CPU.

    Args:
        trained: the network; its weights, their gradients and AdamW's two moments are kept in float32.
        step: forward pass of the batch.
        voxels: of the batch.
        others: networks that are there without being trained, such as a moving average.
    """
    size = sum(weight.numel() for weight in trained.parameters())
    size_others = sum(weight.numel() for other in others for weight in other.parameters())
    weights = [weight for module in (trained, *others) for weight in module.parameters()]
    per_voxel = saved_bytes(step, weights) / voxels
    return Need(4.0 * (4 * size + size_others) + CONTEXT, OVERHEAD * per_voxel)
