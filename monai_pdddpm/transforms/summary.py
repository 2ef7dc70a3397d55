"""Numbers for the user from the maps of a case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.errors import UserError


def voxel_volume_ml(affine: torch.Tensor | np.ndarray) -> float:
    """Return the volume of a voxel in mL from a 4x4 affine in mm."""
    return abs(float(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000


def foreground_labels(labels: Mapping[str, str]) -> dict[int, str]:
    """Return the names of the classes above 0 by number, from JSON's names by text.

    Raises:
        UserError: when a key is not a number.
    """
    try:
        return {int(index): name for index, name in labels.items() if int(index) > 0}
    except ValueError as error:
        raise UserError(
            f"labels: found the keys {', '.join(map(repr, labels))}, expected channel numbers from '0' up; mend them"
        ) from error


class Summarised(MapTransform):
    """Put the volume of each label, with its spread over the members, into ``data["result"]``.

    MONAI Label hands ``result`` to its client, the report keeps it.

    Args:
        keys: the key of the label map, (1, X, Y, Z).
        labels: channel index -> name, the background (0) included.
        members_key: of the members' label maps, (members, X, Y, Z).
        entropy_key: of the entropy map, (1, X, Y, Z).

    Raises:
        UserError: when a key of ``labels`` is not a number.
    """

    def __init__(
        self,
        keys: Any = "seg",
        labels: Mapping[str, str] | None = None,
        members_key: str = "members",
        entropy_key: str = "entropy",
    ) -> None:
        super().__init__(keys)
        self.labels = foreground_labels(labels or {})
        self.members_key = members_key
        self.entropy_key = entropy_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with ``result`` added."""
        d = dict(data)
        for key in self.key_iterator(d):
            seg = d[key]
            ml = voxel_volume_ml(seg.affine) if isinstance(seg, MetaTensor) else 1e-3
            volumes = {}
            for index, name in self.labels.items():
                volumes[name] = {"segmentation": round(int((seg == index).sum()) * ml, 4)}
                if self.members_key in d:
                    counts = (d[self.members_key] == index).flatten(1).sum(dim=1).double() * ml
                    volumes[name] |= {
                        "members_mean": round(float(counts.mean()), 4),
                        "members_sd": round(float(counts.std(correction=0)), 4),
                        "members_min": round(float(counts.min()), 4),
                        "members_max": round(float(counts.max()), 4),
                    }
            inside = d[self.entropy_key][seg > 0] if self.entropy_key in d else seg.new_zeros(0)
            d["result"] = {
                "volume_ml": volumes,
                "mean_entropy_inside_nats": round(float(inside.float().mean()), 4) if inside.numel() else None,
            }
        return d
