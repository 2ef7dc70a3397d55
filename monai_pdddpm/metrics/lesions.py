"""Count the lesions that an answer finds, misses and adds."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.utils import convert_to_tensor
from scipy import ndimage

from monai_pdddpm.metrics.segmentation import Labels, class_names


def mask_lesion_metrics(predicted: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Compute the lesion-wise metrics of one class; see `lesion_metrics`."""
    answer, reference = (mask.cpu().numpy() for mask in (predicted, truth))
    corners = np.ones((3,) * answer.ndim)
    (predicted_lesions, n_predicted), (true_lesions, n_true) = (ndimage.label(x, corners) for x in (answer, reference))
    both = (predicted_lesions > 0) & (true_lesions > 0)
    n_detected, n_correct = len(np.unique(true_lesions[both])), len(np.unique(predicted_lesions[both]))
    recall = n_detected / n_true if n_true else math.nan
    precision = n_correct / n_predicted if n_predicted else math.nan
    f1 = math.nan
    if n_true or n_predicted:
        f1 = 2 * recall * precision / (recall + precision) if n_detected else 0.0
    voxels, true_voxels = int(answer.sum()), int(reference.sum())
    return {
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": f1,
        "true_lesions": n_true,
        "predicted_lesions": n_predicted,
        "missed_lesions": n_true - n_detected,
        "false_lesions": n_predicted - n_correct,
        "volume_difference_percent": 100 * abs(voxels - true_voxels) / true_voxels if true_voxels else math.nan,
    }


def lesion_metrics(label_map: torch.Tensor, truth: torch.Tensor, labels: Labels) -> dict[str, dict[str, float]]:
    """Compare the lesions of a label map with those of the truth, class by class.

    A lesion is a connected component of a class: 26-connected in 3D, 8-connected in 2D. Two lesions match if they share
    a voxel.

    | metric | meaning | no true lesion | none predicted | neither |
    |---|---|---|---|---|
    | `lesion_recall` | share of true lesions that match a predicted one | NaN | 0 | NaN |
    | `lesion_precision` | share of predicted lesions that match a true one | 0 | NaN | NaN |
    | `lesion_f1` | harmonic mean of the two | 0 | 0 | NaN |
    | `true_lesions`, `predicted_lesions` | numbers of lesions | | | |
    | `missed_lesions` | true lesions without a match | 0 | all | 0 |
    | `false_lesions` | predicted lesions without a match | all | 0 | 0 |
    | `volume_difference_percent` | 100 abs(V - V_true) / V_true | NaN | 100 | NaN |

    Args:
        label_map: integer tensor (X, Y, Z) or (X, Y), class of each voxel, 0 for background.
        truth: integer tensor of the same shape.
        labels: names of the foreground classes, see `class_names`.

    Returns:
        The metrics by the name of the class.

    Reference: recall, F1 and volume difference of Kuijf et al. 2019, WMH segmentation challenge (arXiv:1904.00682),
        whose code returns 1 where this one returns NaN.
    """
    label_map, truth = (convert_to_tensor(tensor) for tensor in (label_map, truth))
    return {
        name: mask_lesion_metrics(label_map == index, truth == index) for index, name in class_names(labels).items()
    }
