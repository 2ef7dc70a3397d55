"""Batches of phantoms on a device: the distribution of :mod:`monai_pdddpm.data.phantom_distribution` in torch."""

import torch
from torch.nn import functional as F

from monai_pdddpm.data.phantom_distribution import (
    ANNOTATION_MM,
    BIAS_MM,
    BIAS_SD,
    BODY_WIDTHS_MM,
    CLASS_MEANS,
    CORE_WIDTHS_MM,
    DEFAULT_SIZE,
    DEFORMATION,
    DEFORMATION_MM,
    NOISE_SD,
)


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


def draw_phantoms(
    count: int, device: torch.device, size: tuple[int, int, int] = DEFAULT_SIZE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw normalized images, (B, 1, X, Y, Z), and scaled distances of body and core, (B, 2, ...); voxels of 1 mm."""
    extent = min(size)
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
    center = uniform(-0.04, 0.04, count, 3, 1, 1, 1, device=device) * extent
    points = torch.einsum("bij,jxyz->bixyz", _rotations(count, device), grid) - center
    body_radii = uniform(0.24, 0.33, count, 3, device=device) * extent
    core_radii = uniform(0.40, 0.48, count, 3, device=device) * body_radii
    core_points = points - _volume(_directions(count, device) * 0.28 * body_radii)
    scaled = torch.stack(
        [
            (_distance(x, radii) + _bumps(radii, size)) / _width(x, radii.mean(1), *widths)
            for x, radii, widths in (
                (points, body_radii, BODY_WIDTHS_MM),
                (core_points, core_radii, CORE_WIDTHS_MM),
            )
        ],
        dim=1,
    )
    body, core = torch.special.ndtr(-scaled).unbind(1)
    probability = torch.stack([(1 - core) * (1 - body), (1 - core) * body, core], dim=1)
    bias = torch.exp(BIAS_SD * smooth(torch.randn(count, *size, device=device), BIAS_MM))
    means = torch.tensor(CLASS_MEANS, device=device).view(1, 3, 1, 1, 1)
    image = (probability * means).sum(1) * bias + NOISE_SD * torch.randn(count, *size, device=device)
    image = image.round()[:, None]
    spread, mean = torch.std_mean(image, (1, 2, 3, 4), keepdim=True, correction=0)
    return (image - mean) / spread, scaled


def draw_annotations(scaled_distance: torch.Tensor) -> torch.Tensor:
    """Draw one annotation per phantom, (B, 1, X, Y, Z), from scaled distances, (B, 2, X, Y, Z)."""
    inside = scaled_distance + smooth(torch.randn_like(scaled_distance), ANNOTATION_MM) < 0
    return torch.where(inside[:, 1], 2, inside[:, 0].long())[:, None]


def _volume(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, None, None, None]


def _directions(count: int, device: torch.device) -> torch.Tensor:
    return F.normalize(torch.randn(count, 3, device=device), dim=1)


def _rotations(count: int, device: torch.device) -> torch.Tensor:
    """Return uniform rotations, (B, 3, 3), from unit quaternions."""
    w, x, y, z = F.normalize(torch.randn(count, 4, device=device), dim=1).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, dim=1).view(count, 3, 3)


def _distance(points: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    r = _volume(radii)
    k0, k1 = (points / r).norm(dim=1), (points / r**2).norm(dim=1)
    at_centre = radii.min(dim=1).values[:, None, None, None]
    return (k0 - 1) * torch.where(k1 > 0, k0 / k1.clamp(min=1e-12), at_centre)


def _width(points: torch.Tensor, radius: torch.Tensor, sharp: float, blurred: float) -> torch.Tensor:
    along = torch.einsum("bi,bixyz->bxyz", _directions(len(points), points.device), points)
    return sharp * (blurred / sharp) ** torch.sigmoid(4 * along / radius[:, None, None, None])


def _bumps(radii: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    field = smooth(torch.randn(len(radii), *size, device=radii.device), DEFORMATION_MM)
    return DEFORMATION * radii.mean(1)[:, None, None, None] * field
