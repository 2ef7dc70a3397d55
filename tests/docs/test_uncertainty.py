"""The script behind docs/how-to/use-the-uncertainty.md, on answers known beforehand; no network is run."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "figures")
        yield importlib.import_module("uncertainty")


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


def test_dark_is_surer_than_95_to_5(script):
    sure = torch.special.entr(torch.tensor([[0.95, 0.9], [0.05, 0.1]], dtype=torch.float64)).sum(0)
    assert sure[0].item() == pytest.approx(script.SURE, abs=0.002)
    assert sure[1] > script.SURE


def test_dice_by_hand(script):
    a, b = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert script.dice(a, b) == pytest.approx(0.5)
    assert script.dice(a & ~a, b & ~b) == 1


def test_page_shows_the_pictures(script):
    page = (DOCS / "how-to" / "use-the-uncertainty.md").read_text(encoding="utf-8")
    for name in ("how_sure_good", "how_sure_bad", "how_sure_reliability"):
        assert f"(../pictures/{name}.png)" in page
        assert (script.PICTURES / f"{name}.png").is_file()
    assert f"seed {script.SEED}" in page
    assert f"{script.SURE} nats" in page


def test_fraction_by_hand(script):
    dark, wrong = np.array([True, True, False, True, False]), np.array([True, True, True, False, True])
    assert script.fraction(dark, wrong) == pytest.approx(0.5)
    assert script.fraction(wrong, dark) == pytest.approx(2 / 3)
    assert math.isnan(script.fraction(dark, np.zeros(5, bool)))


def test_degraded_scan_has_the_noise_and_the_mean(script):
    image = np.full((20, 20, 20), 5.0, np.float32)
    image[10, 10, 10] += 100
    blurred = script.degraded(image, 1.0, 0.0, np.random.default_rng(0))
    assert blurred.sum() == pytest.approx(image.sum(), rel=1e-4)
    assert blurred.max() == pytest.approx(5 + 100 / (2 * math.pi) ** 1.5, rel=0.02)  # the peak of a Gaussian
    noise = script.degraded(np.zeros_like(image), 1.0, 3.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(3, rel=0.05)
