"""The measures that judge the phantom's members, on samples whose law is known."""

import numpy as np
import pytest

from benchmarks.trust.phantom import calibration_error, measure, near_border, neighbour_correlation
from monai_pdddpm.data.phantom_distribution import make_phantom_scan, smooth_field


def test_calibration_error_by_hand():
    predicted = np.array([0.1, 0.1, 0.9, 0.9])
    # bins of 0.1: gaps 0.1 and 0.2, half the voxels each
    assert calibration_error(predicted, np.array([0.2, 0.2, 0.7, 0.7]), bins=10) == pytest.approx(0.15)
    # gaps within a bin cancel
    assert calibration_error(predicted, np.array([0.0, 0.2, 0.8, 1.0]), bins=10) == pytest.approx(0)


def test_neighbour_correlation_of_known_fields():
    rng = np.random.default_rng(0)
    region = np.ones((12, 6, 6), bool)
    independent = rng.random((400, 12, 6, 6)) < 0.5
    assert neighbour_correlation(independent, region, 1) == pytest.approx(0, abs=0.02)
    together = np.broadcast_to(rng.random((400, 1, 1, 1)) < 0.5, independent.shape)
    assert neighbour_correlation(together, region, 4) == pytest.approx(1)
    fields = np.stack([smooth_field((48, 3, 3), (1, 1, 1), 4.0, rng) for _ in range(1500)])
    line = np.zeros((48, 3, 3), bool)
    line[12:36, 1, 1] = True  # pairs along one axis, far from its ends
    # orthant probabilities: the signs of Gaussians of correlation r correlate with 2 asin(r) / pi
    expected = 2 / np.pi * np.arcsin(np.exp(-4 / 32))
    assert neighbour_correlation(fields > 0, line, 2) == pytest.approx(expected, abs=0.03)


def test_readings_in_the_place_of_members_are_found_right():
    scan = make_phantom_scan(seed=5, size=(24, 28, 20), spacing=(2.0, 2.0, 2.0))
    rng = np.random.default_rng(1)
    annotations = [scan.draw_annotation(rng) for _ in range(64)]
    members = np.stack([np.stack([r == k for k in range(3)]) for r in annotations]).astype(np.float32)
    segmenter = np.full_like(scan.probability, 1 / 3)
    spread = np.zeros((3, *segmenter.shape[1:]), np.float32)
    output = np.concatenate([members.mean(0), spread, segmenter, members.reshape(-1, *segmenter.shape[1:])])
    found = measure(scan, output)
    assert found["frequency_ece"] < 0.015
    assert found["frequency_ece"] == pytest.approx(found["mean_ece"], abs=1e-6)
    assert found["segmenter_ece"] > 0.1
    for d in (1, 2, 4):
        assert found[f"correlation_{d}"] == pytest.approx(found[f"readings_correlation_{d}"], abs=0.06)
    assert near_border(scan).mean() < 0.5
