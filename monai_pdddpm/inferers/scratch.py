"""Room for results that are larger than what one wants to hold in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch

from monai_pdddpm.utils.errors import UserError

IN_MEMORY = 256 * 2**20  # bytes


def scratch_tensor(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor of any values; on the CPU, a large one lies in a temporary file that goes when the tensor does.

    Args:
        shape: of the tensor.
        device: where it is wanted.
        dtype: of its elements.

    Raises:
        UserError: when the disk for temporary files has not the room.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if device.type != "cpu" or size <= IN_MEMORY:
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process at the first write
                os.posix_fallocate(file.fileno(), 0, size)
            mapped = np.memmap(file, dtype=np.uint8, mode="r+" if hasattr(os, "posix_fallocate") else "w+", shape=size)
    except OSError as error:
        raise UserError(
            f"{_temporary_folder()}: no room for {size // 2**20} MiB of members ({error.strerror or error}); give "
            "fewer --members, leave them out with --write_members False, or set TMPDIR to a larger disk"
        ) from error
    return torch.from_numpy(mapped).view(dtype).view(*shape)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # there is none that can be written to
        return os.environ.get("TMPDIR", "temporary folder")
