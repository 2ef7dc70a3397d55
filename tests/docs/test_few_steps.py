"""The script behind docs/explanation/few-steps.md: its formulas on known answers, and its tables on the page."""

import importlib
import math
from pathlib import Path

import pytest
import torch

from monai_pdddpm.schedulers import cumulative_schedule, uniform_steps

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "figures")
        yield importlib.import_module("few_steps")


@pytest.fixture(scope="module")
def abar():
    return cumulative_schedule().double()


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def test_evidence_is_the_divergence_of_two_gaussians(script):
    assert script.evidence(number(0.5), 2.0).item() == pytest.approx(2.0)  # SNR 1, half of 2 squared
    noisy = [torch.distributions.Normal(0.3**0.5 * x, 0.7**0.5) for x in (-0.5, 0.5)]
    expected = 50 * torch.distributions.kl_divergence(*noisy)
    assert script.evidence(number(0.3), 1.0, 50).item() == pytest.approx(expected.item(), rel=1e-6)


def test_log_odds_move_by_the_evidence(script):
    region, abar_t, z = script.Region(), number(0.01), script.normal_sample(10_001)
    moved = region.log_odds(region.start(-1, abar_t, z), abar_t).mean().item() - math.log(0.7 / 0.3)
    assert moved == pytest.approx(-script.evidence(abar_t, 2.0, 50).item(), rel=1e-3)


def test_denoiser_is_the_posterior_mean_of_the_whole_region(script):
    region, abar_t = script.Region(0.5, 8, 0.3), number(0.2)
    x_t = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    likelihood = [
        torch.distributions.Normal(abar_t.sqrt() * x, (1 - abar_t).sqrt()).log_prob(x_t).sum().exp()
        for x in (number(0.5), number(-0.5))
    ]
    weight = 0.3 * likelihood[0] / (0.3 * likelihood[0] + 0.7 * likelihood[1])
    found = region.denoise(x_t.sum() / 8**0.5, abar_t) / 8**0.5  # back to a voxel
    assert found.item() == pytest.approx((0.5 * (2 * weight - 1)).item())


@pytest.mark.parametrize("rule", ["ODE", "SDE"])
def test_exact_frequencies(script, abar, rule):
    region = script.Region()

    def exact(t, presegmentation):
        return script.exact_frequency(getattr(script, rule), region, abar[t], presegmentation)

    assert exact(-1, 0) == pytest.approx(0.7, abs=1e-3)  # noise: the image's probability
    right, wrong = exact(899, 1), exact(899, -1)
    assert 0.7 * right + 0.3 * wrong == pytest.approx(0.7, abs=1e-4)  # pre-segmentations as good as the image
    assert exact(299, -1) < 1e-6  # nothing is left to decide


@pytest.mark.parametrize(("rule", "tolerance"), [("ODE", 2e-3), ("SDE", 0.02)])
def test_many_steps_reach_the_exact_frequency(script, abar, rule, tolerance):
    rule = getattr(script, rule)
    found = script.frequencies(script.Region(), abar, rule, (920,), 920, -1, members=10_000)[0]
    assert found == pytest.approx(script.exact_frequency(rule, script.Region(), abar[919], -1), abs=tolerance)


def test_one_and_two_steps_lose_all_diversity(script, abar):
    region, z = script.Region(), script.normal_sample(1000)
    one = script.chain(region, z, uniform_steps(1000, 1), abar, script.ODE)
    assert script.probability(one, region) == pytest.approx(0.7, abs=1e-3)  # every member is the mean
    assert one.std() < 1e-2
    assert script.frequencies(region, abar, script.SDE, (2,), members=1000) == [1]


@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_orders_of_the_ode(script, abar, heun, order):
    coarse, fine = script.frequencies(script.Region(0.5), abar, script.ODE, (41, 81), heun=heun)
    assert math.log2(abs(coarse - 0.7) / abs(fine - 0.7)) == pytest.approx(order, abs=0.3)


def test_small_parts_by_hand(script):
    assert script.enough((1, 2, 3, 4), (0.01, 0.5, 0.02, 0.001)) == 3
    assert script.enough((1, 2), (0.01, 0.5)) is None
    assert script.undecided(script.Region(), number(1e-12)) == pytest.approx(1, abs=1e-3)
    assert script.undecided(script.Region(), number(0.9)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_page_shows_what_the_script_prints(script, abar):
    page = (DOCS / "explanation" / "few-steps.md").read_text(encoding="utf-8")
    for table in (script.evidence_table, script.early_table, script.amplitude_table):
        assert "\n".join(table(abar)[2:]) in page
    assert "\n".join(script.spread_table(abar)) in page
    for row in script.start_table(abar)[2:]:  # the SDE's numbers vary slightly by chance
        assert "|".join(row.split("|")[:7]) in page
    assert script.equal_starts(abar) == [509, 300, 156]
    assert "T' = 300 for them equals T' = 509 for {-1, 1} and T' = 156 for s = 0.25" in page
    assert [script.decision_index(abar, n) for n in (1, 50, 5000)] == [495, 909, 990]
    assert "index 495 for one voxel, at 909 for 50, and at 990" in page


def test_spread_of_known_chains(script, abar):
    # the posterior mean of one call is the same for all members but for the noise that it takes for evidence
    deviation = 0.25 * 100**0.5
    one = abar[900].sqrt() * deviation / (abar[900] * deviation**2 + 1 - abar[900]) * (1 - abar[900]).sqrt()
    assert script.gaussian_spread(abar, [900], 100) == pytest.approx(float(one))
    assert script.gaussian_spread(abar, list(range(999, -1, -1)), 100) == pytest.approx(1, abs=0.01)
