"""First steps of every command of a bundle."""

from __future__ import annotations

from collections.abc import Sized

import torch

from monai_pdddpm.bundle.renamed_keys import refuse_renamed_keys
from monai_pdddpm.networks.weights import check_device
from monai_pdddpm.utils.allocator import keep_freed_memory

__all__ = ["has_full_batch", "start_run"]


def start_run(device: torch.device | str) -> None:
    """Check keys and device, and let the process keep freed memory.

    Args:
        device: device of the run.

    Raises:
        UserError: if a key of version 0.1 was given, or the device cannot be used.
    """
    refuse_renamed_keys()
    check_device(device)
    keep_freed_memory()


def has_full_batch(cases: Sized, batch_size: int) -> bool:
    """Return whether an epoch has more cases than a batch, so that its incomplete last batch may be dropped."""
    return len(cases) > batch_size
