"""The distribution of the phantom: scans with blurred borders and known class probabilities.

Each structure s has a signed distance ``phi_s`` and an ambiguity width ``w_s`` in mm, both smooth over the volume. An
annotation is ``{phi_s + w_s g < 0}`` with a new Gaussian field ``g`` of unit variance, so the probability of being
inside, ``Phi(-phi_s / w_s)``, is exact at every voxel. The image is blurred to the same degree: it shows both where a
border is and how ambiguous it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import expit, ndtr

Array = NDArray[np.float32]
Seed = int | np.random.SeedSequence

LABELS = ("background", "body", "core")
CLASS_MEANS = (200.0, 420.0, 680.0)  # intensities, in the arbitrary units of an MR scan
NOISE_SD = 15.0
BIAS_SD, BIAS_MM = 0.04, 25.0  # of the bias field's logarithm
BODY_WIDTHS_MM, CORE_WIDTHS_MM = (0.4, 3.0), (0.4, 2.0)  # sharp side, blurred side
ANNOTATION_MM = 4.0  # correlation length of one annotator's deviation
DEFORMATION, DEFORMATION_MM = 0.10, 10.0  # standard deviation as a fraction of the mean radius, correlation length
DEFAULT_SIZE, DEFAULT_SPACING = (48, 56, 40), (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic scan and the distribution of its annotations.

    Attributes:
        image: float32 (X, Y, Z), whole numbers of about 150 to 800.
        probability: float32 (3, X, Y, Z), true probability of background, body and core in [0, 1], sum 1.
        scaled_distance: float32 (2, X, Y, Z), ``phi / w`` of body and core, without unit, negative inside.
        spacing: voxel size in mm.
    """

    image: Array
    probability: Array
    scaled_distance: Array
    spacing: tuple[float, ...]

    def draw_annotation(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Draw an annotation: body where ``phi / w + g < 0``, the core likewise and on top.

        Args:
            rng: source of the two fields ``g``; a generator in the same state gives the same annotation.

        Returns:
            uint8 (X, Y, Z) of 0, 1 and 2, distributed as ``probability``.
        """
        body, core = (
            phi + smooth_field(phi.shape, self.spacing, ANNOTATION_MM, rng) < 0 for phi in self.scaled_distance
        )
        return np.where(core, 2, body).astype(np.uint8)


def smoothing_matrix(n: int, spacing: float, length: float) -> Array:
    """Gaussian filter along one axis, ``A_ij ~ exp(-((i - j) h / L)^2)``, each row scaled to ``sum_j A_ij^2 = 1``.

    Filtered white noise has variance 1 at every voxel, at the borders of the volume too, and inside it the correlation
    ``exp(-d^2 / (2 L^2))``. With n voxels of size h = ``spacing`` and L = ``length`` in mm: float32 (n, n).
    """
    i = np.arange(n) * (spacing / length)
    matrix = np.exp(-((i[:, None] - i) ** 2))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def smooth_field(shape: Sequence[int], spacing: Sequence[float], length: float, rng: np.random.Generator) -> Array:
    """Gaussian random field, ``g = A_x A_y A_z n`` with white noise n: float32, mean 0, variance 1 at every voxel.

    ``spacing`` and the correlation length ``length`` are in mm.
    """
    field = rng.standard_normal(shape, dtype=np.float32)
    for axis, (n, h) in enumerate(zip(shape, spacing, strict=True)):
        field = np.moveaxis(np.tensordot(smoothing_matrix(n, h, length), field, (1, axis)), 0, axis)
    return field


def ellipsoid_distance(points: NDArray[Any], radii: NDArray[Any]) -> NDArray[Any]:
    """Distance to an ellipsoid to first order, ``k0 (k0 - 1) / k1`` with ``k0 = |q / r|``, ``k1 = |q / r^2|``.

    Positions q (3, X, Y, Z) along its own axes from its center and radii r (3,), in mm; the result (X, Y, Z) in mm is
    negative inside, and exact for a sphere.
    """
    r = radii.reshape(3, 1, 1, 1)
    k0, k1 = np.linalg.norm(points / r, axis=0), np.linalg.norm(points / r**2, axis=0)
    # at the center k0 / k1 is 0 / 0; any radius is a fair distance there
    return (k0 - 1) * np.divide(k0, k1, out=np.full_like(k0, radii.min()), where=k1 > 0)


def ambiguity_width(
    points: NDArray[Any], direction: NDArray[Any], radius: float, sharp: float, blurred: float
) -> NDArray[Any]:
    """Ambiguity width ``w = a (b / a)^sigma(4 u.q / r)`` in mm: ``a`` on one side of a structure, ``b`` on the other.

    Positions q (3, X, Y, Z) from its center and its mean radius r in mm; the unit vector u (3,) points towards b.
    """
    along = np.tensordot(direction, points, 1)
    return sharp * (blurred / sharp) ** expit(4 * along / radius)


def class_probability(scaled_distance: Array) -> Array:
    """Probabilities (3, X, Y, Z) of core P_c, body (1 - P_c) P_b and background (1 - P_c) (1 - P_b), in reverse order.

    With ``P_s = Phi(-phi_s / w_s)`` from ``scaled_distance``, ``phi / w`` of body and core (2, X, Y, Z).
    """
    body, core = ndtr(-scaled_distance)
    return np.stack([(1 - core) * (1 - body), (1 - core) * body, core]).astype(np.float32)


def make_phantom_scan(
    size: Sequence[int] = DEFAULT_SIZE, spacing: Sequence[float] = DEFAULT_SPACING, seed: Seed = 0
) -> Phantom:
    """Make one scan: an ellipsoid-like body with an off-center core, each with a sharp and a blurred side.

    Args:
        size: voxels along X, Y, Z, each at least 4; the structures grow with the smallest extent.
        spacing: voxel size in mm.
        seed: random seed of the subject and its image.

    Raises:
        ValueError: for a size, spacing or seed out of range.
    """
    if len(size) != 3 or min(size) < 4:
        raise ValueError(f"size must be three numbers of voxels, each at least 4, got {tuple(size)}.")
    if len(spacing) != 3 or not all(0 < h < np.inf for h in spacing):
        raise ValueError(f"spacing must be three positive numbers of mm, got {tuple(spacing)}.")
    rng = np.random.default_rng(seed)
    shape, h = tuple(int(n) for n in size), tuple(float(d) for d in spacing)
    axes = [((np.arange(n) - (n - 1) / 2) * d).astype(np.float32) for n, d in zip(shape, h, strict=True)]
    extent = min(n * d for n, d in zip(shape, h, strict=True))

    # positions are rotated into the axes of the body once; no later line depends on the orientation
    turn = Rotation.from_quat(rng.standard_normal(4)).as_matrix().astype(np.float32)
    center = rng.uniform(-0.04, 0.04, (3, 1, 1, 1)).astype(np.float32) * extent
    points = np.tensordot(turn, np.stack(np.meshgrid(*axes, indexing="ij")) - center, 1)
    body_radii = (rng.uniform(0.24, 0.33, 3) * extent).astype(np.float32)
    core_radii = (rng.uniform(0.40, 0.48, 3) * body_radii).astype(np.float32)
    # 0.28 + 0.48 < 1: except for the bumps, the core is inside the body
    core_points = points - (_direction(rng) * 0.28 * body_radii).reshape(3, 1, 1, 1)

    body_width = ambiguity_width(points, _direction(rng), float(body_radii.mean()), *BODY_WIDTHS_MM)
    core_width = ambiguity_width(core_points, _direction(rng), float(core_radii.mean()), *CORE_WIDTHS_MM)
    body_bumps, core_bumps = (
        DEFORMATION * radii.mean() * smooth_field(shape, h, DEFORMATION_MM, rng) for radii in (body_radii, core_radii)
    )
    core = (ellipsoid_distance(core_points, core_radii) + core_bumps) / core_width
    bias = np.exp(BIAS_SD * smooth_field(shape, h, BIAS_MM, rng))

    body = (ellipsoid_distance(points, body_radii) + body_bumps) / body_width
    scaled = np.stack([body, core]).astype(np.float32)
    probability = class_probability(scaled)
    image = np.tensordot(np.asarray(CLASS_MEANS, np.float32), probability, 1) * bias
    image += NOISE_SD * rng.standard_normal(shape, dtype=np.float32)
    return Phantom(np.rint(image), probability, scaled, h)


def _direction(rng: np.random.Generator) -> Array:
    """Draw a unit vector, uniform over directions."""
    vector = rng.standard_normal(3).astype(np.float32)
    return vector / np.linalg.norm(vector)


def phantom_affine(spacing: Sequence[float] = DEFAULT_SPACING) -> NDArray[np.float64]:
    """Voxel to world (RAS+, mm): 15 degrees about the axis (1, 2, 3), voxel (0, 0, 0) at (-31.5, -40.25, 12.75)."""
    axis = np.array([1.0, 2.0, 3.0])
    turn = Rotation.from_rotvec(np.deg2rad(15) * axis / np.linalg.norm(axis)).as_matrix()
    return nib.affines.from_matvec(turn * np.asarray(spacing, float), [-31.5, -40.25, 12.75])
