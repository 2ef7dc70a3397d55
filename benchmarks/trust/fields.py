"""Smooth random fields on a device."""

import torch


def smooth(field: torch.Tensor, length: float) -> torch.Tensor:
    """Filter white noise, (..., X, Y, Z), by a Gaussian of this correlation length in voxels; the variance stays 1.

    The filter is that of :func:`monai_pdddpm.data.phantom_distribution.smooth_field`.
    """
    for axis in (-3, -2, -1):
        i = torch.arange(field.shape[axis], device=field.device) / length
        matrix = torch.exp(-((i[:, None] - i) ** 2))
        matrix = matrix / matrix.norm(dim=1, keepdim=True)
        field = torch.movedim(torch.movedim(field, axis, -1) @ matrix.T, -1, axis)
    return field


def uniform(low: float, high: float, *shape: int, device: torch.device) -> torch.Tensor:
    """Return uniform random numbers."""
    return torch.rand(*shape, device=device) * (high - low) + low
