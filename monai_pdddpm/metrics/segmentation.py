"""How well a label map fits the truth: overlap, distances of the surfaces in millimetres, volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.utils import convert_to_tensor

NSD_TOLERANCE_MM = 1.0
# A spacing read from a float32 affine may be 1.0000001 mm; a neighbouring voxel is still within 1 mm.
NSD_SLACK_MM = 1e-4
# Names that reports use beside the labels.
RESERVED_NAMES = ("mean", "near structure")

Labels = Mapping[int, str] | Mapping[str, str] | Sequence[str]


def class_names(labels: Labels) -> dict[int, str]:
    """Name of each foreground class by its channel index.

    Args:
        labels: names by channel index, e.g. {1: "Anterior", 2: "Posterior"} (JSON's {"1": "Anterior"} will do; an
            entry for 0, the background, is left out), or a list of the names of the channels 1, 2, ...

    Returns:
        The names by channel index, indices of 1 and more, in rising order.

    Raises:
        ValueError: where there is no foreground class, an index is no positive integer, or a name is given twice or
            is one that reports need for themselves.
    """
    if isinstance(labels, Mapping):
        try:
            names = {int(index): str(name) for index, name in labels.items()}
        except ValueError:
            raise ValueError(f"labels needs channel indices as keys, e.g. {{1: 'lesion'}}, found {labels}") from None
        names.pop(0, None)
    else:
        names = {index: str(name) for index, name in enumerate(labels, start=1)}
    if not names or min(names) < 1:
        raise ValueError(f"labels needs at least one class, with channel indices from 1 on, found {labels}")
    if len(set(names.values())) != len(names) or set(names.values()) & set(RESERVED_NAMES):
        raise ValueError(f"labels needs a name of its own for each class, none of {RESERVED_NAMES}, found {labels}")
    return dict(sorted(names.items()))


def plain_pair(label_map: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both label maps without their metadata and on one device.

    Args:
        label_map: (X, Y, Z) or (X, Y).
        truth: of the same shape.

    Returns:
        The two as plain tensors, on the device of the first.

    Raises:
        ValueError: where they are not of one shape of 2 or 3 axes.
    """
    label_map, truth = (convert_to_tensor(tensor, track_meta=False) for tensor in (label_map, truth))
    if label_map.shape != truth.shape or label_map.ndim not in (2, 3):
        raise ValueError(
            f"label map and truth need one shape of 2 or 3 axes, found {tuple(label_map.shape)} and "
            f"{tuple(truth.shape)}"
        )
    return label_map, truth.to(label_map.device)


def union_box(first: torch.Tensor, second: torch.Tensor, margin: int = 1) -> tuple[slice, ...]:
    """Bounding box of two masks of the same shape together, `margin` voxels wider where the image allows it.

    Args:
        first: boolean mask of any number of axes.
        second: boolean mask of the same shape; one of the two has a voxel at least.
        margin: voxels added on every side.

    Returns:
        One slice per axis.
    """
    union = first | second
    box = []
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        hit = torch.nonzero(union.any(dim=others) if others else union).flatten()
        box.append(slice(max(int(hit[0]) - margin, 0), int(hit[-1]) + 1 + margin))
    return tuple(box)


def mask_metrics(predicted: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float]) -> dict[str, float]:
    """The metrics of one class; see `segmentation_metrics` for what they are."""
    voxel_ml = math.prod(spacing) / 1000
    predicted_voxels, true_voxels = int(predicted.sum()), int(truth.sum())
    if predicted_voxels and true_voxels:
        # All surfaces lie within the box, and an image's border counts as one either way: the numbers stay the same.
        box = union_box(predicted, truth)
        # On the CPU, where MONAI's surfaces are computed anyway: the same numbers for any device.
        one, other = (mask[box][None, None].cpu().float() for mask in (predicted, truth))
        threshold = NSD_TOLERANCE_MM + NSD_SLACK_MM
        dice = float(compute_dice(one, other))
        hd95 = float(compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing))
        nsd = float(compute_surface_dice(one, other, [threshold], include_background=True, spacing=spacing))
    elif predicted_voxels or true_voxels:
        dice, hd95, nsd = 0.0, math.nan, 0.0
    else:
        dice, hd95, nsd = 1.0, 0.0, 1.0
    error = 100 * (predicted_voxels - true_voxels) / true_voxels if true_voxels else math.nan
    return {
        "dice": dice,
        "hd95_mm": hd95,
        "nsd_1mm": nsd,
        "volume_error_percent": error,
        "volume_ml": predicted_voxels * voxel_ml,
        "true_volume_ml": true_voxels * voxel_ml,
    }


def segmentation_metrics(
    label_map: torch.Tensor,
    truth: torch.Tensor,
    labels: Labels,
    spacing: Sequence[float],
) -> dict[str, dict[str, float]]:
    """Compare a label map with the truth, class by class.

    | metric | what | both empty | one empty |
    |---|---|---|---|
    | `dice` | Dice coefficient, 0 to 1 | 1 | 0 |
    | `hd95_mm` | the larger of the two directed 95th percentiles of the distances between the surfaces, mm | 0 | nan |
    | `nsd_1mm` | share of both surfaces' voxels within 1 mm of the other surface, 0 to 1 | 1 | 0 |
    | `volume_error_percent` | 100 (V - V_true) / V_true, signed | nan | nan without truth, else -100 |
    | `volume_ml`, `true_volume_ml` | volumes in mL; a 2D image counts as 1 mm thick | 0 | |

    A surface is the set of a mask's voxels with a face towards the outside or the image's border. A distance that does
    not exist is nan, so that means leave it out and count it.

    Args:
        label_map: integer tensor (X, Y, Z) or (X, Y), the class of each voxel, 0 for background.
        truth: integer tensor of the same shape.
        labels: names of the foreground classes, see `class_names`.
        spacing: size of a voxel along each axis, mm.

    Returns:
        The metrics by the name of the class.

    Raises:
        ValueError: where shapes, axes or spacing do not fit one another.

    Source: surface Dice after Nikolov et al. 2018 (arXiv:1809.04430), counted in voxels as MONAI does.
    """
    label_map, truth = plain_pair(label_map, truth)
    spacing = tuple(float(size) for size in spacing)
    if len(spacing) != label_map.ndim or not all(math.isfinite(size) and size > 0 for size in spacing):
        raise ValueError(f"spacing needs a positive number of mm for each of {label_map.ndim} axes, found {spacing}")
    return {
        name: mask_metrics(label_map == index, truth == index, spacing) for index, name in class_names(labels).items()
    }
