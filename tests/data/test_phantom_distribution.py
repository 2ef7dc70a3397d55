"""The law that phantoms are drawn from, against what can be said of it beforehand."""

import numpy as np
import pytest

from monai_pdddpm.data.phantom_distribution import (
    CLASS_MEANS,
    Phantom,
    ambiguity_width,
    class_probability,
    ellipsoid_distance,
    make_phantom_scan,
    phantom_affine,
    smooth_field,
    smoothing_matrix,
)

TINY = {"size": (12, 14, 10), "spacing": (3.0, 3.0, 3.5)}


def test_frequency_of_readings_is_the_probability():
    scan, rng, n = make_phantom_scan(**TINY, seed=3), np.random.default_rng(0), 2000
    count = np.zeros(scan.probability.shape)
    for _ in range(n):
        reading = scan.draw_annotation(rng)
        count += np.stack([reading == k for k in range(3)])
    p = scan.probability.astype(float)
    sd = np.sqrt(p * (1 - p) / n)
    assert (np.abs(count / n - p) < 5 * sd + 5 / n).all()
    # unbiased as a whole too: the mean squared z score of undecided voxels is 1
    undecided = (p > 0.05) & (p < 0.95)
    assert undecided.sum() > 300
    assert np.mean(((count / n - p)[undecided] / sd[undecided]) ** 2) == pytest.approx(1, abs=0.25)


def test_smooth_field_has_unit_variance_at_every_voxel_and_the_stated_correlation():
    for n, spacing, length in [(48, 1.0, 4.0), (5, 3.5, 4.0), (40, 1.0, 25.0)]:
        assert (smoothing_matrix(n, spacing, length) ** 2).sum(1) == pytest.approx(np.ones(n), abs=1e-5)
    rng, n = np.random.default_rng(1), 4000
    fields = np.stack([smooth_field((17, 6, 5), (1.0, 2.0, 1.5), 4.0, rng) for _ in range(n)])
    assert fields.dtype == np.float32
    assert np.abs(fields.mean(0)).max() < 5 / np.sqrt(n)
    assert np.abs(fields.var(0) - 1).max() < 5 * np.sqrt(2 / n)
    # 4 mm apart, far from the borders: exp(-1/2)
    assert np.mean(fields[:, 6] * fields[:, 10]) == pytest.approx(np.exp(-0.5), abs=0.03)


def test_ellipsoid_distance_of_a_sphere_is_exact_and_of_an_ellipsoid_zero_on_its_surface():
    line = np.zeros((3, 5, 1, 1))
    line[0, :, 0, 0] = [0.0, 1.0, 4.0, 5.0, 9.0]
    assert ellipsoid_distance(line, np.full(3, 5.0)).ravel() == pytest.approx([-5, -4, -1, 0, 4])
    tips = np.diag([3.0, 4.0, 5.0]).reshape(3, 3, 1, 1)
    assert ellipsoid_distance(tips, np.array([3.0, 4.0, 5.0])).ravel() == pytest.approx([0, 0, 0])


def test_ambiguity_width_goes_from_the_sharp_to_the_blurred_side():
    points = np.zeros((3, 3, 1, 1))
    points[1, :, 0, 0] = [-100, 0, 100]
    width = ambiguity_width(points, np.array([0.0, 1.0, 0.0]), 10.0, 0.4, 3.0).ravel()
    assert width == pytest.approx([0.4, np.sqrt(0.4 * 3.0), 3.0])


def test_class_probability_known_values():
    scaled = np.array([[0, -1, 9], [9, 0, -9]], np.float32).reshape(2, 3, 1, 1)  # phi / w of body, then of core
    expected = [[0.5, 0.5 * 0.158655, 0], [0.5, 0.5 * 0.841345, 0], [0, 0.5, 1]]
    assert class_probability(scaled).reshape(3, 3) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scan_is_a_law_over_classes_with_a_plausible_image(seed):
    scan = make_phantom_scan(seed=seed)
    assert isinstance(scan, Phantom)
    assert scan.image.shape == (48, 56, 40)
    assert scan.image.dtype == scan.probability.dtype == np.float32
    p = scan.probability
    assert p.shape == (3, 48, 56, 40)
    assert p.min() >= 0
    assert p.max() <= 1
    assert np.abs(p.sum(0) - 1).max() < 1e-6
    # every class is certain somewhere and the structures keep away from the border of the volume
    assert p.max(axis=(1, 2, 3)) == pytest.approx(np.ones(3), abs=1e-3)
    assert all(np.take(p[0], end, axis).min() > 0.9 for axis in range(3) for end in (0, -1))
    means = [scan.image[p[k] > 0.99].mean() for k in range(3)]
    assert means == pytest.approx(CLASS_MEANS, rel=0.12)
    assert scan.image.min() > 0
    reading = scan.draw_annotation(np.random.default_rng(0))
    assert reading.dtype == np.uint8
    assert set(np.unique(reading)) == {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_side_is_really_more_ambiguous(seed):
    body = make_phantom_scan(seed=seed).scaled_distance[0]
    inside = np.argwhere(body < 0)
    offset = np.argwhere(np.abs(body) < 1.3) - inside.mean(0)  # P between 0.1 and 0.9
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    cosine = offset / np.linalg.norm(offset, axis=1, keepdims=True) @ axes.T
    undecided = (cosine > 0.6).sum(0)
    assert undecided.max() > 2 * undecided.min()


def test_the_image_shows_how_ambiguous_a_border_is():
    scan = make_phantom_scan(seed=0)
    expected = np.tensordot(np.array(CLASS_MEANS), scan.probability, 1)
    assert np.corrcoef(scan.image.ravel(), expected.ravel())[0, 1] > 0.97


def test_seed_decides_everything():
    first, again, other = (make_phantom_scan(**TINY, seed=seed) for seed in (5, 5, 6))
    for name in ("image", "probability", "scaled_distance"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes()
    annotations = [first.draw_annotation(np.random.default_rng(seed)).tobytes() for seed in (0, 0, 1)]
    assert annotations[0] == annotations[1] != annotations[2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (8, 8)},
        {"size": (3, 8, 8)},
        {"spacing": (1.0, 0.0, 1.0)},
        {"spacing": (1.0, np.nan, 1.0)},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"size|spacing|non-negative"):
        make_phantom_scan(**arguments)


def test_affine_is_an_oblique_rotation_with_an_origin_of_its_own():
    affine = phantom_affine((1.0, 2.0, 3.0))
    turn = affine[:3, :3] / [1.0, 2.0, 3.0]
    assert turn @ turn.T == pytest.approx(np.eye(3))
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(15)
    assert np.abs(turn).min() > 0.01  # no axis is left straight
    assert (affine[:3, 3] != 0).all()
