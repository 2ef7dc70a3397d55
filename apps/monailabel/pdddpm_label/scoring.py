"""Score of a scan for active learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_pdddpm.utils.errors import UserError


def member_disagreement(result: Mapping[str, Any]) -> float:
    """Score a scan by the disagreement of its ensemble; the scan with the highest score is annotated first.

    With the segmentation y and the members y_1 ... y_N, over the classes k that occur in any of them::

        score = 1 - mean over n, k of 2 |y_n,k and y_k| / (|y_n,k| + |y_k|)     (1 - the report's "agreement")
              + 1  if a feature of the scan is outside the range of the calibration cases

    Overlap is relative to size. The mean entropy is not: it ranks small structures first because they are mostly
    border. A scan without any label in any member scores 0 if its features are in range. A time series scores as its
    frame with the highest score.

    Args:
        result: ``data["result"]`` of :class:`monai_pdddpm.transforms.CaseSummaryd`.

    Returns:
        score from 0 to 2.

    Raises:
        UserError: when the result has no members.
    """
    if "frames" in result:
        return max(member_disagreement(frame) for frame in result["frames"])
    if "agreement" not in result["features"]:
        raise UserError("members: found none in the result, expected at least 2; set inferer#return_members to True")
    return 1 - float(result["features"]["agreement"]) + bool(result["unlike_usual"])
