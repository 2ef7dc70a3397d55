"""How much a scan is worth being annotated next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_pdddpm.utils.errors import UserError

__all__ = ["mean_entropy_near_structure"]


def mean_entropy_near_structure(result: Mapping[str, Any]) -> float:
    """Score a scan by how little the members of its ensemble agree; the highest score is to be annotated first.

    With y the answer and y_1 ... y_N the members, over the classes k that any of them has::

        doubt = 1 - mean over n, k of 2 |y_n,k and y_k| / (|y_n,k| + |y_k|)     (1 - the report's "agreement")
              + 1  when anything of the scan is unlike the cases that the bundle was calibrated on

    Overlap is relative to size, so that small structures, which are mostly border, do not come first for their size
    alone, as they would by their mean entropy. A scan without any label in any member scores 0, unless its volumes
    are unlike the usual: members that agree on a loss are not in doubt. Of a time series the frame with the highest
    score counts.

    Args:
        result: ``data["result"]`` of :class:`monai_pdddpm.transforms.CaseSummaryd`.

    Returns:
        from 0 to 2.

    Raises:
        UserError: when the answer came without members.
    """
    if "frames" in result:
        return max(mean_entropy_near_structure(frame) for frame in result["frames"])
    if "agreement" not in result["features"]:
        raise UserError("members: the answer has none to compare, expected at least two; set write_members to True")
    return 1 - float(result["features"]["agreement"]) + bool(result["unlike_usual"])
