"""Augmentation of whole batches on a device: geometry, then intensity."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from benchmarks.trust.phantoms import smooth, uniform


def augment(
    images: torch.Tensor, label_maps: Sequence[torch.Tensor], size: Sequence[int], strength: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Augment normalized images, (B, 1, X, Y, Z), and label maps with the same geometry; return them in a size.

    `strength` is 1, or less for the last batches of a training: the probability of the intensity changes.
    """
    grid = sampling_grid(len(images), images.shape[2:], size, images.device)
    image = F.grid_sample(images, grid, mode="bilinear", align_corners=True)
    maps = [F.grid_sample(m.float(), grid, mode="nearest", align_corners=True).long() for m in label_maps]
    return intensity(image, strength), maps


def sampling_grid(count: int, source: Sequence[int], size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the grid of random affine and elastic deformations for ``grid_sample``, (B, size, 3)."""
    changed = (torch.rand(count, 1, device=device) < 0.8).float()
    angles = uniform(-0.3, 0.3, count, 3, device=device) * changed
    scales = 1 + uniform(-0.18, 0.18, count, 3, device=device) * changed
    shears = torch.eye(3, device=device).repeat(count, 1, 1)
    off_diagonal = ~torch.eye(3, dtype=torch.bool, device=device)
    shears[:, off_diagonal] = uniform(-0.1, 0.1, count, 6, device=device) * changed
    flips = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    scales = scales * torch.stack([flips, torch.ones_like(flips), torch.ones_like(flips)], dim=1)
    affine = _rotation(angles) @ torch.diag_embed(scales) @ shears
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
    points = torch.einsum("bij,jxyz->bixyz", affine, points) + uniform(-4, 4, count, 3, 1, 1, 1, device=device)
    elastic = (torch.rand(count, device=device) < 0.4) * uniform(0.5, 2.0, count, device=device)
    points = points + elastic.view(-1, 1, 1, 1, 1) * smooth(torch.randn(count, 3, *size, device=device), 9.0)
    return torch.stack([points[:, i] / ((source[i] - 1) / 2) for i in (2, 1, 0)], dim=-1)


def intensity(image: torch.Tensor, strength: float) -> torch.Tensor:
    """Change resolution, sharpness, bias field, contrast, brightness and noise of images, (B, 1, X, Y, Z)."""
    count, device = len(image), image.device

    def chosen(probability: float) -> torch.Tensor:
        return torch.rand(count, device=device) < probability

    def per_image(low: float, high: float) -> torch.Tensor:
        return uniform(low, high, count, 1, 1, 1, 1, device=device)

    coarse = chosen(0.15 * strength)
    if coarse.any():
        small = F.interpolate(image[coarse], scale_factor=float(torch.empty(()).uniform_(0.4, 0.8)), mode="trilinear")
        image[coarse] = F.interpolate(small, image.shape[2:], mode="trilinear")
    blurred = chosen(0.2 * strength)
    if blurred.any():
        image[blurred] = _blur(image[blurred], float(torch.empty(()).uniform_(0.4, 1.2)))
    biased = chosen(0.5 * strength).view(-1, 1, 1, 1, 1)
    image = torch.where(biased, _normalized((image - _lowest(image)) * _bias(image)), image)
    contrast = chosen(0.4 * strength).view(-1, 1, 1, 1, 1)
    image = torch.where(contrast, _gamma(image, per_image(0.6, 1.6)), image)
    image = image * (1 + per_image(-0.2, 0.2) * chosen(0.3).view(-1, 1, 1, 1, 1))
    image = image + 0.2 * torch.randn(count, 1, 1, 1, 1, device=device) * chosen(0.3).view(-1, 1, 1, 1, 1)
    return image + per_image(0, 0.25) * chosen(0.35 * strength).view(-1, 1, 1, 1, 1) * torch.randn_like(image)


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return rotations about the three axes, one after the other, (B, 3, 3)."""
    generators = torch.zeros(3, 3, 3, device=angles.device)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        generators[axis, i, j], generators[axis, j, i] = -1.0, 1.0
    x, y, z = (torch.matrix_exp(angles[:, axis, None, None] * generators[axis]) for axis in range(3))
    return x @ y @ z


def _bias(image: torch.Tensor) -> torch.Tensor:
    """Return random bias fields: exponentials of Legendre polynomials as in MONAI's ``RandBiasField``.

    The coefficients of a field have random signs, or they add up in a random corner, as beside a surface coil.
    """
    count, device = len(image), image.device
    degrees = torch.stack(torch.meshgrid(*[torch.arange(4.0, device=device)] * 3, indexing="ij"))
    signs = torch.where(torch.rand(count, 3, device=device) < 0.5, -1.0, 1.0)
    corner = (signs.view(count, 3, 1, 1, 1) ** degrees).prod(1) * uniform(0.7, 1, count, 4, 4, 4, device=device)
    mixed = uniform(-1, 1, count, 4, 4, 4, device=device)
    chosen = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, corner, mixed)
    chosen = chosen * (degrees.sum(0) <= 3) * uniform(0, 0.4, count, 1, 1, 1, device=device)
    return torch.exp(legendre_field(chosen, image.shape[2:]))[:, None]


def legendre_field(coefficients: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the sums of Legendre polynomials on a grid from -1 to 1, (B, size), for coefficients (B, 4, 4, 4)."""
    axes = (torch.linspace(-1, 1, n, device=coefficients.device) for n in size)
    x, y, z = (torch.stack([torch.ones_like(a), a, (3 * a**2 - 1) / 2, (5 * a**3 - 3 * a) / 2]) for a in axes)
    return torch.einsum("bijk,ix,jy,kz->bxyz", coefficients, x, y, z)


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    kernel = torch.exp(-(torch.arange(-3, 4, device=image.device) ** 2) / (2 * sigma**2))
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = 7, 3
        image = F.conv3d(image, (kernel / kernel.sum()).view(shape), padding=padding)
    return image


def _gamma(image: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Return images whose intensities follow a power law, with their mean and standard deviation kept."""
    spread, mean = torch.std_mean(image, (1, 2, 3, 4), keepdim=True)
    low, high = _lowest(image), image.amax((1, 2, 3, 4), keepdim=True)
    return _normalized(((image - low) / (high - low + 1e-6)).clamp(0, 1) ** exponent) * spread + mean


def _lowest(image: torch.Tensor) -> torch.Tensor:
    return image.amin((1, 2, 3, 4), keepdim=True)


def _normalized(image: torch.Tensor) -> torch.Tensor:
    spread, mean = torch.std_mean(image, (1, 2, 3, 4), keepdim=True)
    return (image - mean) / (spread + 1e-6)
