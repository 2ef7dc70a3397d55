"""Explicit Runge-Kutta methods as data: a tableau says what a solver is, one loop in the ODE block runs it."""

from __future__ import annotations

FIXED_STEP_SOLVERS = ("euler", "midpoint", "rk4")
ADAPTIVE_SOLVERS = ("dopri5", "bosh3", "adaptive_heun", "dopri8")


def tableau(solver: str) -> tuple[list[list[float]], list[float]]:
    """Return the Butcher tableau of a fixed-step solver.

    ``rk4`` is Kutta's 3/8 rule, the one that torchdiffeq calls ``rk4``, so that both give the same numbers.

    Args:
        solver: ``"euler"`` (order 1), ``"midpoint"`` (order 2) or ``"rk4"`` (order 4).

    Returns:
        ``(a, b)``: row i of ``a`` has the weights of stages 0..i-1 in stage i, ``b`` those of all stages in the step.

    Raises:
        ValueError: when the solver is another one.
    """
    if solver == "euler":
        return [[0.0]], [1.0]
    if solver == "midpoint":
        return [[0.0], [1 / 2]], [0.0, 1.0]
    if solver == "rk4":
        return [[0.0], [1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]], [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    raise ValueError(f"solver: '{solver}' was found, euler, midpoint or rk4 is expected")


def evaluations(solver: str, steps: int) -> int:
    """Return how often a block evaluates its acceleration over ``steps`` steps: once per stage but for the very last.

    The last stage's acceleration would move v(1) only, which nothing reads. So one Euler step evaluates none, and gives
    z + v(0) whatever the diffusion time.
    """
    return len(tableau(solver)[1]) * steps - 1
