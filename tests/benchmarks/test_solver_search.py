"""The greedy search keeps steps where they pay."""

from benchmarks.trust.solver_search import cheapest, greedy

WORTH = (0.0, 10.0, 1.0)  # of a solver step at each time


def cost(steps):
    return sum(worth / n for worth, n in zip(WORTH, steps, strict=True))


def test_what_costs_least_goes_first():
    path = greedy(cost, [4, 1, 2], 3)
    assert path == [(4, 4, 4), (2, 4, 4), (1, 4, 4), (1, 4, 2), (1, 4, 1), (1, 2, 1), (1, 1, 1)]


def test_the_cheapest_within_the_tolerance_is_chosen():
    path = greedy(cost, [1, 2, 4], 3)
    assert cheapest(path, cost, 0) == (1, 4, 4)
    assert cheapest(path, cost, 1) == (1, 4, 1)
    assert cheapest(path, cost, 100) == (1, 1, 1)


def test_one_choice_leaves_nothing_to_search():
    assert greedy(cost, [2], 3) == [(2, 2, 2)]
