"""Where the volumes of a case lie, and how many of its members are in work at once."""

from __future__ import annotations

import logging

import torch

from .config import EnsembleConfig

logger = logging.getLogger(__name__)

CPU_MEMORY = 256 * 2**20  # bytes; a batch of members in a region of some dozen windows
MIB = 2**20


def members_at_once(config: EnsembleConfig, size: int, device: torch.device) -> int:
    """Return how many members to draw in one batch: 1 or more, and at most ``config.member_batch``.

    Args:
        config: its ``memory`` is that of the members in work: MiB, or 0 for 256 MiB on a CPU and an eighth of the free
            memory on a GPU.
        size: bytes of the volumes of one member.
        device: device of the windows.
    """
    memory = config.memory * MIB
    if not memory:
        memory = torch.cuda.mem_get_info(device)[0] // 8 if device.type == "cuda" else CPU_MEMORY
    return max(1, min(config.member_batch, memory // size))


def volume_device(size: int, device: torch.device) -> torch.device:
    """Return the device for a case's volumes: the CPU if they take more than half of the device's free memory.

    Args:
        size: bytes of the volumes.
        device: device of the windows.
    """
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    logger.warning(
        "the volumes of this case take %d MiB, more than half of %s; keeping them on the CPU", size // MIB, device
    )
    return torch.device("cpu")
