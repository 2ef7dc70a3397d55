"""Voxels near the borders of the pre-segmentation, and voxels where the segmenter is uncertain."""

from __future__ import annotations

import torch

SLAB = 32  # planes of a volume that are computed at once


def active_voxels(probabilities: torch.Tensor, uncertainty_threshold: float, dilation: int) -> torch.Tensor:
    """Return the voxels whose surroundings the denoiser should see.

    A voxel is active if its likeliest class differs from that of a neighbor (26 of them in 3D), or if the other classes
    together exceed ``uncertainty_threshold``. The active region is then dilated by a cube.

    Args:
        probabilities: probabilities of the segmenter, (K, X, Y[, Z]); the result is (X, Y[, Z]).
        uncertainty_threshold: 0 to 1.
        dilation: voxels along each axis, 0 or more.
    """
    shape, dtype = probabilities.shape[1:], torch.int8 if len(probabilities) <= 128 else torch.int16
    label, found = (probabilities.new_empty(shape, dtype=kind) for kind in (dtype, torch.bool))
    for p, own, uncertain in zip(probabilities.split(SLAB, dim=1), label.split(SLAB), found.split(SLAB), strict=True):
        highest, own[:] = p.max(dim=0)
        uncertain[:] = 1 - highest > uncertainty_threshold
    found |= _highest_around(label, 1) != -_highest_around(-label, 1)
    return _highest_around(found, dilation)


def _highest_around(volume: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the highest value in a cube around each voxel, in the volume's own type, unlike torch's pooling."""
    for dim, n in enumerate(volume.shape):
        grown = volume.clone()
        for shift in range(1, min(radius, n - 1) + 1):
            for target, source in ((shift, 0), (0, shift)):
                part = grown.narrow(dim, target, n - shift)
                torch.maximum(part, volume.narrow(dim, source, n - shift), out=part)
        volume = grown
    return volume
