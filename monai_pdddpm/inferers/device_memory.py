"""What fits into the memory of a device: a case's volumes, its members in work, and the batch of a chain."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from monai_pdddpm.networks import Pair
from monai_pdddpm.schedulers import Chain
from monai_pdddpm.utils.errors import UserError

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
    """Return the device for a case's volumes: the CPU if their bytes are more than half of the device's free memory."""
    if device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    logger.warning(
        "the volumes of this case take %d MiB, more than half of %s; keeping them on the CPU", size // MIB, device
    )
    return torch.device("cpu")


def reverse_chain(
    network: Pair,
    presegmentation: torch.Tensor,
    features: Sequence[torch.Tensor],
    noise: Sequence[torch.Tensor],
    chain: Chain,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``network.reverse(...)`` for a batch of members, in halves if the device runs out of memory.

    Raises:
        UserError: if the memory does not suffice for one member.
    """
    members = len(noise[0])
    try:
        return network.reverse(presegmentation, list(features), list(noise), chain)
    except torch.OutOfMemoryError as error:
        if members == 1:
            raise UserError(
                f"roi_size: found {list(noise[0].shape[2:])}, expected a window for which the memory of "
                f"{noise[0].device} suffices; give a smaller --roi_size, or --device cpu"
            ) from error
    logger.warning("out of memory on %s with %d members at once; running half of them", noise[0].device, members)
    if noise[0].device.type == "cuda":
        torch.cuda.empty_cache()
    middle = (members + 1) // 2
    halves = []
    for half in (slice(0, middle), slice(middle, members)):
        parts = [_rows(feature, half) for feature in features], [field[half] for field in noise]
        halves.append(reverse_chain(network, _rows(presegmentation, half), *parts, chain))
    return torch.cat([first for first, _ in halves]), torch.cat([last for _, last in halves])


def _rows(x: torch.Tensor, rows: slice) -> torch.Tensor:
    """Return some members' rows of a tensor whose batch size is theirs, or 1 for all of them."""
    return x[rows] if len(x) > 1 else x
