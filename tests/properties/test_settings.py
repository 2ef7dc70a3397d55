"""A setting means the same whatever number type it comes in, and what cannot be meant is refused."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.inferers import EnsembleConfig
from monai_pdddpm.schedulers import DDIMRule, check_steps
from monai_pdddpm.utils.checks import check_number, check_range
from monai_pdddpm.utils.errors import UserError

WHOLE = (int, np.int8, np.int16, np.int64, np.uint8)
WHOLE_SETTINGS = {"members": 1, "member_batch": 1, "seed": 0, "dilation": 0, "memory": 0, "solver_steps": 0}
FRACTIONS = ("overlap", "presegmentation_weight", "uncertainty_threshold")
GIVEN = {"roi_size": [8, 8], "time_steps": [100, 50]}


@given(st.sampled_from(sorted(WHOLE_SETTINGS)), st.integers(1, 100), st.sampled_from(WHOLE))
def test_a_whole_number_of_any_type_is_the_same_setting(name, value, kind):
    found, expected = (EnsembleConfig(**GIVEN, **{name: number}) for number in (kind(value), value))
    assert found == expected
    assert json.dumps(found.as_report()) == json.dumps(expected.as_report())
    assert type(getattr(found, name)) is (tuple if name == "solver_steps" else int)


@given(st.sampled_from(FRACTIONS), st.floats(0, 1, exclude_max=True, width=16), st.sampled_from([float, np.float16]))
def test_a_fraction_of_any_type_is_the_same_setting(name, value, kind):
    found = EnsembleConfig(**GIVEN, **{name: kind(value)})
    assert type(getattr(found, name)) is float
    assert found == EnsembleConfig(**GIVEN, **{name: value})


@given(st.lists(st.integers(0, 999), min_size=1, max_size=9, unique=True), st.sampled_from(WHOLE[1:3]))
def test_lists_of_any_type_are_the_same_setting(steps, kind):
    steps = sorted({step % 127 for step in steps}, reverse=True)
    size = [step + 1 for step in steps]
    found = EnsembleConfig(roi_size=np.array(size, kind), time_steps=np.array(steps, kind))
    assert found == EnsembleConfig(roi_size=size, time_steps=steps)
    assert json.dumps(found.as_report()) == json.dumps(EnsembleConfig(roi_size=size, time_steps=steps).as_report())
    assert check_steps(np.array(steps), 127) == steps


@pytest.mark.parametrize(
    "value", [True, False, np.True_, np.False_, None, "1", [1], float("nan"), np.float32("nan"), 1j]
)
@pytest.mark.parametrize("name", [*sorted(WHOLE_SETTINGS), *FRACTIONS, "large_scale_noise", "noise_length"])
def test_what_is_no_number_is_refused(name, value):
    if name == "solver_steps" and value == [1]:  # a list of one number is that number
        return
    with pytest.raises(UserError, match=f"^{name}: found"):
        EnsembleConfig(**GIVEN, **{name: value})


@pytest.mark.parametrize("value", [1, 0, None, "False", np.True_])
@pytest.mark.parametrize("name", ["return_members", "progress"])
def test_what_is_no_switch_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}: found"):
        EnsembleConfig(**GIVEN, **{name: value})


@pytest.mark.parametrize("steps", [[100, 50.5], [True], [100, "50"], [np.float64(3)], [None]])
def test_time_steps_are_not_cut_to_whole_numbers(steps):
    with pytest.raises(UserError, match=r"^time_steps: found"):
        EnsembleConfig(roi_size=[8], time_steps=steps)


@given(st.integers(-5, 15), st.integers(-5, 5), st.integers(6, 15), st.booleans())
def test_ranges_hold_their_ends(value, low, high, below):
    for check, fits in (
        (lambda: check_range("x", value, low, high), low <= value <= high),
        (lambda: check_number("x", value, low, high, below), low <= value <= high - below),
    ):
        if fits:
            assert check() == value
        else:
            with pytest.raises(
                UserError, match=f"^x: found {value}, expected .* from {low} to .*{high}; give x such a value"
            ):
                check()


@pytest.mark.parametrize("value", [np.float32(0.5), 0.5, Fraction(1, 2)])
def test_eta_of_any_type_gives_one_rule_and_one_report(value):
    assert DDIMRule(value) == DDIMRule(0.5)
    assert str(DDIMRule(value)) == "DDIMRule(eta=0.5)"
    for wrong in (True, "0.5", float("inf"), -0.1, 1.1):
        with pytest.raises(UserError, match=r"^eta: found"):
            DDIMRule(wrong)
