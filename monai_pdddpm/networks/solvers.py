"""Explicit Runge-Kutta methods as Butcher tableaus, which one loop in the ODE block runs."""

from __future__ import annotations

FIXED_STEP_SOLVERS = ("euler", "midpoint", "rk4")


def tableau(solver: str) -> tuple[list[list[float]], list[float]]:
    """Return the Butcher tableau of ``"euler"`` (order 1), ``"midpoint"`` (order 2) or ``"rk4"`` (order 4).

    ``rk4`` is Kutta's 3/8 rule, as in torchdiffeq, so both return the same numbers.

    Returns:
        ``(a, b)``: row i of ``a`` has the weights of stages 0..i-1 in stage i, ``b`` those of all stages in the step.

    Raises:
        ValueError: if the solver is another one.

    Reference: Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I.
    """
    if solver == "euler":
        return [[0.0]], [1.0]
    if solver == "midpoint":
        return [[0.0], [1 / 2]], [0.0, 1.0]
    if solver == "rk4":
        return [[0.0], [1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]], [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    raise ValueError(f"solver: found '{solver}', expected euler, midpoint or rk4; fix --inferer#solver")


def evaluations(solver: str, steps: int) -> int:
    """Return the number of accelerations that a block evaluates in ``steps`` steps: one per stage except the last.

    The acceleration of the last stage would change v(1) only, which is not used. One Euler step therefore evaluates
    none and returns z + v(0) at any diffusion time.
    """
    return len(tableau(solver)[1]) * steps - 1
