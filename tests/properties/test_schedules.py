"""Any schedule, list of steps and pair of times."""

from itertools import pairwise

import hypothesis.extra.numpy as arrays
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from monai_pdddpm.schedulers import (
    Chain,
    ancestral_step,
    chain_step,
    check_steps,
    cumulative_schedule,
    ddim_step,
    decode_probabilities,
    early_end,
    encode_labels,
    noisy_state,
    predicted_x0,
    regression_target,
    start_state,
    uneven_steps,
    uniform_steps,
)

SCHEDULES = ("cosine", "linear_beta", "scaled_linear_beta", "sigmoid_beta")
RANGES = [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)]  # of a state: no class there, and the class
ZERO = torch.zeros(1, dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


@st.composite
def lists(draw):
    """T', how many steps, and where they end."""
    start = draw(st.integers(1, 1000))
    end = draw(st.integers(0, start - 1))
    return start, draw(st.integers(1, start - end)), end


@st.composite
def times(draw):
    """Two values of abar of one schedule, the noisier one first; the second may be the end of the chain."""
    count = draw(st.integers(2, 1000))
    abar = cumulative_schedule(count, draw(st.sampled_from(SCHEDULES))).double()
    t = draw(st.integers(0, count - 1))
    before = draw(st.integers(-1, t))
    return abar[t], abar[before] if before >= 0 else ONE[0]


def states(low=-3.0, high=3.0, shape=(2, 3, 4)):
    return arrays.arrays("f4", shape, elements=st.floats(low, high, width=32)).map(lambda a: torch.tensor(a).double())


def probabilities():
    return states(-20, 20).map(lambda logits: logits.softmax(dim=1))


def assert_same(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


class TestSteps:
    @given(lists())
    def test_uniform(self, asked):
        start, steps, end = asked
        found = check_steps(uniform_steps(start, steps, end), start)  # descending, each once, below T'
        assert len(found) == steps
        assert found[0] == start - 1
        assert found[-1] == end or len(found) == 1
        gaps = [a - b for a, b in pairwise(found)]
        assert not gaps or max(gaps) - min(gaps) <= 1

    @given(lists())
    def test_uneven(self, asked):
        start, steps, end = asked
        found = check_steps(uneven_steps(start, steps, end), start)
        assert 1 <= len(found) <= steps
        assert found[0] == start - 1
        assert found[-1] == end or len(found) == 1

    @given(st.integers(1, 1000), st.floats(0, 1), st.integers(1, 50))
    def test_an_early_end_is_an_end(self, start, share, steps):
        end = early_end(start, share)
        assert end <= share * start
        assert uniform_steps(start, min(steps, start - end), end)[-1] >= end >= 0

    @given(st.lists(st.integers(-3, 12), max_size=6))
    def test_all_other_lists_are_refused(self, listed):
        right = listed == sorted(set(listed), reverse=True) and set(listed) <= set(range(10))
        if right:
            assert check_steps(listed, 10) == listed
        else:
            with pytest.raises(ValueError, match="strictly descending"):
                check_steps(listed, 10)


@given(st.sampled_from(SCHEDULES), st.integers(1, 2000))
def test_a_schedule_falls_between_one_and_zero(schedule, count):
    abar = cumulative_schedule(count, schedule)
    assert abar.shape == (count,)
    assert 0 < abar[-1] <= abar[0] < 1  # 1 would leave a noise that nobody can tell
    assert (abar.diff() < 0).all()


class TestRules:
    @given(times(), states(), states())
    def test_ddim_from_a_time_to_itself_stays(self, pair, x_t, x_0):
        abar_t, _ = pair
        assert_same(ddim_step(x_t, x_0, abar_t, abar_t), x_t, 1e-6)

    @given(times(), states(), states())
    def test_ddim_with_the_truth_stays_on_the_way(self, pair, x_0, eps):
        abar_t, abar_prev = pair
        found = ddim_step(start_state(x_0, eps, abar_t), x_0, abar_t, abar_prev)
        assert_same(found, start_state(x_0, eps, abar_prev), 1e-6)

    @given(times(), st.floats(0, 1))
    def test_ddim_keeps_the_variance_of_the_time(self, pair, eta):
        """Of unit noise in the state and unit noise of its own comes 1 - abar_prev, at any eta."""
        abar_t, abar_prev = pair
        assume(abar_prev > abar_t)
        kept = ddim_step((1 - abar_t).sqrt(), ZERO, abar_t, abar_prev, eta, ZERO)
        fresh = ddim_step(ZERO, ZERO, abar_t, abar_prev, eta, ONE)
        assert_same(kept**2 + fresh**2, 1 - abar_prev + ZERO)

    @given(times(), states(), states(), states())
    def test_ancestral_is_ddim_at_eta_one(self, pair, x_t, x_0, noise):
        abar_t, abar_prev = pair
        assume(abar_prev > abar_t)
        found = ancestral_step(x_t, x_0, abar_t, abar_prev, noise)
        assert_same(found, ddim_step(x_t, x_0, abar_t, abar_prev, 1.0, noise), 1e-6)

    @given(times(), states(), states(), states(), st.booleans())
    def test_a_process_is_undone_by_its_step(self, pair, x_0, x_pre, eps, residual):
        abar_t, abar_prev = pair
        x_t = noisy_state(x_0, x_pre, abar_t, eps, residual)
        found = chain_step(x_t, x_0, x_pre, abar_t, abar_prev, None, Chain([], [], residual=residual))
        assert_same(found, noisy_state(x_0, x_pre, abar_prev, eps, residual), 1e-6)


class TestPredictions:
    @given(probabilities(), st.sampled_from(RANGES))
    def test_labels_come_back(self, p, ends):
        assert_same(decode_probabilities(encode_labels(p, *ends), *ends), p, 1e-6)

    @given(states(-9, 9), st.sampled_from(RANGES))
    def test_any_state_is_decoded_to_probabilities(self, x_0, ends):
        p = decode_probabilities(x_0, *ends)
        assert ((p >= 0) & (p <= 1 + 1e-6)).all()
        assert_same(p.sum(dim=1), torch.ones(2, 4, dtype=p.dtype), 1e-6)

    @given(times(), probabilities(), states(), st.sampled_from(RANGES), st.sampled_from(["eps", "v"]))
    def test_the_target_of_a_prediction_stands_for_the_truth(self, pair, p, eps, ends, prediction):
        abar_t, _ = pair
        assume(abar_t > 1e-3)  # below, eps is multiplied by so much that float32 has no digits left
        x_0 = encode_labels(p, *ends)
        x_t = start_state(x_0, eps, abar_t)
        target = regression_target(x_0, x_t, abar_t, prediction)
        assert_same(predicted_x0(target, x_t, abar_t, prediction, *ends), x_0, 2e-4)

    @given(times(), probabilities(), states(), st.sampled_from(RANGES))
    def test_logits_stand_for_their_probabilities(self, pair, p, x_t, ends):
        found = predicted_x0(p.clamp(min=1e-30).log(), x_t, pair[0], "x0", *ends)
        assert_same(found.double(), encode_labels(p, *ends), 1e-5)

    @given(times(), states(), states(), st.sampled_from(RANGES), st.sampled_from(["x0", "eps", "v"]))
    def test_whatever_is_predicted_lies_between_the_ends(self, pair, output, x_t, ends, prediction):
        found = predicted_x0(output, x_t, pair[0], prediction, *ends)
        assert ends[0] <= found.min() <= found.max() <= ends[1]
