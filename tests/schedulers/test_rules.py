from itertools import pairwise

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from monai_pdddpm.schedulers import (
    AncestralRule,
    DDIMRule,
    cumulative_schedule,
    predicted_x0,
    regression_target,
    reverse_step,
    start_state,
    uniform_steps,
)

SMALL, LARGE = AncestralRule("fixed_small"), AncestralRule("fixed_large")
RULES = [DDIMRule(0.0), DDIMRule(0.5), DDIMRule(1.0), SMALL, LARGE]
POSTERIORS = [DDIMRule(0.0), DDIMRule(0.5), DDIMRule(1.0), SMALL]  # those that keep q(x_t | x_0)
LISTS = {
    "full": list(range(999, -1, -1)),
    "uniform": uniform_steps(900, 5),
    "uneven": [999, 939, 879, 819, 759, 699, 525, 350, 175, 0],
    "truncated": uniform_steps(300, 10),
    "early end": uniform_steps(664, 6, 250),
    "single": [899],
}
# MONAI's names for what a network predicts.
MONAI_PREDICTION = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
ONE = torch.ones((), dtype=torch.float64)


@pytest.fixture(scope="module", params=["cosine", "linear_beta"])
def abar(request):
    return cumulative_schedule(1000, request.param).double()


@pytest.fixture
def x_0():
    labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double() * 2 - 1


def with_end(steps):
    """Pairs (t, t_prev); after the last index comes None, the clean state."""
    return pairwise([*steps, None])


def step(rule, x_t, x_0, abar_t, abar_prev, noise=None):
    return reverse_step(x_t, x_0, abar_t, abar_prev, noise, rule.eta, rule.large_variance)


def at(abar, t):
    return ONE.to(abar.dtype) if t is None else abar[t]


