"""Where the presegmentation leaves something to decide: near its borders, and where the segmenter is in doubt."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def active_voxels(probabilities: torch.Tensor, uncertainty_threshold: float, dilation: int) -> torch.Tensor:
    """Return where the denoiser is worth asking.

    That is within ``dilation`` voxels (along each axis) of a voxel whose likeliest class differs from a neighbour's (26
    of them in 3D), or whose other classes have more than ``uncertainty_threshold`` together.

    Args:
        probabilities: the segmenter's, (K, X, Y[, Z]).
        uncertainty_threshold: 0 to 1.
        dilation: 0 or more.

    Returns:
        (X, Y[, Z]), boolean.
    """
    highest, label = probabilities.max(dim=0)
    label = label.to(highest.dtype)
    border = _highest_around(label, 1) != -_highest_around(-label, 1)
    found = border | (1 - highest > uncertainty_threshold)
    return _highest_around(found.to(highest.dtype), dilation) > 0


def _highest_around(volume: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the highest value in a cube around each voxel, one axis after the other."""
    dims = volume.dim()
    pool = F.max_pool3d if dims == 3 else F.max_pool2d
    pooled = volume[None, None]
    for dim in range(dims if radius else 0):
        size, padding = [1] * dims, [0] * dims
        size[dim], padding[dim] = 2 * radius + 1, radius
        pooled = pool(pooled, size, stride=1, padding=padding)
    return pooled[0, 0]
