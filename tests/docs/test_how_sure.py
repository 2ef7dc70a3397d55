"""The script behind docs/how-to/use-the-uncertainty.md, on answers known beforehand; no network is run."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.trust.phantom import calibration_error

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("make_how_sure", DOCS / "make_how_sure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_reliability_by_hand(script):
    predicted = np.array([[0.1, 0.2, 0.5], [0.9, 1.0, 0.6]])
    known = np.array([[0.0, 0.4, 0.5], [0.8, 0.9, 0.8]])
    said, true, share = script.reliability(predicted, known, bins=4)  # nothing between 0.25 and 0.5; 0.5 is above
    np.testing.assert_allclose(said, [0.15, 0.55, 0.95])
    np.testing.assert_allclose(true, [0.2, 0.65, 0.85])
    np.testing.assert_allclose(share, [1 / 3, 1 / 3, 1 / 3])


def test_reliability_of_what_is_right_lies_on_the_diagonal(script):
    known = np.linspace(0, 1, 301)
    said, true, share = script.reliability(known, known)
    np.testing.assert_allclose(said, true)
    assert len(said) == script.BINS
    assert share.sum() == pytest.approx(1)


def test_curve_and_calibration_error_have_the_same_bins(script):
    rng = np.random.default_rng(0)
    predicted, known = rng.random((2, 500))
    said, true, share = script.reliability(predicted, known)
    assert (share * np.abs(said - true)).sum() == pytest.approx(calibration_error(predicted, known, script.BINS))


def test_slice_of_most_doubt_is_that_of_the_greatest_sum(script):
    entropy = np.zeros((4, 5, 6))
    entropy[1, 2, 3] = 1.0  # the brightest voxel
    entropy[:, :, 4] = 0.1  # the greatest sum, 2
    assert script.slice_of_most_doubt(entropy) == 4


def test_confident_errors_by_hand(script):
    entropy = np.array([0.0, 0.1, 0.3, 0.0, 0.6, 0.2])
    wrong = np.array([True, True, True, False, True, False])
    assert script.confident_errors(wrong, entropy, sure=0.2) == pytest.approx(0.5)
    assert math.isnan(script.confident_errors(np.zeros(6, bool), entropy))
    region = np.array([True, False, True, True, True, True])
    # dark and in the region: the first and the fourth; 0.2 itself is not dark
    assert script.errors_where_sure(wrong, entropy, region, sure=0.2) == pytest.approx(0.5)
    assert math.isnan(script.errors_where_sure(wrong, entropy, np.zeros(6, bool)))


def test_dark_is_surer_than_95_to_5(script):
    sure = torch.special.entr(torch.tensor([[0.95, 0.9], [0.05, 0.1]], dtype=torch.float64)).sum(0)
    assert sure[0].item() == pytest.approx(script.SURE, abs=0.002)
    assert sure[1] > script.SURE


def test_dice_by_hand(script):
    a, b = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert script.dice(a, b) == pytest.approx(0.5)
    assert script.dice(a & ~a, b & ~b) == 1


def test_coverage_of_the_largest_score_has_a_closed_form(script):
    # of n scores the largest covers a share u with distribution function u^n
    assert script.least_coverage(12) == pytest.approx(0.1 ** (1 / 12))
    assert script.least_coverage(1000) == pytest.approx(0.9, abs=0.015)


def test_spoilt_scan_has_the_noise_asked_for_and_keeps_its_mean(script):
    image = np.full((20, 20, 20), 5.0, np.float32)
    image[10, 10, 10] += 100
    blurred = script.spoilt(image, 1.0, 0.0, np.random.default_rng(0))
    assert blurred.sum() == pytest.approx(image.sum(), rel=1e-4)
    assert blurred.max() == pytest.approx(5 + 100 / (2 * math.pi) ** 1.5, rel=0.02)  # a Gaussian's peak
    noise = script.spoilt(np.zeros_like(image), 1.0, 3.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(3, rel=0.05)


def test_contenders_are_cut_from_the_right_channels(script):
    region = np.array([[[True, False]]])
    members = np.array([[[0.1, 0.2], [0.7, 0.3], [0.2, 0.5]], [[0.1, 0.2], [0.2, 0.3], [0.7, 0.5]]])  # member, class
    mean, segmenter = members.mean(0), np.array([[0.5, 0.5], [0.3, 0.3], [0.2, 0.2]])
    output = np.concatenate([mean, np.zeros((3, 2)), segmenter, *members])[:, None, None]
    found = script.near_border_probabilities(output, region)
    np.testing.assert_allclose(found["segmenter"][:, 0], [0.3, 0.2])
    np.testing.assert_allclose(found["ensemble, mean probability"][:, 0], [0.45, 0.45])
    np.testing.assert_allclose(found["ensemble, members' frequency"][:, 0], [0.5, 0.5])


def test_page_shows_the_pictures(script):
    page = (DOCS / "how-to" / "use-the-uncertainty.md").read_text(encoding="utf-8")
    for name in ("how_sure_good", "how_sure_bad", "how_sure_reliability"):
        assert f"(../pictures/{name}.png)" in page
        assert (script.PICTURES / f"{name}.png").is_file()
    assert f"seed {script.SEED}" in page
    assert f"{script.SURE} nats" in page
