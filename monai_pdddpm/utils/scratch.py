"""Tensors that are larger than what one wants to hold in memory."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import torch

from monai_pdddpm.utils.errors import UserError

IN_MEMORY = 256 * 2**20  # bytes


def scratch_tensor(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return an uninitialized tensor; a large one on the CPU is mapped to a temporary file that disappears with it.

    Raises:
        UserError: if the disk for temporary files is full.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if device.type != "cpu" or size <= IN_MEMORY:
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        with tempfile.TemporaryFile() as file:
            if sys.platform != "win32" and sys.platform != "darwin":  # a full disk then raises here, not at a write
                os.posix_fallocate(file.fileno(), 0, size)
            mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=size)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{tempfile.tempdir or 'TMPDIR'}: found no room for {size // 2**20} MiB of members ({reason}); set TMPDIR "
            "to a larger disk, lower --members, or leave the members out with --inferer#return_members False"
        ) from error
    return torch.from_numpy(mapped).view(dtype).view(*shape)
