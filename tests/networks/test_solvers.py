import numpy as np
import pytest

from monai_pdddpm.networks.solvers import FIXED_STEP_SOLVERS, evaluations, tableau

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}


def as_arrays(solver):
    rows, b = tableau(solver)
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    assert not np.triu(a).any()  # explicit: a stage sees earlier ones only
    return a, np.array(b)


def order_conditions(solver):
    """Left and right sides of the conditions of each order (Hairer, Norsett, Wanner: Solving ODEs I, II.2)."""
    a, b = as_arrays(solver)
    c = a.sum(axis=1)
    return {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), ((b * c) @ a @ c, 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
    }


@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_the_conditions_of_the_order_hold_and_no_higher_ones(solver, order):
    conditions = order_conditions(solver)
    for p in range(1, order + 1):
        for found, expected in conditions[p]:
            assert found == pytest.approx(expected, abs=1e-14)
    if order < 4:
        assert any(abs(found - expected) > 0.05 for found, expected in conditions[order + 1])


def test_the_names():
    assert set(FIXED_STEP_SOLVERS) == set(ORDERS)
    for solver in ("heun", "dopri5", ""):
        with pytest.raises(ValueError, match=rf"^solver: found '{solver}'"):
            tableau(solver)


def test_evaluations_by_hand():
    # One per stage and step, without the very last, which would only move the velocity that nothing reads.
    assert [evaluations(solver, 1) for solver in ORDERS] == [0, 1, 3]
    assert [evaluations(solver, 3) for solver in ORDERS] == [2, 5, 11]
