"""Calibration of probabilities near the structure, and detection of errors by the entropy.

Voxels are rows: ``probability`` is (N, K) with values in [0, 1], and ``truth``, (N,), has the true class of each row.
"""

from __future__ import annotations

import math

import torch
from monai.utils import convert_to_tensor
from scipy.ndimage import maximum_filter

from monai_pdddpm.utils.probabilities import predictive_entropy

NEAR_VOXELS = 3
PROBABILITY_FLOOR = 1e-6
# Half precision and resampling leave sums a little off one.
SUM_TOLERANCE = 1e-2


def near_structure(truth: torch.Tensor) -> torch.Tensor:
    """Return the true foreground dilated three times by a cube of 3 x 3 x 3 voxels.

    Averages over a whole scan mostly describe its background.

    Args:
        truth: integer or boolean tensor (X, Y, Z) or (X, Y), foreground above 0.

    Returns:
        Boolean mask of the same shape and device; empty if the truth is.
    """
    # A maximum over a cube of 2 n + 1 voxels equals n dilations and is separable.
    dilated = maximum_filter((truth > 0).cpu().numpy(), size=2 * NEAR_VOXELS + 1)
    return torch.from_numpy(dilated).to(truth.device)


def expected_calibration_error(probability: torch.Tensor, truth: torch.Tensor, bins: int = 15) -> float:
    """Compute the top-label expected calibration error, sum_m |B_m| / n |acc(B_m) - conf(B_m)|.

    Bins are ((m - 1) / M, m / M]. MONAI's `CalibrationErrorMetric` is per class, and torchmetrics sums in float32,
    which is inexact for a million voxels. The error is from 0 to 1.

    Reference: Guo et al. 2017 (arXiv:1706.04599), eq. 3.
    """
    confidence, predicted = probability.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    # |B_m| (acc - conf) is a sum over the bin's voxels: no division, so empty bins need no guard.
    gap = torch.bincount(torch.bucketize(confidence, edges), weights=(predicted == truth).double() - confidence)
    return float(gap.abs().sum() / len(truth))


def brier_score(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Compute the mean over voxels of sum_k (p_k - y_k)^2, from 0 to 2 (Brier 1950); y is one-hot."""
    true_probability = probability.gather(1, truth[:, None]).squeeze(1)
    return float((probability.square().sum(1) - 2 * true_probability + 1).mean())


def negative_log_likelihood(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Compute the mean over voxels of -ln p_truth in nats; probabilities are at least 1e-6."""
    return float(-probability.gather(1, truth[:, None]).clamp(min=PROBABILITY_FLOOR).log().mean())


def error_auroc(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Compute the probability that a wrong voxel has a higher entropy than a correct one.

    It is the area under the ROC curve: 1 is perfect, 0.5 is chance; NaN if no voxel is wrong, or every one.
    """
    wrong = probability.argmax(dim=1) != truth
    if bool(wrong.all()) or not bool(wrong.any()):
        return math.nan
    # torchmetrics applies a sigmoid to scores above 1: divide by ln K. float32 removes rounding differences.
    entropy = (predictive_entropy(probability, dim=1) / math.log(probability.shape[1])).float().clamp(max=1)
    from torchmetrics.functional.classification import binary_auroc  # inference does without its 270 modules

    return float(binary_auroc(entropy, wrong.long()))


def voxel_metrics(probability: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Compute `ece` (0 to 1), `brier` (0 to 2), `nll` (nats) and `error_auroc` (0 to 1); NaN without voxels."""
    metrics = {
        "ece": expected_calibration_error,
        "brier": brier_score,
        "nll": negative_log_likelihood,
        "error_auroc": error_auroc,
    }
    return {name: metric(probability, truth) if len(truth) else math.nan for name, metric in metrics.items()}


def masked_voxels(
    probability: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities (N, K), float64, and true classes (N,), int64, of the voxels in a mask, on the CPU.

    Args:
        probability: (K, X, Y, Z) or (K, X, Y), K >= 2 with the background first.
        truth: integer tensor (X, Y, Z) or (X, Y), classes from 0 to K - 1.
        mask: boolean tensor of the same shape.

    Raises:
        ValueError: if values in the mask are no probabilities.
    """
    probability, truth, mask = (convert_to_tensor(tensor) for tensor in (probability, truth, mask))
    rows = probability[:, mask.to(probability.device)].T.cpu().double()
    # NaN fails this condition too.
    valid = (rows >= -SUM_TOLERANCE).all(1) & ((rows.sum(1) - 1).abs() <= SUM_TOLERANCE)
    if not bool(valid.all()):
        raise ValueError(
            f"probability: found {int((~valid).sum())} of {len(valid)} voxels with values from {float(rows.min()):.3g} "
            f"to {float(rows.max()):.3g}, expected values in [0, 1] that sum to one; apply a softmax"
        )
    return rows.clamp(0, 1), truth[mask.to(truth.device)].cpu().long()
