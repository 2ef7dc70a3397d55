"""Whether probabilities mean what they say, and whether the entropy points at the wrong voxels."""

from __future__ import annotations

import math

import torch
from monai.utils import convert_to_tensor
from scipy.ndimage import maximum_filter
from torchmetrics.functional.classification import binary_auroc

from monai_pdddpm.metrics.uncertainty import predictive_entropy

PROBABILITY_FLOOR = 1e-6
# Half precision and resampling leave sums a little off one; more than this is no distribution.
SUM_TOLERANCE = 1e-2
METRICS = ("ece", "brier", "nll", "error_auroc")


def near_structure(truth: torch.Tensor, voxels: int = 3) -> torch.Tensor:
    """The voxels where calibration is a question: the true foreground and what lies near it.

    The foreground dilated `voxels` times by the full neighbourhood (3 x 3 x 3): every voxel not more than `voxels`
    steps, diagonal ones included, from a foreground voxel. Averages over a whole scan only praise its empty background.

    Args:
        truth: integer or boolean tensor (X, Y, Z) or (X, Y), foreground above 0.
        voxels: reach in voxels, 0 for the foreground alone.

    Returns:
        Boolean mask of the same shape and device; empty where the truth is.

    Raises:
        ValueError: where `voxels` is negative.
    """
    if voxels < 0:
        raise ValueError(f"voxels needs to be 0 or more, found {voxels}")
    truth = convert_to_tensor(truth, track_meta=False)
    # A maximum over a cube of 2 n + 1 voxels is n such dilations, axis by axis and so much faster.
    reached = maximum_filter((truth > 0).cpu().numpy(), size=2 * voxels + 1, mode="constant", cval=0)
    return torch.from_numpy(reached).to(truth.device)


def expected_calibration_error(probability: torch.Tensor, truth: torch.Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of the confidence, sum_m |B_m| / n |acc(B_m) - conf(B_m)|.

    The confidence is the largest class's probability; bins ((m - 1) / M, m / M] as in the paper. torchmetrics' function
    of this name sums in float32 and so drifts from about a million voxels on, which a scan has; this one does not.

    Args:
        probability: (N, K), values in [0, 1].
        truth: (N,), the true class of each row.
        bins: number M of bins of equal width.

    Returns:
        The error, from 0 to 1.

    Source: Guo et al. 2017 (arXiv:1706.04599), eq. 3 (top label).
    """
    confidence, predicted = probability.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    # |B_m| (acc - conf) is a sum over the bin's voxels: no division, so nothing to guard in an empty bin.
    gap = torch.bincount(index, weights=(predicted == truth).double() - confidence, minlength=bins)
    return float(gap.abs().sum() / len(truth))


def brier_score(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over voxels of sum_k (p_k - y_k)^2, from 0 to 2.

    Args:
        probability: (N, K), values in [0, 1].
        truth: (N,), the true class of each row; y is its one-hot code.

    Returns:
        The score, 0 for certain and right everywhere, 2 for certain and wrong everywhere.

    Source: Brier 1950, the original multi-class form (twice the usual binary one).
    """
    true_probability = probability.gather(1, truth[:, None]).squeeze(1)
    return float((probability.square().sum(1) - 2 * true_probability + 1).mean())


def negative_log_likelihood(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over voxels of -ln p_truth in nats, probabilities clamped at 1e-6 from below (so at most 13.8).

    Without the clamp a single voxel that excludes the truth would make the mean infinite.

    Args:
        probability: (N, K), values in [0, 1].
        truth: (N,), the true class of each row.

    Returns:
        The mean, nats.
    """
    return float(-probability.gather(1, truth[:, None]).clamp(min=PROBABILITY_FLOOR).log().mean())


def error_auroc(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """How well entropy tells wrong voxels from right ones: the chance that a wrong one has the higher entropy.

    Args:
        probability: (N, K), values in [0, 1].
        truth: (N,), the true class of each row.

    Returns:
        Area under the ROC curve: 1 perfect, 0.5 useless; nan where no voxel is wrong, or every one.
    """
    wrong = probability.argmax(dim=1) != truth
    if bool(wrong.all()) or not bool(wrong.any()):
        return math.nan
    # torchmetrics squeezes scores above 1 through a sigmoid: entropy in units of ln K stays below. Rounding to float32
    # makes a tie of the same probabilities summed in another order.
    entropy = (predictive_entropy(probability, dim=1) / math.log(probability.shape[1])).float().clamp(max=1)
    return float(binary_auroc(entropy, wrong.long()))


def calibration_metrics(
    probability: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor, bins: int = 15
) -> dict[str, float]:
    """Calibration and error detection within a mask.

    Args:
        probability: (K, X, Y, Z) or (K, X, Y), K >= 2 with the background first, values in [0, 1] that sum to one
            within 0.01.
        truth: integer tensor (X, Y, Z) or (X, Y), classes from 0 to K - 1.
        mask: boolean tensor of the same shape, e.g. `near_structure(truth)`; probabilities outside are not looked at.
        bins: number of confidence bins of the calibration error.

    Returns:
        `ece` (top-label expected calibration error, 0 to 1), `brier` (0 to 2), `nll` (nats, probabilities clamped at
        1e-6) and `error_auroc` (0 to 1, nan without an error or without a right voxel); all nan for an empty mask.

    Raises:
        ValueError: where shapes do not fit, the truth has a class without a channel, or values are no probabilities.
    """
    probability, truth, mask = (convert_to_tensor(tensor, track_meta=False) for tensor in (probability, truth, mask))
    if probability.shape[1:] != truth.shape or mask.shape != truth.shape:
        raise ValueError(
            f"probability (classes first), truth and mask need one grid, found {tuple(probability.shape)}, "
            f"{tuple(truth.shape)} and {tuple(mask.shape)}"
        )
    if len(probability) < 2 or bins < 1:
        raise ValueError(f"at least two classes and one bin are needed, found {len(probability)} and {bins}")
    mask = mask.to(probability.device, torch.bool)
    # float64 on the CPU: sums over millions of voxels come out the same for any device.
    rows = probability[:, mask].T.cpu().double()
    classes = truth.to(probability.device)[mask].cpu().long()
    if not len(classes):
        return dict.fromkeys(METRICS, math.nan)
    if int(classes.min()) < 0 or int(classes.max()) >= len(probability):
        raise ValueError(
            f"the truth has classes from {int(classes.min())} to {int(classes.max())}, "
            f"the probabilities are of 0 to {len(probability) - 1}"
        )
    # Written so that nan fails too.
    fine = (rows >= -SUM_TOLERANCE).all(1) & ((rows.sum(1) - 1).abs() <= SUM_TOLERANCE)
    if not bool(fine.all()):
        raise ValueError(
            f"{int((~fine).sum())} of {len(fine)} voxels have no probabilities: values from {float(rows.min()):.3g} to "
            f"{float(rows.max()):.3g}, sums from {float(rows.sum(1).min()):.3g} to {float(rows.sum(1).max()):.3g}; "
            "expected values in [0, 1] that sum to one over the classes (a softmax missing, or zeros padded in?)"
        )
    rows = rows.clamp(0, 1)
    return {
        "ece": expected_calibration_error(rows, classes, bins),
        "brier": brier_score(rows, classes),
        "nll": negative_log_likelihood(rows, classes),
        "error_auroc": error_auroc(rows, classes),
    }
