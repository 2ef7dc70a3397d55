"""Fit a calibration on validation cases: temperature, volume intervals, predicted Dice, usual ranges."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import linregress, spearmanr

from monai_pdddpm.metrics.calibration import PROBABILITY_FLOOR, negative_log_likelihood
from monai_pdddpm.utils.probabilities import log_probability, tempered

COVERAGE = 0.9
LEAST_CASES = 5
TEMPERATURES = np.geomspace(0.25, 4, 65)
# Confident probabilities do not make a volume exact: the scale of its interval is at least this share of it.
LEAST_SPREAD = 0.01
SMALLEST_ML = 1e-3  # and of an absent structure that of a cubic millimeter
LEAST_RANK_CORRELATION = 0.3  # below it, a predicted Dice does not rank cases and is left out
# The usual range of a feature is wider than that of the cases by half its width, and at least by a quarter.
LEAST_MARGIN = math.log(1.25)


def nll_curve(probability: torch.Tensor, truth: torch.Tensor) -> NDArray[Any]:
    """Compute the negative log-likelihood of voxels, (N, K) and (N,), at each of the 65 `TEMPERATURES`.

    It is that of `tempered` probabilities, summed over the voxels in nats, so curves of cases can be added.
    """
    log_p, truth = log_probability(probability.double()), truth.long()
    losses = [torch.nn.functional.cross_entropy(log_p / t, truth, reduction="none") for t in TEMPERATURES]
    return np.array([float(loss.clamp(max=-math.log(PROBABILITY_FLOOR)).sum()) for loss in losses])


def best_temperature(curve: NDArray[Any]) -> float:
    """Return the temperature, 0.25 to 4, at the minimum of a curve from `nll_curve`.

    The minimum is that of the parabola in log T through the lowest value and its neighbors; 1 for a constant curve, as
    of cases without voxels.
    """
    if np.ptp(curve) == 0:
        return 1.0
    i = int(np.clip(curve.argmin(), 1, len(curve) - 2))
    before, here, after = curve[i - 1 : i + 2]
    bend = before - 2 * here + after
    shift = float(np.clip((before - after) / (2 * bend), -1, 1)) if bend > 0 else 0.0
    return float(TEMPERATURES[i] * (TEMPERATURES[1] / TEMPERATURES[0]) ** shift)


@dataclass(frozen=True)
class Volume:
    """A structure's volume from probabilities. Both numbers hardly depend on the seed of the members.

    Attributes:
        expected_ml: sum of the structure's probabilities p, in mL.
        uncertain_ml: sum of p (1 - p), in mL: the variance of the volume if voxels were independent, in voxels.
    """

    expected_ml: float
    uncertain_ml: float

    @property
    def scale_ml(self) -> float:
        """The scale of the volume's interval, at least `LEAST_SPREAD` of the volume and `SMALLEST_ML`."""
        return max(self.uncertain_ml, LEAST_SPREAD * self.expected_ml, SMALLEST_ML)


def fit_interval_factor(truth: Sequence[float], center: Sequence[float], spread: Sequence[float]) -> float:
    """Return q such that center +- q spread contains the truth of a new case with a probability of at least 0.9.

    Of n cases it is the ceil(0.9 (n + 1))-th smallest of |truth - center| / spread, the largest if there are too few.

    Reference: Lei et al. 2018 (doi:10.1080/01621459.2017.1307116), split conformal prediction with normalized scores.
    """
    scores = np.sort(np.abs(np.subtract(truth, center)) / np.asarray(spread, dtype=float))
    return float(scores[min(len(scores), math.ceil((len(scores) + 1) * COVERAGE)) - 1])


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of a feature, widened on the log scale by half its width, at least by a quarter.

    Args:
        values: 0 or more each. A zero, as of an absent structure, makes 0 usual and is ignored otherwise.
    """
    positive = np.asarray(values, dtype=float)
    positive = positive[positive > 0]
    if not len(positive):
        return 0.0, 0.0
    logs = np.log(positive)
    margin = max(0.5 * float(np.ptp(logs)), LEAST_MARGIN)
    low = float(np.exp(logs.min() - margin)) if len(positive) == len(values) else 0.0
    return low, float(np.exp(logs.max() + margin))


@dataclass(frozen=True)
class CalibrationCase:
    """Data of one validation case that a calibration is fitted on.

    Attributes:
        subject: subject of the case; cases of one subject are left out together.
        probability: (N, K) of voxels near the structure, or of a sample of them.
        truth: (N,), true classes.
        true_ml: true volume in mL by label.
        volumes: volume by label, from the probabilities.
        features: numbers of 0 or more by name, `expected_dice` among them.
        dice: Dice of the answer, averaged over the labels.
    """

    subject: str
    probability: torch.Tensor
    truth: torch.Tensor
    true_ml: Mapping[str, float]
    volumes: Mapping[str, Volume]
    features: Mapping[str, float]
    dice: float

    @cached_property
    def curve(self) -> NDArray[Any]:
        """The case's `nll_curve`."""
        return nll_curve(self.probability, self.truth)


