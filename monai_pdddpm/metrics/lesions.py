"""How many lesions an answer finds, misses and invents, and how far its volume is off."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from monai_pdddpm.metrics.segmentation import Labels, class_names, plain_pair
from monai_pdddpm.utils.errors import UserError


def check_min_voxels(min_voxels: int) -> int:
    """Return the least size of a lesion in voxels, having checked it.

    Raises:
        UserError: where it is no whole number from 1 up.
    """
    if isinstance(min_voxels, bool) or not isinstance(min_voxels, int) or min_voxels < 1:
        raise UserError(
            f"min_lesion_voxels: found {min_voxels!r}, expected a whole number of voxels from 1 up; fix the "
            "configuration"
        )
    return min_voxels


def numbered_lesions(mask: np.ndarray, min_voxels: int = 1) -> tuple[np.ndarray, int]:
    """Number the lesions of a mask: its connected components, voxels that share a corner being connected.

    Args:
        mask: boolean array of any number of axes; 3 axes give 26-connected components, 2 axes 8-connected ones.
        min_voxels: least size; smaller components are left out.

    Returns:
        Integers of the same shape, 0 outside of lesions and 1, 2, ... within, and the number of lesions.
    """
    components, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    kept = np.bincount(components.ravel()) >= min_voxels
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0)[components], int(kept.sum())


def f1_score(recall: float, precision: float) -> float:
    """Harmonic mean of recall and precision, each 0 to 1.

    Where one of the two is nan, one side has no lesion and none of the other's is met: 0. Where both are, there is
    neither a lesion to find nor one found: nan.
    """
    if math.isnan(recall) and math.isnan(precision):
        return math.nan
    if not recall or not precision or math.isnan(recall + precision):
        return 0.0
    return 2 * recall * precision / (recall + precision)


def mask_lesion_metrics(predicted: torch.Tensor, truth: torch.Tensor, min_voxels: int = 1) -> dict[str, float]:
    """The lesion-wise metrics of one class; see `lesion_metrics` for what they are."""
    answer, reference = (mask.cpu().numpy() for mask in (predicted, truth))
    found, n_found = numbered_lesions(answer, min_voxels)
    true, n_true = numbered_lesions(reference, min_voxels)
    both = (found > 0) & (true > 0)
    n_hit, n_right = len(np.unique(true[both])), len(np.unique(found[both]))
    recall = n_hit / n_true if n_true else math.nan
    precision = n_right / n_found if n_found else math.nan
    voxels, true_voxels = int(answer.sum()), int(reference.sum())
    return {
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": f1_score(recall, precision),
        "true_lesions": n_true,
        "found_lesions": n_found,
        "missed_lesions": n_true - n_hit,
        "false_lesions": n_found - n_right,
        "volume_difference_percent": 100 * abs(voxels - true_voxels) / true_voxels if true_voxels else math.nan,
    }


def lesion_metrics(
    label_map: torch.Tensor, truth: torch.Tensor, labels: Labels, min_voxels: int = 1
) -> dict[str, dict[str, float]]:
    """Compare the lesions of a label map with those of the truth, class by class.

    A lesion is a connected component of a class's mask: 26-connected in 3D, 8-connected in 2D. Two lesions meet where
    they share a voxel.

    | metric | what | no true lesion | none found | neither |
    |---|---|---|---|---|
    | `lesion_recall` | share of true lesions that meet a found one, 0 to 1 | nan | 0 | nan |
    | `lesion_precision` | share of found lesions that meet a true one, 0 to 1 | 0 | nan | nan |
    | `lesion_f1` | harmonic mean of the two | 0 | 0 | nan |
    | `true_lesions`, `found_lesions` | how many there are of each | | | |
    | `missed_lesions` | true lesions that meet no found one | 0 | all | 0 |
    | `false_lesions` | found lesions that meet no true one | all | 0 | 0 |
    | `volume_difference_percent` | 100 abs(V - V_true) / V_true, lesions of any size | nan | 100 | nan |

    What cannot be said is nan, so that means leave it out and count it. (The challenge's own code says 1 there.)

    Args:
        label_map: integer tensor (X, Y, Z) or (X, Y), the class of each voxel, 0 for background.
        truth: integer tensor of the same shape.
        labels: names of the foreground classes, see `class_names`.
        min_voxels: least size of a lesion in voxels; smaller ones of either map are taken away before the two are
            compared, so a larger lesion that meets none but them counts as missed or false.

    Returns:
        The metrics by the name of the class.

    Raises:
        ValueError: where shapes or axes do not fit one another.
        UserError: where `min_voxels` is no whole number from 1 up.

    Source: recall, F1 and volume difference as in Kuijf et al. 2019, WMH segmentation challenge (arXiv:1904.00682).
    """
    check_min_voxels(min_voxels)
    label_map, truth = plain_pair(label_map, truth)
    return {
        name: mask_lesion_metrics(label_map == index, truth == index, min_voxels)
        for index, name in class_names(labels).items()
    }
