"""Compare a label map with the truth: overlap, surface distances in millimeters, volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import convert_to_tensor

from monai_pdddpm.utils.errors import UserError

NSD_TOLERANCE_MM = 1.0
# A spacing from a float32 affine can be 1.0000001 mm; a neighboring voxel is still within 1 mm.
NSD_SLACK_MM = 1e-4
# Names that reports use beside the labels.
RESERVED_NAMES = ("mean", "near structure", "near structure, calibrated")

Labels = Mapping[int, str] | Mapping[str, str]


def class_names(labels: Labels) -> dict[int, str]:
    """Return the names of the foreground classes by channel index, in rising order.

    Args:
        labels: names by channel index, the background (0) included or not; JSON's text keys are allowed.

    Raises:
        UserError: if an index is no whole number of 0 or more, there is no foreground class, or a name is duplicate or
            reserved.
    """
    try:
        names = {int(index): str(name) for index, name in labels.items() if int(index) != 0}
    except ValueError:
        names = {}
    if not names or min(names) < 0:
        raise UserError(
            f"labels: found {dict(labels)}, expected channel numbers from '0' up and at least one class; fix labels"
        )
    if len(set(names.values())) != len(names) or set(names.values()) & set(RESERVED_NAMES):
        raise UserError(
            f"labels: found {dict(labels)}, expected unique names, none of {', '.join(RESERVED_NAMES)}; rename one"
        )
    return dict(sorted(names.items()))


def structures(labels: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    """Return the classes of each structure by name: those of `class_names`, and regions, unions of classes."""
    return {name: (index,) for index, name in labels.items()} | {k: tuple(v) for k, v in (regions or {}).items()}


def is_in(label_map: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Return whether each voxel of a label map has one of the classes."""
    return torch.stack([label_map == index for index in classes]).any(dim=0)


def mask_metrics(predicted: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float]) -> dict[str, float]:
    """Compute the metrics of one class; see `segmentation_metrics`."""
    voxel_ml = math.prod(spacing) / 1000
    predicted_voxels, true_voxels = int(predicted.sum()), int(truth.sum())
    if predicted_voxels and true_voxels:
        # All surfaces lie within the box, and the border of an image counts as a surface: the results are the same.
        ends = generate_spatial_bounding_box((predicted | truth)[None])
        box = tuple(slice(start, end) for start, end in zip(*ends, strict=True))
        # MONAI computes surfaces on the CPU: results do not depend on the device.
        one, other = (mask[box][None, None].cpu() for mask in (predicted, truth))
        threshold = NSD_TOLERANCE_MM + NSD_SLACK_MM
        dice = float(compute_dice(one, other))
        hd95 = float(compute_hausdorff_distance(one, other, percentile=95, spacing=spacing))
        nsd = float(compute_surface_dice(one, other, [threshold], spacing=spacing))
    elif predicted_voxels or true_voxels:
        dice, hd95, nsd = 0.0, math.nan, 0.0
    else:
        dice, hd95, nsd = 1.0, 0.0, 1.0
    return {
        "dice": dice,
        "hd95_mm": hd95,
        "nsd_1mm": nsd,
        "volume_error_percent": 100 * (predicted_voxels - true_voxels) / true_voxels if true_voxels else math.nan,
        "volume_ml": predicted_voxels * voxel_ml,
        "true_volume_ml": true_voxels * voxel_ml,
    }


def segmentation_metrics(
    label_map: torch.Tensor, truth: torch.Tensor, labels: Labels, spacing: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Compare a label map with the truth, class by class.

    | metric | meaning | both empty | one empty |
    |---|---|---|---|
    | `dice` | Dice coefficient, 0 to 1 | 1 | 0 |
    | `hd95_mm` | larger of the two directed 95th percentiles of the surface distances, mm | 0 | NaN |
    | `nsd_1mm` | share of both surfaces within 1 mm of the other surface, 0 to 1 | 1 | 0 |
    | `volume_error_percent` | 100 (V - V_true) / V_true | NaN | NaN without truth, else -100 |
    | `volume_ml`, `true_volume_ml` | volumes in mL; a 2D image is 1 mm thick | 0 | |

    A surface is the set of a mask's voxels with a face towards the outside or the border of the image. A distance to an
    empty mask does not exist and is NaN: `summarize` excludes the case for all compared methods and counts it.

    Args:
        label_map: integer tensor (X, Y, Z) or (X, Y), class of each voxel, 0 for background.
        truth: integer tensor of the same shape.
        labels: names of the foreground classes, see `class_names`.
        spacing: voxel size along each axis, mm.

    Returns:
        The metrics by the name of the class.

    Raises:
        ValueError: if the shapes differ, or there is not a positive size for each axis.

    Reference: surface Dice of Nikolov et al. 2018 (arXiv:1809.04430), counted in voxels as MONAI does.
    """
    label_map, truth = (convert_to_tensor(tensor) for tensor in (label_map, truth))
    spacing = [float(size) for size in spacing]
    if label_map.shape != truth.shape or len(spacing) != truth.ndim or not all(0 < size < math.inf for size in spacing):
        raise ValueError(
            f"label_map: found shape {tuple(label_map.shape)} and voxels of {spacing} mm for a truth of shape "
            f"{tuple(truth.shape)}, expected equal shapes and a size above 0 for each axis"
        )
    return {
        name: mask_metrics(label_map == index, truth == index, spacing) for index, name in class_names(labels).items()
    }