@dataclass(frozen=True)
class Calibration:
    """Calibration that inference applies; the defaults change nothing.

    Attributes:
        temperature: temperature of the mean probabilities.
        interval_factor: by label, the factor of `Volume.scale_ml` that gives a 90 % interval of the volume.
        dice_line: slope, intercept and 90 % half-width of the Dice predicted from the expected Dice.
        ranges: usual range by feature.
        fitted: number of cases, settings of the run, cross-validated figures.
    """

    temperature: float = 1.0
    interval_factor: Mapping[str, float] = field(default_factory=dict)
    dice_line: tuple[float, float, float] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def interval(self, label: str, volume: Volume) -> tuple[float, float] | None:
        """Return the 90 % interval of a label's volume in mL, None if the label was not fitted."""
        if label not in self.interval_factor:
            return None
        half = self.interval_factor[label] * volume.scale_ml
        return max(0.0, volume.expected_ml - half), volume.expected_ml + half

    def predicted_dice(self, expected_dice: float) -> tuple[float, float, float] | None:
        """Return the predicted Dice and its 90 % interval from the expected Dice, None if not fitted."""
        if self.dice_line is None:
            return None
        slope, intercept, half = self.dice_line
        value, low, high = (min(1.0, max(0.0, slope * expected_dice + intercept + step)) for step in (0, -half, half))
        return value, low, high

    def unlike(self, features: Mapping[str, float]) -> list[str]:
        """Return one sentence for each feature outside its usual range."""
        return [
            f"{name}: found {features[name]:.3g}, {low:.3g} to {high:.3g} is usual"
            for name, (low, high) in self.ranges.items()
            if name in features and not low <= features[name] <= high
        ]


def fit_calibration(cases: Sequence[CalibrationCase]) -> Calibration:
    """Fit a calibration on validation cases, at least `LEAST_CASES`."""
    factors = {}
    for label in cases[0].true_ml:
        volumes = [case.volumes[label] for case in cases]
        factors[label] = fit_interval_factor(
            [case.true_ml[label] for case in cases],
            [volume.expected_ml for volume in volumes],
            [volume.scale_ml for volume in volumes],
        )
    expected, dice = [case.features["expected_dice"] for case in cases], [case.dice for case in cases]
    line: tuple[float, float, float] | None = None
    if np.ptp(expected) > 0:
        found = linregress(expected, dice)
        x = np.asarray(expected)
        predicted = found.slope * x + found.intercept
        apart = np.square(x - x.mean())
        # a residual divided by 1 minus its leverage is that of a fit without the case
        left_out = (1 - 1 / len(dice) - apart / apart.sum()).clip(1e-6)
        half_width = fit_interval_factor(dice, list(predicted), list(left_out))
        line = (float(found.slope), float(found.intercept), half_width)
    return Calibration(
        temperature=best_temperature(np.sum([case.curve for case in cases], axis=0)),
        interval_factor=factors,
        dice_line=line,
        ranges={name: usual_range([case.features[name] for case in cases]) for name in cases[0].features},
    )


def cross_validated(cases: Sequence[CalibrationCase]) -> dict[str, Any]:
    """Judge each case by a calibration that is fitted on the cases of all other subjects.

    Returns:
        `nll_before` and `nll_after` (nats), over the cases with voxels; `interval_coverage` {label: share of cases},
        `interval_width` {label: mean width as a share of the true volume, over the cases that have one},
        `dice_rank_correlation` of predicted and true Dice (Spearman, NaN without variation), `dice_mean_error`,
        `unlike` (share of cases outside a usual range).
    """
    losses: list[list[float]] = []
    predicted, unlike = [], 0
    covered: defaultdict[str, list[bool]] = defaultdict(list)
    width: defaultdict[str, list[float]] = defaultdict(list)
    for case in cases:
        fitted = fit_calibration([other for other in cases if other.subject != case.subject])
        both = (case.probability, tempered(case.probability, fitted.temperature, 1))
        losses.append([negative_log_likelihood(p.double(), case.truth.long()) for p in both])
        for label, true_ml in case.true_ml.items():
            low, high = fitted.interval(label, case.volumes[label]) or (math.nan, math.nan)
            covered[label].append(low <= true_ml <= high)
            width[label].append((high - low) / true_ml if true_ml else math.nan)
        predicted.append((fitted.predicted_dice(case.features["expected_dice"]) or (math.nan,))[0])
        unlike += bool(fitted.unlike(case.features))
    dice = np.asarray([case.dice for case in cases])
    return {
        "nll_before": _mean([before for before, _ in losses]),
        "nll_after": _mean([after for _, after in losses]),
        "interval_coverage": {label: float(np.mean(values)) for label, values in covered.items()},
        "interval_width": {label: _mean(values) for label, values in width.items()},
        "dice_rank_correlation": float(spearmanr(predicted, dice)[0]) if np.ptp(predicted) > 0 else math.nan,
        "dice_mean_error": float(np.mean(np.abs(np.asarray(predicted) - dice))),
        "unlike": unlike / len(cases),
    }


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the numbers; NaN stands for a case without voxels or volume, and is left out."""
    kept = [value for value in values if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan
