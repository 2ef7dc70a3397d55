"""The reverse chain of a batch of members, halved if the device runs out of memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from monai_pdddpm.networks import Pair
from monai_pdddpm.schedulers import Chain
from monai_pdddpm.utils.errors import UserError

logger = logging.getLogger(__name__)


def reverse_chain(
    network: Pair,
    presegmentation: torch.Tensor,
    features: Sequence[torch.Tensor],
    noise: Sequence[torch.Tensor],
    chain: Chain,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run ``network.reverse`` for a batch of members, in halves if the device runs out of memory.

    Args:
        network: segmenter and denoiser.
        presegmentation: (B, K, ...) or (1, K, ...), probabilities or one-hot.
        features: features of the condition, of batch size B or 1.
        noise: field of the start, (B, K, ...), and for a stochastic rule one more per reverse step.
        chain: time steps, rule and process.

    Returns:
        Probabilities at the first and at the last time step, each (B, K, ...) float32.

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
