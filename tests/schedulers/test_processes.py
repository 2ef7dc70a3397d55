from itertools import pairwise

import pytest
import torch

from monai_pdddpm.schedulers import (
    AncestralRule,
    Chain,
    DDIMRule,
    chain_step,
    check_residual_start,
    cumulative_schedule,
    is_residual,
    noisy_state,
    start_state,
    uniform_steps,
)
from monai_pdddpm.utils.errors import UserError

RULES = [DDIMRule(0.0), DDIMRule(0.5), DDIMRule(1.0), AncestralRule("fixed_small"), AncestralRule("fixed_large")]
LISTS = {
    "full": list(range(663, -1, -1)),
    "uniform": uniform_steps(664, 5),
    "uneven": [663, 600, 545, 465, 310, 155, 0],
    "early end": uniform_steps(664, 6, 250),
    "single": [663],
}
PROCESSES = [False, True]
PAIRS = [(1, 0), (10, 9), (663, 662), (663, 400), (300, 7), (663, 0), (500, None), (0, None)]
ONE = torch.ones((), dtype=torch.float64)


@pytest.fixture(scope="module")
def abar():
    return cumulative_schedule(1000, "cosine").double()


@pytest.fixture
def states():
    """A true state, a presegmentation that is wrong in places, and noise."""
    generator = torch.Generator().manual_seed(0)
    truth, presegmentation = (torch.randint(3, (2, 5, 5), generator=generator) for _ in range(2))
    x_0, x_pre = (torch.nn.functional.one_hot(x, 3).movedim(-1, 1).double() * 2 - 1 for x in (truth, presegmentation))
    return x_0, x_pre, torch.randn(x_0.shape, generator=generator, dtype=torch.float64)


def step(rule, x_t, x_0, x_pre, abar_t, abar_prev, noise=None, residual=False):
    chain = Chain([], [], rule.eta, rule.large_variance)
    return chain_step(x_t, x_0, x_pre, abar_t, abar_prev, noise, chain, residual)


def at(abar, t):
    return ONE if t is None else abar[t]


def mean_coefficients(residual, abar_t):
    """Factors of x_0, x_pre and noise in x_t."""
    zero, one = torch.zeros(()).double(), torch.ones(()).double()
    return [
        noisy_state(x_0, x_pre, abar_t, noise, residual)
        for x_0, x_pre, noise in ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    ]


def test_noisy_states_by_hand():
    # abar = 0.64: sqrt is 0.8, the noise's factor 0.6.
    abar = torch.tensor(0.64).double()
    expected = torch.tensor([0.8, 0.0, 0.6]).double()
    torch.testing.assert_close(torch.stack(mean_coefficients(False, abar)), expected)
    expected = torch.tensor([0.6, 0.2, 0.6]).double()
    torch.testing.assert_close(torch.stack(mean_coefficients(True, abar)), expected)


def test_the_residual_process_is_a_diffusion_beside_the_residual(abar, states):
    # x_t - R is an ordinary diffusion of x_0 - R, with R = x_pre - x_0 (Resfusion).
    x_0, x_pre, noise = states
    residual = x_pre - x_0
    for t in (0, 100, 663, 999):
        found = noisy_state(x_0, x_pre, abar[t], noise, True) - residual
        torch.testing.assert_close(found, start_state(x_0 - residual, noise, abar[t]))


def test_both_processes_are_one_where_the_proposal_is_right(abar, states):
    x_0, _, noise = states
    for t, previous in PAIRS:
        x_t = noisy_state(x_0, x_0, abar[t], noise)
        assert torch.equal(noisy_state(x_0, -x_0, abar[t], noise), x_t)  # the usual process has no pre-segmentation
        torch.testing.assert_close(noisy_state(x_0, x_0, abar[t], noise, True), x_t)
        for rule in RULES:
            arguments = (rule, x_t, x_0, x_0, abar[t], at(abar, previous), noise)
            torch.testing.assert_close(step(*arguments, residual=True), step(*arguments))


@pytest.mark.parametrize("residual", PROCESSES, ids=["ddpm", "residual"])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("steps", LISTS.values(), ids=LISTS)
def test_a_perfect_denoiser_is_recovered(residual, rule, steps, abar, states):
    x_0, x_pre, noise = states
    generator = torch.Generator().manual_seed(1)
    x = start_state(x_pre, noise, abar[steps[0]])
    for t, previous in pairwise([*steps, None]):
        fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = step(rule, x, x_0, x_pre, abar[t], at(abar, previous), fresh, residual)
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("residual", PROCESSES, ids=["ddpm", "residual"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_step_with_the_true_x0_lands_in_the_training_distribution(residual, rule, abar):
    """x_prev = m(x_t) + s noise is linear; composed with x_t's law it must be x_prev's law."""
    zero, one = torch.zeros(()).double(), torch.ones(()).double()
    for t, previous in PAIRS:
        abar_t, abar_prev = abar[t], at(abar, previous)
        truth_t, pre_t, sigma_t = mean_coefficients(residual, abar_t)
        truth, presegmentation, sigma = mean_coefficients(residual, abar_prev)

        def one_step(x_t, x_0, x_pre, noise, pair=(abar_t, abar_prev)):
            return step(rule, x_t, x_0, x_pre, *pair, noise, residual)

        torch.testing.assert_close(one_step(truth_t, one, zero, zero), truth, rtol=0, atol=1e-9)
        torch.testing.assert_close(one_step(pre_t, zero, one, zero), presegmentation, rtol=0, atol=1e-9)
        old, new = one_step(sigma_t, zero, zero, zero), one_step(zero, zero, zero, one)
        variance = old**2 + new**2
        if rule == AncestralRule("fixed_large"):
            assert variance >= sigma**2 * (1 - 1e-9)  # too large by design
        else:
            torch.testing.assert_close(variance, sigma**2, rtol=1e-9, atol=1e-12)


def test_every_way_of_training_has_its_process():
    assert not any(is_residual(training) for training in ("ddpm", "presegmentation", "recycled"))
    assert is_residual("residual")
    with pytest.raises(UserError, match=r"^training_process: found 'resfusion'"):
        is_residual("resfusion")


def test_the_residual_process_begins_where_no_truth_is_left():
    abar = torch.tensor([0.9, 0.5, 0.25, 0.1])
    check_residual_start(2, abar)  # sqrt(0.25) = 1/2
    with pytest.raises(UserError, match=r"^start_step: found 4, expected at most 3 for .* give --start_step 3, "):
        check_residual_start(3, abar)
