"""Time series in training: each frame is a case of the same subject."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from monai.transforms import Transform

from monai_pdddpm.data.case import Case, case_of
from monai_pdddpm.data.headers import count_frames
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.utils.errors import UserError


def frame_cases(cases: Sequence[dict[str, Any]], spec: ScanSpec) -> list[dict[str, Any]]:
    """List each labeled frame of time series as a case of its own, after cases were divided by subject.

    Args:
        cases: each with the path of a scan under ``image`` and of its label map under ``label``.
        spec: the scans expected; without frames, the cases are returned as they are.

    Returns:
        The cases; those of time series with the number of the frame, from 0, under ``frame``.

    Raises:
        UserError: when a scan and its label map have different numbers of frames.
    """
    if not spec.has_frames:
        return list(cases)
    found = []
    for case in cases:
        file = Case.of(case["image"]).file
        frames, labeled = count_frames(file), count_frames(case["label"])
        if frames != labeled:
            raise UserError(
                f"{case['label']}: found {labeled} frames, expected the {frames} of {file}; label each frame, or list "
                "the labeled frames as scans of their own"
            )
        found += [case | ({"frame": frame} if frames > 1 else {}) for frame in range(frames)]
    return found


class OneFramed(Transform):
    """Keep the frame of a case of `frame_cases` in ``image`` and ``label``, (frames, X, Y, Z), after loading.

    The frame's case is named ``<case> frame <number>``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with one frame under each key; data without ``frame`` stay as they are."""
        d = dict(data)
        frame = d.get("frame")
        if frame is not None:
            for key in ("image", "label"):
                d[key] = d[key][frame : frame + 1]
            case = case_of(d["image"].meta)
            d["image"].meta["case"] = replace(case, name=f"{case.name} frame {frame}")
        return d