def coefficients(rule, abar_t, abar_prev):
    """Factors of x_0, x_t and noise in x_prev, and that nothing else is added: the rules are linear."""
    zero, one = torch.zeros_like(abar_t), torch.ones_like(abar_t)
    of_x0, of_xt, of_noise = (
        step(rule, x_t, x_0, abar_t, abar_prev, noise)
        for x_0, x_t, noise in ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    )
    torch.testing.assert_close(step(rule, zero, zero, abar_t, abar_prev, zero), zero)
    combined = step(rule, -3 * one, 2 * one, abar_t, abar_prev, 0.5 * one)
    torch.testing.assert_close(combined, 2 * of_x0 - 3 * of_xt + 0.5 * of_noise)
    return of_x0, of_xt, of_noise


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("steps", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_a_perfect_denoiser_is_recovered(rule, steps, prediction, abar, x_0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    for t, previous in with_end(steps):
        if prediction == "x0":
            predicted = predicted_x0(50 * x_0, x, abar[t], "x0", -1.0, 1.0).double()
        else:
            output = regression_target(x_0, x, abar[t], prediction)
            predicted = predicted_x0(output, x, abar[t], prediction, -1.0, 1.0)
        noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
        x = step(rule, x, predicted, abar[t], at(abar, previous), noise)
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_chain_holds_in_float32(rule, abar, x_0):
    # What the product runs in. abar falls to 2e-9, and 1 - abar starts at 4e-5: nothing may overflow or cancel.
    abar, x_0, generator = abar.float(), x_0.float(), torch.Generator().manual_seed(1)
    x = torch.randn(x_0.shape, generator=generator)
    for t, previous in with_end(LISTS["full"]):
        x = step(rule, x, x_0, abar[t], at(abar, previous), torch.randn(x_0.shape, generator=generator))
        assert x.dtype == torch.float32
        assert x.abs().max() < 7
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", LISTS.values(), ids=LISTS)
def test_ddim_follows_one_noise_field_all_the_way(steps, abar, x_0):
    # With eta 0 and the true x_0 every state is the start's noise at another level: all of it is in the start.
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = start_state(x_0, eps, abar[steps[0]])
    for t, previous in with_end(steps):
        x = step(DDIMRule(), x, x_0, abar[t], at(abar, previous))
        torch.testing.assert_close(x, start_state(x_0, eps, at(abar, previous)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", POSTERIORS, ids=str)
def test_a_step_with_the_true_x0_keeps_the_marginal(rule, abar):
    # x_t ~ N(sqrt(abar_t) x_0, 1 - abar_t) must give x_prev ~ N(sqrt(abar_prev) x_0, 1 - abar_prev), for any pair.
    for t, previous in [(1, 0), (10, 9), (999, 998), (899, 674), (999, 0), (300, 7), (500, None), (0, None)]:
        abar_t, abar_prev = abar[t], at(abar, previous)
        of_x0, of_xt, of_noise = coefficients(rule, abar_t, abar_prev)
        torch.testing.assert_close(of_x0 + of_xt * abar_t.sqrt(), abar_prev.sqrt(), rtol=0, atol=1e-9)
        variance = of_xt**2 * (1 - abar_t) + of_noise**2
        torch.testing.assert_close(variance, 1 - abar_prev, rtol=1e-9, atol=1e-12)


def test_the_ancestral_step_is_the_posterior_by_bayes(abar):
    # q(x_prev | x_t, x_0) from its definition: prior N(sqrt(abar_prev) x_0, 1 - abar_prev), likelihood
    # N(x_t; sqrt(alpha) x_prev, beta); precisions add.
    for t, previous in [(1, 0), (899, 674), (999, 0), (300, 299)]:
        alpha = abar[t] / abar[previous]
        precision = 1 / (1 - abar[previous]) + alpha / (1 - alpha)
        of_x0, of_xt, of_noise = coefficients(SMALL, abar[t], abar[previous])
        torch.testing.assert_close(of_noise**2, 1 / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(of_x0, abar[previous].sqrt() / (1 - abar[previous]) / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(of_xt, alpha.sqrt() / (1 - alpha) / precision, rtol=1e-9, atol=1e-12)


def test_the_large_variance_is_beta_with_the_same_mean(abar):
    for t, previous in [(1, 0), (899, 674), (999, 0), (300, 299)]:
        small, large = coefficients(SMALL, abar[t], abar[previous]), coefficients(LARGE, abar[t], abar[previous])
        assert small[:2] == large[:2]
        torch.testing.assert_close(large[2] ** 2, 1 - abar[t] / abar[previous])
        assert large[2] > small[2]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_end_of_the_chain_is_the_prediction_without_noise(rule, abar):
    x_t, x_0, noise = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0, 300, 999):
        torch.testing.assert_close(step(rule, x_t, x_0, abar[t], ONE, 100 * noise), x_0, rtol=0, atol=1e-12)


def test_rounding_leaves_no_negative_variance():
    # between these times the noise takes all of the variance, and in float32 6e-8 more
    abar, one = cumulative_schedule(1000, "cosine"), torch.ones(())
    assert 1 - abar[2] < 1e-3
    torch.testing.assert_close(reverse_step(one, one, abar[984], abar[2], one * 0, 1.0), abar[2].sqrt())


def test_eta_scales_the_noise(abar):
    zero, one = torch.zeros(()).double(), torch.ones(()).double()
    full = reverse_step(zero, zero, abar[500], abar[300], one, 1.0)
    assert full > 0.1
    torch.testing.assert_close(reverse_step(zero, zero, abar[500], abar[300], one, 0.3), 0.3 * full)
    assert reverse_step(zero, zero, abar[500], abar[300], one) == 0
    with pytest.raises(ValueError, match=r"^noise: found None"):
        reverse_step(zero, zero, abar[500], abar[300], eta=0.3)


def test_wrong_rules_are_named():
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"^eta: found {eta}"):
            DDIMRule(eta)
    with pytest.raises(ValueError, match=r"^variance: found 'learned'"):
        AncestralRule("learned")


class Network:
    """Some smooth function of state and time, in float32 as a network's output; x_0 and v stay within (-1, 1)."""

    def __init__(self):
        self.weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def __call__(self, x, t):
        return 0.9 * torch.sin(torch.einsum("ij,bjk->bik", self.weight, x) + 0.01 * t).float().double()


@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
@pytest.mark.parametrize("prediction", MONAI_PREDICTION)
@pytest.mark.parametrize("rule", [DDIMRule(0.0), DDIMRule(1.0), SMALL, LARGE], ids=str)
def test_with_every_step_the_rules_are_monais(schedule, prediction, rule):
    # Without clipping: MONAI clips x_0 and keeps the noise of the unclipped one.
    length, kind, options, extra = 50, MONAI_PREDICTION[prediction], {"clip_sample": False}, {}
    if isinstance(rule, DDIMRule):
        theirs, extra = DDIMScheduler(length, schedule, prediction_type=kind, **options), {"eta": rule.eta}
    else:
        theirs = DDPMScheduler(length, schedule, variance_type=rule.variance, prediction_type=kind, **options)
    # arithmetic in float64, so that agreement can be exact
    theirs.betas = theirs.betas.double()
    theirs.alphas = 1 - theirs.betas
    abar = theirs.alphas_cumprod = torch.cumprod(theirs.alphas, dim=0)
    theirs.one = theirs.final_alpha_cumprod = ONE
    theirs.set_timesteps(length)
    steps, network = uniform_steps(length, length), Network()
    assert theirs.timesteps.tolist() == steps
    our_noise, their_noise = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)

    def output(x, t):
        return regression_target(network(x, t), x, abar[t], prediction).float().double()

    ours = expected = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t, previous in with_end(steps):
        expected, _ = theirs.step(output(expected, t), t, expected, generator=their_noise, **extra)
        noise = torch.randn(ours.shape, generator=our_noise, dtype=ours.dtype)
        found = output(ours, t)
        x_0 = found if prediction == "x0" else predicted_x0(found, ours, abar[t], prediction, -1.0, 1.0)
        ours = step(rule, ours, x_0, abar[t], at(abar, previous), noise)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1
