from itertools import pairwise

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from monai_pdddpm.schedulers import (
    AncestralRule,
    DDIMRule,
    cumulative_schedule,
    ddim_step,
    predicted_x0,
    regression_target,
    start_state,
    uneven_steps,
    uniform_steps,
)

SMALL, LARGE = AncestralRule("fixed_small"), AncestralRule("fixed_large")
RULES = [DDIMRule(0.0), DDIMRule(0.5), DDIMRule(1.0), SMALL, LARGE]
POSTERIORS = [DDIMRule(0.0), DDIMRule(0.5), DDIMRule(1.0), SMALL]  # those that keep q(x_t | x_0)
LISTS = {
    "full": list(range(999, -1, -1)),
    "uniform": uniform_steps(900, 5),
    "uneven": uneven_steps(1000, 10),
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


def at(abar, t):
    return ONE.to(abar.dtype) if t is None else abar[t]


def coefficients(rule, abar_t, abar_prev):
    """Factors of x_0, x_t and noise in x_prev, and that nothing else is added: the rules are linear."""
    zero, one = torch.zeros_like(abar_t), torch.ones_like(abar_t)
    of_x0, of_xt, of_noise = (
        rule(x_t, x_0, abar_t, abar_prev, noise)
        for x_0, x_t, noise in ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    )
    torch.testing.assert_close(rule(zero, zero, abar_t, abar_prev, zero), zero)
    combined = rule(-3 * one, 2 * one, abar_t, abar_prev, 0.5 * one)
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
        x = rule(x, predicted, abar[t], at(abar, previous), noise)
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_chain_holds_in_float32(rule, abar, x_0):
    # What the product runs in. abar falls to 2e-9, and 1 - abar starts at 4e-5: nothing may overflow or cancel.
    abar, x_0, generator = abar.float(), x_0.float(), torch.Generator().manual_seed(1)
    x = torch.randn(x_0.shape, generator=generator)
    for t, previous in with_end(LISTS["full"]):
        x = rule(x, x_0, abar[t], at(abar, previous), torch.randn(x_0.shape, generator=generator))
        assert x.dtype == torch.float32
        assert x.abs().max() < 7
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", LISTS.values(), ids=LISTS)
def test_ddim_follows_one_noise_field_all_the_way(steps, abar, x_0):
    # With eta 0 and the true x_0 every state is the start's noise at another level: all of it is in the start.
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = start_state(x_0, eps, abar[steps[0]])
    for t, previous in with_end(steps):
        x = DDIMRule()(x, x_0, abar[t], at(abar, previous))
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


def test_the_marginal_holds_at_every_step_of_a_sampled_chain(abar):
    # The same by sampling, rule after rule, so that errors would add up.
    generator, n = torch.Generator().manual_seed(0), 100_000
    truth = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for rule in POSTERIORS:
        x = start_state(truth, torch.randn(2, n, generator=generator, dtype=torch.float64), abar[899])
        for t, previous in pairwise([899, 674, 449, 225, 20]):
            x = rule(x, truth, abar[t], abar[previous], torch.randn(2, n, generator=generator, dtype=torch.float64))
            sigma = float((1 - abar[previous]).sqrt())
            expected = abar[previous].sqrt() * truth[:, 0]
            torch.testing.assert_close(x.mean(dim=1), expected, rtol=0, atol=5 * sigma / n**0.5)
            torch.testing.assert_close(x.std(dim=1) / sigma, torch.ones(2).double(), rtol=0, atol=5 / (2 * n) ** 0.5)


def test_the_ancestral_step_is_the_posterior_by_bayes(abar):
    # q(x_prev | x_t, x_0) from its definition: prior N(sqrt(abar_prev) x_0, 1 - abar_prev), likelihood
    # N(x_t; sqrt(alpha) x_prev, beta); precisions add.
    for t, previous in [(1, 0), (899, 674), (999, 0), (300, 299)]:
        alpha = abar[t] / abar[previous]
        precision = 1 / (1 - abar[previous]) + alpha / (1 - alpha)
        of_x0, of_xt, of_noise = coefficients(SMALL, abar[t], abar[previous])
        torch.testing.assert_close(of_noise**2, 1 / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(of_x0, abar[previous].sqrt() / (1 - abar[previous]) / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(of_xt, alpha.sqrt() / (1 - alpha) / precision, rtol=1e-9, atol=0)


def test_the_large_variance_is_beta_with_the_same_mean(abar):
    for t, previous in [(1, 0), (899, 674), (999, 0), (300, 299)]:
        small, large = coefficients(SMALL, abar[t], abar[previous]), coefficients(LARGE, abar[t], abar[previous])
        assert small[:2] == large[:2]
        torch.testing.assert_close(large[2] ** 2, 1 - abar[t] / abar[previous])
        assert large[2] > small[2]


def test_ddim_with_eta_1_is_the_ancestral_rule(abar):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        previous, t = sorted(torch.randperm(1000, generator=generator)[:2].tolist())
        x_t, x_0, noise = torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64)
        expected = SMALL(x_t, x_0, abar[t], abar[previous], noise)
        torch.testing.assert_close(DDIMRule(1.0)(x_t, x_0, abar[t], abar[previous], noise), expected)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_end_of_the_chain_is_the_prediction_without_noise(rule, abar):
    x_t, x_0, noise = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0, 300, 999):
        torch.testing.assert_close(rule(x_t, x_0, abar[t], ONE, 100 * noise), x_0, rtol=0, atol=1e-12)


def test_the_ancestral_rule_has_full_noise():
    assert AncestralRule().eta == 1


def test_eta_scales_the_noise(abar):
    zero, one = torch.zeros(()).double(), torch.ones(()).double()
    full = ddim_step(zero, zero, abar[500], abar[300], 1.0, one)
    assert full > 0.1
    torch.testing.assert_close(ddim_step(zero, zero, abar[500], abar[300], 0.3, one), 0.3 * full)
    assert ddim_step(zero, zero, abar[500], abar[300], 0.0, one) == 0
    with pytest.raises(ValueError, match=r"^noise: found None"):
        ddim_step(zero, zero, abar[500], abar[300], 0.3)


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
        return torch.sin(torch.einsum("ij,bjk->bik", self.weight, x) + 0.01 * t).float().double()


def in_float64(scheduler):
    """A scheduler of MONAI's with its arithmetic in float64, so that agreement can be exact."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = scheduler.final_alpha_cumprod = ONE
    return scheduler


def our_x0(output, x, abar_t, prediction):
    # MONAI's schedulers take x_0 itself and not its logits.
    return output.clamp(-1, 1) if prediction == "x0" else predicted_x0(output, x, abar_t, prediction, -1.0, 1.0)


@pytest.fixture
def start():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("length", [50, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
@pytest.mark.parametrize("prediction", MONAI_PREDICTION)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_with_every_step_the_ancestral_rule_is_monais(length, schedule, prediction, variance, start):
    kind = MONAI_PREDICTION[prediction]
    theirs = in_float64(DDPMScheduler(length, schedule, variance_type=variance, prediction_type=kind))
    abar, rule, network = theirs.alphas_cumprod, AncestralRule(variance), Network()
    our_noise, their_noise = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    ours = expected = start
    theirs.set_timesteps(length)
    assert theirs.timesteps.tolist() == uniform_steps(length, length)
    for t, previous in with_end(uniform_steps(length, length)):
        expected, _ = theirs.step(network(expected, t), t, expected, generator=their_noise)
        noise = torch.randn(start.shape, generator=our_noise, dtype=start.dtype)
        predicted = our_x0(network(ours, t), ours, abar[t], prediction)
        ours = rule(ours, predicted, abar[t], at(abar, previous), noise)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("length", [50, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
@pytest.mark.parametrize("prediction", MONAI_PREDICTION)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_every_step_the_ddim_rule_is_monais(length, schedule, prediction, eta, start):
    # Without clipping: MONAI clips x_0 and keeps the noise of the unclipped one.
    kind = MONAI_PREDICTION[prediction]
    theirs = in_float64(DDIMScheduler(length, schedule, clip_sample=False, prediction_type=kind))
    abar, rule, network = theirs.alphas_cumprod, DDIMRule(eta), Network()
    our_noise, their_noise = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)

    def output(x, t):
        x_0 = 0.9 * network(x, t)
        return regression_target(x_0, x, abar[t], prediction).float().double()

    ours = expected = start
    theirs.set_timesteps(length)
    for t, previous in with_end(uniform_steps(length, length)):
        expected, _ = theirs.step(output(expected, t), t, expected, eta=eta, generator=their_noise)
        noise = torch.randn(start.shape, generator=our_noise, dtype=start.dtype)
        predicted = our_x0(output(ours, t), ours, abar[t], prediction)
        ours = rule(ours, predicted, abar[t], at(abar, previous), noise)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


# Why the pair of times is explicit here: what MONAI's schedulers do with a respaced list.


@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
def test_monais_ddpm_steps_leave_too_much_noise_on_a_respaced_list(schedule):
    theirs = in_float64(DDPMScheduler(1000, schedule, prediction_type="sample"))
    theirs.set_timesteps(10)
    abar, truth = theirs.alphas_cumprod, torch.ones(1, 1, 20_000, dtype=torch.float64)
    their_noise, our_noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    ours = expected = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t, previous in pairwise(theirs.timesteps.tolist()):
        expected, _ = theirs.step(truth, t, expected, generator=their_noise)
        noise = torch.randn(truth.shape, generator=our_noise, dtype=torch.float64)
        ours = SMALL(ours, truth, abar[t], abar[previous], noise)
    # both get the truth at every step; this is the state at t = 0
    should = float((1 - abar[0]).sqrt())
    assert should <= 0.011
    assert float(ours.std()) == pytest.approx(should, rel=0.03)
    assert float(expected.std()) > 0.9  # hardly less than at the start


def test_monais_ddim_steps_land_beside_its_own_respaced_list():
    theirs = in_float64(DDIMScheduler(1000, "linear_beta", prediction_type="sample"))
    theirs.set_timesteps(10)
    assert theirs.timesteps[:3].tolist() == [999, 888, 777]
    abar, truth = theirs.alphas_cumprod, torch.ones(1, 1, 4, dtype=torch.float64)
    eps = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, _ = theirs.step(truth, 999, start_state(truth, eps, abar[999]))
    torch.testing.assert_close(found, start_state(truth, eps, abar[899]))  # not 888
    ours = DDIMRule()(start_state(truth, eps, abar[999]), truth, abar[999], abar[888])
    torch.testing.assert_close(ours, start_state(truth, eps, abar[888]))
    assert (ours - found).abs().max() > 1e-3


def test_rounding_makes_no_square_root_of_a_negative_number():
    # at abar_t = 0 and eta = 1 nothing of the direction is left: 1 - abar_prev - sigma^2 is 0 up to rounding
    x, ones = torch.zeros(1), torch.ones(1)
    for abar_prev in torch.linspace(0.01, 0.99, 99):
        found = ddim_step(x, x, torch.tensor(0.0), abar_prev, 1.0, ones)
        torch.testing.assert_close(found, (1 - abar_prev).sqrt().reshape(1))
