"""The script behind docs/explanation/few-steps.md: its formulas on known answers, and its tables on the page."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from monai_pdddpm.schedulers import DDIMRule, cumulative_schedule, signal_to_noise, uniform_steps

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_why_few_steps", DOCS / "make_why_few_steps.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


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


def test_rules_are_eulers_method_on_their_clocks(script, abar):
    region, y, (t, u) = script.Region(), torch.linspace(-3, 3, 7, dtype=torch.float64), (940, 880)
    x_0, z = region.denoise(y, abar[t]), torch.ones(7, dtype=torch.float64)
    snr = signal_to_noise(abar)
    ode, sde = script.clocks(y, abar[t])
    after = script.clocks(script.ODE(y, x_0, abar[t], abar[u]), abar[u])[0]
    torch.testing.assert_close(after, ode + (snr[u].sqrt() - snr[t].sqrt()) * x_0)
    after = script.clocks(script.SDE(y, x_0, abar[t], abar[u], z), abar[u])[1]
    torch.testing.assert_close(after, sde + (snr[u] - snr[t]) * x_0 + (snr[u] - snr[t]).sqrt() * z)
    torch.testing.assert_close(DDIMRule(1.0)(y, x_0, abar[t], abar[u], z), script.SDE(y, x_0, abar[t], abar[u], z))


def test_all_lists_share_one_brownian_motion(script, abar):
    noise, snr = script.common_noise(abar, 4000, 0), signal_to_noise(abar)
    parts = [noise(a, b) * (snr[b] - snr[a]).sqrt() for a, b in ((999, 900), (900, 700))]
    torch.testing.assert_close(sum(parts), noise(999, 700) * (snr[700] - snr[999]).sqrt())
    assert noise(900, 700).var().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("exact", ["exact_frequency_ode", "exact_frequency_sde"])
def test_exact_frequencies(script, abar, exact):
    exact, region = getattr(script, exact), script.Region()
    assert exact(region, abar[-1], 0) == pytest.approx(0.7, abs=1e-3)  # noise: the image's probability
    right, wrong = (exact(region, abar[899], presegmentation) for presegmentation in (1, -1))
    assert 0.7 * right + 0.3 * wrong == pytest.approx(0.7, abs=1e-4)  # presegmentations as good as the image
    assert exact(region, abar[299], -1) < 1e-6  # nothing is left to decide


def test_many_steps_reach_the_exact_frequency(script, abar):
    region, presegmentation, start = script.Region(), -1, 920
    ode = script.frequencies(region, abar, start, presegmentation, script.ODE, (920,))[0]
    assert ode == pytest.approx(script.exact_frequency_ode(region, abar[start - 1], presegmentation), abs=2e-3)
    first = region.start(presegmentation, abar[start - 1], script.normal_sample(10_000))
    sde = script.chain(region, first, uniform_steps(start, 920), abar, script.SDE, script.fresh_noise(10_000))
    exact = script.exact_frequency_sde(region, abar[start - 1], presegmentation)
    assert script.frequency(sde) == pytest.approx(exact, abs=0.02)


def test_one_and_two_steps_lose_all_diversity(script, abar):
    region, z = script.Region(), script.normal_sample(1000)
    one = script.chain(region, z, uniform_steps(1000, 1), abar, script.ODE)
    assert script.probability(one, region) == pytest.approx(0.7, abs=1e-3)  # every member is the mean
    assert one.std() < 1e-2
    two = script.chain(region, z, uniform_steps(1000, 2), abar, script.SDE, script.fresh_noise(1000))
    assert script.frequency(two) == 1


@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_orders_of_the_ode(script, abar, heun, order):
    region = script.Region(0.5)
    coarse, fine = (abs(script.frequency_ode(region, abar, n, heun) - 0.7) for n in (41, 81))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_sde_is_of_first_order_in_paths(script, abar):
    (_, coarse), (_, fine) = script.errors_sde(script.Region(0.5), abar, [(11, False), (41, False)], 1, 8000)
    assert math.log(coarse / fine, 4) == pytest.approx(1, abs=0.25)


def test_fits_by_hand(script):
    assert script.slope((10, 20, 40), (9, 1, 0.25)) == pytest.approx(-2)
    assert script.enough((1, 2, 3, 4), (0.01, 0.5, 0.02, 0.001)) == 3
    assert script.enough((1, 2), (0.01, 0.5)) is None
    assert script.undecided(script.Region(), number(1e-12)) == pytest.approx(1, abs=1e-3)
    assert script.undecided(script.Region(), number(0.9)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_page_shows_what_the_script_prints(script, abar):
    page = (DOCS / "explanation" / "few-steps.md").read_text(encoding="utf-8")
    for table in (script.evidence_table, script.early_table, script.amplitude_table):
        assert "\n".join(table(abar)[2:]) in page
    for row in script.start_table(abar)[2:]:  # the SDE's numbers vary slightly by chance
        assert "|".join(row.split("|")[:7]) in page
    assert script.equal_starts(abar) == [509, 300, 156]
    assert "T' = 300 for them equals T' = 509 for {-1, 1} and T' = 156 for s = 0.25" in page
    assert [script.decision_index(abar, n) for n in (1, 50, 5000)] == [495, 909, 990]
    assert "index 495 for one voxel, at 909 for 50, and at 990" in page
