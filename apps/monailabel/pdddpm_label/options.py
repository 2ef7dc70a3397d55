"""Settings that a request may change."""

from __future__ import annotations

from collections.abc import Mapping

from monai_pdddpm.utils.checks import check_range

__all__ = ["OPTIONS", "check_options"]

OPTIONS = ("members", "num_steps", "seed")
_LARGEST_SEED = 2**63 - 1  # of torch's generators


def check_options(options: Mapping[str, int]) -> None:
    """Check the settings of a server or a request.

    Args:
        options: values of `OPTIONS` by name.

    Raises:
        UserError: when a value is not a whole number or out of range.
    """
    check_range("members", options["members"], 1)
    check_range("num_steps", options["num_steps"], 1)
    check_range("seed", options["seed"], 0, _LARGEST_SEED)
