"""Seeds that follow from numbers alone."""

from __future__ import annotations

import numpy as np


def hashed_seed(*numbers: int) -> int:
    """Return a seed, 0 to below 2^63, for a list of numbers of 0 or more; their order matters.

    Example:
        >>> hashed_seed(0, 1, 2) == hashed_seed(0, 2, 1)
        False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
