"""The position of a voxel grid in space."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from monai_pdddpm.utils.errors import UserError

_SMALLEST, _LARGEST = 0.001, 100.0  # mm
_FLATTEST = 1e-4  # volume spanned by unit axes: 1 when orthogonal, 0 when they lie in a plane
_SAMPLES = 17  # per axis, for the overlap of two grids


def check_affine(path: str | os.PathLike, affine: np.ndarray) -> None:
    """Check that an affine is invertible and that its voxels have a plausible size.

    Args:
        path: file that it came from, for the message.
        affine: (4, 4), voxel to mm.

    Raises:
        UserError: when it is not finite, cannot be inverted, or a voxel has an edge below 0.001 mm or above 100 mm.
    """
    fix = "fix the header, for example with nibabel or fslorient"
    finite = bool(np.isfinite(affine).all())
    sizes = voxel_sizes(affine) if finite else np.ones(3)
    if not ((sizes >= _SMALLEST) & (sizes <= _LARGEST)).all():
        found = " x ".join(f"{size:g}" for size in sizes)
        raise UserError(
            f"{path}: found voxels of {found} mm in its affine, expected {_SMALLEST:g} to {_LARGEST:g} mm along each "
            f"axis; {fix}"
        )
    if not finite or abs(np.linalg.det(affine[:3, :3] / sizes)) < _FLATTEST:
        raise UserError(
            f"{path}: its affine cannot be inverted, expected finite numbers and three independent axes; {fix}"
        )


def is_sheared(affine: np.ndarray) -> bool:
    """Return whether the axes of a grid, (4, 4) voxel to mm, are not at right angles, up to a cosine of 0.01."""
    axes = affine[:3, :3] / voxel_sizes(affine)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 0.01)


def largest_shift(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance between the positions of one grid's corners under two affines.

    Args:
        affine: (4, 4), voxel to mm.
        other: (4, 4), voxel to mm.
        shape: voxels along each of at most three axes.

    Returns:
        The distance in units of the shortest voxel edge of ``affine``; infinite when ``other`` is not finite.
    """
    if not np.isfinite(other).all():
        return float("inf")
    corners = np.array(
        [(*corner, 1.0) for corner in itertools.product(*((0, size - 1) for size in (*shape, 1, 1)[:3]))]
    )
    distance = np.linalg.norm(((affine - other) @ corners.T)[:3], axis=0).max()
    return float(distance / voxel_sizes(affine).min())


def qform_of(header: nib.Nifti1Header) -> np.ndarray:
    """Return the affine (4, 4) of a qform, voxel to mm; NaN when its numbers are not a rotation."""
    try:
        return header.get_qform()
    except (ValueError, np.linalg.LinAlgError):
        return np.full((4, 4), np.nan)


def coverage(affine: np.ndarray, shape: Sequence[int], other: np.ndarray, other_shape: Sequence[int]) -> float:
    """Return the share of a grid's voxels that lie within another grid, from 0 to 1.

    Args:
        affine: (4, 4) of the grid, voxel to mm.
        shape: its voxels along each of three axes.
        other: (4, 4) of the other grid.
        other_shape: its voxels along each of three axes.
    """
    axes = (np.linspace(0, size - 1, min(size, _SAMPLES)) for size in shape)
    points = np.array([(*point, 1.0) for point in itertools.product(*axes)])
    index = (np.linalg.solve(other, affine) @ points.T)[:3].T
    # a voxel reaches half of its edge beyond its center; 0.001 is for rounding
    inside = (index >= -0.501) & (index <= np.array(other_shape) - 0.499)
    return float(inside.all(axis=1).mean())
