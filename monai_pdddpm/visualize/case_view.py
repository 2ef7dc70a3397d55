"""The data of a case that pictures show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_pdddpm.data.case import case_of
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.visualize.cuts import Array


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """The data of a case that pictures show; all arrays are on one grid.

    Attributes:
        title: name of the case.
        image: (X, Y, Z) scan.
        affine: (4, 4), voxel to mm in RAS.
        labels: names by label value, without the background; at most 255.
        seg: (X, Y, Z) label map of the answer.
        entropy: (X, Y, Z) in nats, at most ln K for K classes.
        members: (N, X, Y, Z) label maps.
        preseg: (X, Y, Z) label map of the segmenter.
        mutual_information: (X, Y, Z) in nats.
        variance: (K - 1, X, Y, Z), a map for each label, at most 0.25.
        notes: remarks on the scan.
    """

    title: str
    image: Array
    affine: Array
    labels: Mapping[int, str]
    seg: Array
    entropy: Array
    members: Array | None = None
    preseg: Array | None = None
    mutual_information: Array | None = None
    variance: Array | None = None
    notes: Sequence[str] = ()

    def label_maps(self) -> dict[str, Array]:
        """Return all label maps by the names that the page shows."""
        members = () if self.members is None else self.members
        found = {"Segmentation": self.seg}
        found |= {f"Member {number}": member for number, member in enumerate(members, start=1)}
        return found if self.preseg is None else found | {"First segmentation": self.preseg}

    def maps(self) -> dict[str, tuple[Array, float, str]]:
        """Return each map with its highest possible value and its unit."""
        highest = math.log(len(self.labels) + 1)
        found = {"Entropy": (self.entropy, highest, "nats")}
        if self.mutual_information is not None:
            found["Mutual information"] = (self.mutual_information, highest, "nats")
        variance = () if self.variance is None else self.variance
        names = (f"Variance of {name}" for name in self.labels.values())
        return found | {name: (volume, 0.25, "") for name, volume in zip(names, variance, strict=False)}


def case_view(item: Mapping[str, Any], scan: Array, labels: Mapping[int, str]) -> CaseView:
    """Return the view of a case: its first channel, or the frame with the most uncertainty.

    Args:
        item: the maps of the case; those of a time series have the frames as last axis.
        scan: (C, X, Y, Z), or (T, X, Y, Z) for a time series.
        labels: names by channel index, without the background.
    """
    case = case_of(item["image"].meta)
    channel, frames, title = 0, frames_of(item), case.name
    keys = ("seg", "entropy", "members", "mutual_information", "variance", "preseg_seg")
    maps = {key: np.asarray(item[key]) for key in keys if key in item}
    if frames > 1:
        channel = int(np.argmax([maps["entropy"][..., f].sum() for f in range(frames)]))
        maps = {key: volume[..., channel] for key, volume in maps.items()}
        title = f"{title}, frame {channel} (0 to {frames - 1})"
    return CaseView(
        title=title,
        image=np.asarray(scan)[channel],
        affine=np.asarray(item["seg"].affine, dtype=float),
        labels=labels,
        seg=maps["seg"][0].astype(np.uint8),
        entropy=maps["entropy"][0],
        members=maps["members"].astype(np.uint8) if "members" in maps else None,
        preseg=maps["preseg_seg"][0].astype(np.uint8) if "preseg_seg" in maps else None,
        mutual_information=maps["mutual_information"][0] if "mutual_information" in maps else None,
        variance=maps.get("variance"),
        notes=case.notes,
    )
