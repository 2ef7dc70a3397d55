"""Voxels near the borders of the pre-segmentation, and voxels where the segmenter is uncertain."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def active_voxels(probabilities: torch.Tensor, uncertainty_threshold: float, dilation: int) -> torch.Tensor:
    """Return the voxels whose surroundings the denoiser should see.

    A voxel is active if its likeliest class differs from that of a neighbor (26 of them in 3D), or if the other classes
    together exceed ``uncertainty_threshold``. The active region is then dilated by a cube.

    Args:
        probabilities: probabilities of the segmenter, (K, X, Y[, Z]).
        uncertainty_threshold: 0 to 1.
        dilation: voxels along each axis, 0 or more.

    Returns:
        (X, Y[, Z]), boolean.
    """
    highest, label = probabilities.max(dim=0)
    label = label.to(highest.dtype)
    border = _highest_around(label, 1) != -_highest_around(-label, 1)
    found = border | (1 - highest > uncertainty_threshold)
    return _highest_around(found.to(highest.dtype), dilation) > 0


def _highest_around(volume: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the highest value in a cube around each voxel."""
    dims = volume.dim()
    pool = F.max_pool3d if dims == 3 else F.max_pool2d
    pooled = volume[None, None]
    for dim in range(dims if radius else 0):
        size, padding = [1] * dims, [0] * dims
        size[dim], padding[dim] = 2 * radius + 1, radius
        pooled = pool(pooled, size, stride=1, padding=padding)
    return pooled[0, 0]
