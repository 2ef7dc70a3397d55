"""Numbers of each slice of a case, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from monai_pdddpm.transforms.outputs import frames_of

COLUMNS = (
    *("frame", "slice", "position_mm", "structure", "area_mm2", "expected_area_mm2"),
    *("members_min_mm2", "members_max_mm2", "mean_entropy_inside_nats"),
)


def slice_values(item: Mapping[str, Any], labels: Mapping[int, str]) -> str:
    """Return a CSV table with a row per slice and structure; slices without the structure are left out.

    Slices lie across the axis of the file that is nearest to head-foot. ``slice`` counts along it from 0, and
    ``position_mm`` is the distance of the slice along it from slice 0, positive towards the head.

    Args:
        item: the case with ``seg``, (1, X, Y, Z[, T]), and if it has them ``prob``, (K, X, Y, Z[, T]), ``members``,
            (N, X, Y, Z[, T]), and ``entropy``, (1, X, Y, Z[, T]).
        labels: names by channel index, without the background.
    """
    affine = np.asarray(item["seg"].affine, dtype=float)
    toward, direction = io_orientation(affine).T
    axis = int(np.flatnonzero(toward == 2)[0])
    sizes = voxel_sizes(affine)
    area = float(np.prod(np.delete(sizes, axis)))
    frames = frames_of(item)
    maps = {name: np.asarray(item[name]) for name in ("seg", "prob", "members", "entropy") if name in item}
    if frames == 1:
        maps = {name: volume[..., None] for name, volume in maps.items()}
    maps = {name: np.moveaxis(volume, axis + 1, 1) for name, volume in maps.items()}  # (C, slices, ., ., T)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS if frames > 1 else COLUMNS[1:])
    for frame in range(frames):
        found = {name: volume[..., frame] for name, volume in maps.items()}
        for number in range(found["seg"].shape[1]):
            here = {name: volume[:, number] for name, volume in found.items()}
            for index, name in labels.items():
                inside = here["seg"][0] == index
                drawn = (here["members"] == index).sum(axis=(1, 2)) if "members" in here else np.zeros(0)
                if not inside.any() and not drawn.any():
                    continue
                values = [inside.sum() * area]
                values.append(here["prob"][index].sum(dtype=float) * area if "prob" in here else None)
                values += [drawn.min() * area, drawn.max() * area] if drawn.size else [None, None]
                values.append(here["entropy"][0][inside].mean() if "entropy" in here and inside.any() else None)
                position = round(number * sizes[axis] * direction[axis], 4)
                row = [number, position, name, *("" if value is None else round(float(value), 4) for value in values)]
                writer.writerow([frame, *row] if frames > 1 else row)
    return text.getvalue()
