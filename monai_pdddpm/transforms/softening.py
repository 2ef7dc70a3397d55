"""Probabilities from a label map, whose voxels near a border are less certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects

# voxels; the best of 0.35 to 3 by NLL on the segmenter's masks of the 39 validation cases of the hippocampus bundle
# (0.134; the segmenter's own probabilities 0.149). A Gaussian filter (0.131) would change 0.7 % of the structures.
SOFTNESS = 0.65
_FARTHEST = 7 * SOFTNESS  # beyond this distance nothing changes


def softened(classes: torch.Tensor, num_classes: int, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    """Return probabilities p_k proportional to exp(-d_k / 0.65), where d_k is the signed distance to class k.

    The distance is negative inside the class, and measured in voxels: in mm, divided by the mean edge of a voxel. The
    likeliest class of each voxel is that of the label map.

    Args:
        classes: whole numbers from 0 to K-1, (X, Y, Z).
        num_classes: K.
        spacing: edges of a voxel in mm.

    Returns:
        (K, X, Y, Z), float32.
    """
    labels = np.asarray(classes.cpu(), dtype=np.int32)
    sampling = np.asarray(spacing, dtype=float) / np.prod(spacing) ** (1 / len(spacing))
    margin = np.ceil(_FARTHEST / sampling).astype(int)
    logits = np.full((num_classes, *labels.shape), -_FARTHEST / SOFTNESS, dtype=np.float32)
    foreground = find_objects((labels > 0).astype(np.int32))
    boxes = [foreground[0] if foreground else None, *find_objects(labels)]
    logits[0] = _FARTHEST / SOFTNESS
    for index, box in enumerate(boxes):
        if box is None:
            continue
        place: Any = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin, strict=True))
        distance = _signed_distance(labels[place] == index, sampling)
        logits[(index, *place)] = -distance.clip(-_FARTHEST, _FARTHEST) / SOFTNESS
    return torch.from_numpy(logits).softmax(dim=0)


def _signed_distance(inside: np.ndarray, sampling: np.ndarray) -> np.ndarray:
    """Return the distance of each voxel to the border of a mask, negative inside; the border lies between voxels."""
    if inside.all() or not inside.any():
        return np.full(inside.shape, -_FARTHEST if inside.all() else _FARTHEST, dtype=np.float32)
    outer, inner = (distance_transform_edt(mask, sampling=sampling) for mask in (~inside, inside))
    half = sampling.min() / 2
    return np.where(inside, half - inner, outer - half).astype(np.float32)
