import math
from fractions import Fraction
from itertools import pairwise

import pytest

from monai_pdddpm.schedulers import check_steps, stored_steps, uniform_steps
from monai_pdddpm.utils.errors import UserError

STARTS = [1, 2, 3, 10, 64, 300, 333, 664, 995, 1000]
LENGTHS = [1, 2, 3, 4, 5, 6, 10, 25, 55, 150, 998, 1000]


def lengths(start, end):
    return [n for n in LENGTHS if n <= start - end]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((300, 10), [299, 266, 233, 199, 166, 133, 100, 66, 33, 0]),
        ((1000, 5), [999, 749, 499, 250, 0]),
        ((900, 5), [899, 674, 449, 225, 0]),
        ((300, 2), [299, 0]),
        ((300, 1), [299]),
        ((300, 3, 249), [299, 274, 249]),
        ((4, 3), [3, 1, 0]),
        ((1, 1), [0]),
        ((0, 5), []),
    ],
)
def test_uniform_lists_by_hand(arguments, expected):
    assert uniform_steps(*arguments) == expected


def exact_uniform(start, steps, end):
    """The uniform list in exact fractions; a tie goes to the lower index."""
    count = steps
    if count == 1:
        return [start - 1]
    return [math.ceil(start - 1 - Fraction(start - 1 - end) * i / (count - 1) - Fraction(1, 2)) for i in range(count)]


@pytest.mark.parametrize("end", [0, 5])
def test_uniform_lists_are_the_exact_ones(end):
    for start in (s for s in STARTS if s > end):
        for steps in lengths(start, end):
            assert uniform_steps(start, steps, end) == exact_uniform(start, steps, end), (start, steps)


@pytest.mark.parametrize("end", [0, 1, 60, 250])
def test_lists_start_at_the_start_and_end_at_the_end(end):
    for start in (s for s in STARTS if s > end):
        for steps in lengths(start, end):
            found = uniform_steps(start, steps, end)
            assert found[0] == start - 1
            assert found[-1] == (end if steps > 1 else start - 1)
            assert all(a > b for a, b in pairwise(found))
            assert len(found) == steps
            assert check_steps(found, 1000) == found


def test_a_start_at_zero_gives_no_step():
    assert uniform_steps(0, 1) == uniform_steps(0, 10) == uniform_steps(0, 10, 7) == []


@pytest.mark.parametrize(("start", "end"), [(2, 0), (10, 0), (10, 4), (10, 9), (1000, 0)])
def test_as_many_steps_as_indices_give_every_index(start, end):
    every = list(range(start - 1, end - 1, -1))
    assert uniform_steps(start, start - end, end) == uniform_steps(start, None, end) == every


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 5), "start_step"),
        ((300, 0), "num_steps"),
        ((300, -2), "num_steps"),
        ((0, 0), "num_steps"),
        ((1000, 2000), "num_steps"),
        ((1000, 401, 600), "num_steps"),
        ((300, 5, 300), "end_step"),
        ((300, 5, -1), "end_step"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}: found"):
        uniform_steps(*arguments)


def test_check_takes_any_descending_list():
    assert check_steps((999, 3, 0), 1000) == [999, 3, 0]
    assert check_steps([5], 6) == [5]
    assert check_steps([], 1000) == []
    assert check_steps(iter([4, 2]), 5) == [4, 2]


@pytest.mark.parametrize("steps", [[0, 1], [3, 3], [5, 1, 2], [1000, 0], [10, -1], [-1]])
def test_check_refuses_other_lists(steps):
    with pytest.raises(ValueError, match=r"^time_steps: found .* from 999 to 0; fix"):
        check_steps(steps, 1000)


CHAINS = {"1": [999], "2": [899, 700], "5": [999, 940, 870, 760, 500], "9": list(range(900, 0, -100))}


@pytest.mark.parametrize("number", CHAINS)
def test_stored_list_is_returned(number):
    assert stored_steps(CHAINS, int(number)) == CHAINS[number]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3,), [899, 799, 700]),  # 2 is nearest
        ((4,), [999, 833, 666, 500]),  # 5 is nearest
        ((6,), [999, 899, 799, 700, 600, 500]),
        ((7,), [900, 767, 633, 500, 367, 233, 100]),  # as near to 5 as to 9: the longer list
        ((20,), uniform_steps(901, 20, 100)),
    ],
)
def test_uniform_list_between_the_ends_of_the_nearest(arguments, expected):
    assert stored_steps(CHAINS, *arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((5, 1000), [999, 749, 499, 250, 0]),
        ((2, 900, 700), [899, 700]),
        ((5, 1000, 0), [999, 749, 499, 250, 0]),
        ((2, None, 600), [899, 600]),
        ((1, None, 600), [999]),
        ((3, None, 0), [899, 449, 0]),
        ((5, 0), []),
        ((5, 0, 300), []),
    ],
)
def test_start_and_end_give_a_uniform_list(arguments, expected):
    assert stored_steps(CHAINS, *arguments) == expected


def test_list_of_one_index_runs_to_0_with_more_steps():
    assert stored_steps({"1": [999]}, 3) == [999, 499, 0]
    assert stored_steps({"1": [0]}, 1) == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_steps: found 0, expected a whole number of at least 1"),
        ((2.5,), "num_steps: found 2.5"),
        ((None,), "num_steps: found None"),
        ((600,), "num_steps: found 600, expected a whole number from 1 to"),
        ((5, -1), "start_step: found -1"),
        ((5, "high"), "start_step: found 'high'"),
        ((5, 300, 300), "end_step: found 300, expected a whole number from 0 to 299"),
        ((5, None, 1000), "end_step: found 1000, expected a whole number from 0 to 999"),
        ((5, None, 0.6), "end_step: found 0.6"),
        ((5, 4), "num_steps: found 5, expected a whole number from 1 to 4"),
    ],
)
def test_wrong_ranges_are_named(arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        stored_steps(CHAINS | {"9": list(range(500, 0, -50))[:9]}, *arguments)


@pytest.mark.parametrize(
    "chains",
    [
        *({}, {"2": [899]}, {"2": [700, 899]}, {"0": []}, {"two": [9, 8]}, {"2": [9, -1]}, {"2": 9}, {"2": [9.5, 1]}),
        *({"2": [9, 9]}, {"3": [9, 3, 5]}),
    ],
)
def test_wrong_chains_are_named(chains):
    with pytest.raises(UserError, match=r"^chains: found .*; "):
        stored_steps(chains, 2)
