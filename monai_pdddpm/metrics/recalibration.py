"""What validation cases teach about an ensemble: a temperature, intervals of volume, a predicted Dice, usual ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import linregress

__all__ = [
    "Calibration",
    "CalibrationCase",
    "cross_validated",
    "fit_calibration",
    "fit_interval_factor",
    "fit_temperature",
    "spread_of_volume",
    "tempered",
    "usual_range",
]

COVERAGE = 0.9
# Members that agree to the voxel do not make a volume exact: at least this share of it counts as spread.
LEAST_SPREAD = 0.01
# A case is unlike the others when a feature leaves their range by half its width, or a quarter of the value.
LEAST_MARGIN = math.log(1.25)


def tempered(p: torch.Tensor, temperature: float, dim: int = 0) -> torch.Tensor:
    """Return p^(1/T) scaled to sum 1 over ``dim``: softer above T = 1, sharper below, of the same argmax.

    Args:
        p: probabilities that sum to 1 over ``dim``.
        temperature: T, above 0.
        dim: of the classes.

    Source: Guo et al. 2017 (arXiv:1706.04599), eq. 9, with log-probabilities for logits.
    """
    if temperature == 1:
        return p
    return (p.clamp(min=1e-12).log() / temperature).softmax(dim=dim)


def fit_temperature(probability: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the T, 0.25 to 4, at which the negative log-likelihood is least.

    Args:
        probability: (N, K).
        truth: (N,), the true class of each row.
    """
    log_p = probability.double().clamp(min=1e-6).log()

    def nll(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(log_p / math.exp(log_t), truth.long()))

    return float(math.exp(minimize_scalar(nll, bounds=(math.log(0.25), math.log(4)), method="bounded").x))


def spread_of_volume(members: Sequence[float]) -> float:
    """Return the members' standard deviation of a volume, or `LEAST_SPREAD` of their mean if that is more."""
    return max(float(np.std(members)), LEAST_SPREAD * float(np.mean(members)), 1e-9)


def fit_interval_factor(
    truth: Sequence[float], centre: Sequence[float], spread: Sequence[float], coverage: float = COVERAGE
) -> float:
    """Return q such that centre +- q spread holds the truth of a new case with at least the given probability.

    The ceil((n + 1) coverage)-th smallest of |truth - centre| / spread (split conformal prediction with normalised
    scores; Lei et al. 2018, J. Am. Stat. Assoc.); with too few cases for that the largest.

    Args:
        truth: of each case.
        centre: of each case's interval.
        spread: above 0.
        coverage: from 0 to 1.
    """
    scores = np.sort(np.abs(np.subtract(truth, centre)) / np.asarray(spread, dtype=float))
    return float(scores[min(len(scores), math.ceil((len(scores) + 1) * coverage)) - 1])


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of positive values, widened by half its width (as ratios) and by a quarter at least."""
    logs = np.log(np.maximum(values, 1e-6))
    margin = max(0.5 * float(np.ptp(logs)), LEAST_MARGIN)
    return float(np.exp(logs.min() - margin)), float(np.exp(logs.max() + margin))


@dataclass(frozen=True)
class CalibrationCase:
    """What is kept of one validation case.

    Attributes:
        name: of the case.
        probability: (N, K) of voxels near the structure, or a sample of them.
        truth: (N,), their true classes.
        true_ml: label -> true volume in mL.
        members_ml: label -> each member's volume in mL.
        features: name -> positive number, such as ``agreement``.
        dice: mean over the labels of the answer's Dice.
    """

    name: str
    probability: torch.Tensor
    truth: torch.Tensor
    true_ml: Mapping[str, float]
    members_ml: Mapping[str, Sequence[float]]
    features: Mapping[str, float]
    dice: float


@dataclass(frozen=True)
class Calibration:
    """What inference applies; the defaults change nothing.

    Attributes:
        temperature: of the mean probabilities.
        interval_factor: label -> factor of the members' spread that makes a 90 % interval of the volume.
        dice_line: slope, intercept and 90 % half-width of the Dice predicted from the members' agreement.
        ranges: feature -> low, high of what is usual.
        fitted: on what: number of cases, settings of the run, cross-validated figures.
    """

    temperature: float = 1.0
    interval_factor: Mapping[str, float] = field(default_factory=dict)
    dice_line: tuple[float, float, float] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def interval(self, label: str, members_ml: Sequence[float]) -> tuple[float, float] | None:
        """Return the 90 % interval of a label's volume in mL, None when it was not fitted."""
        if label not in self.interval_factor:
            return None
        centre, half = float(np.mean(members_ml)), self.interval_factor[label] * spread_of_volume(members_ml)
        return max(0.0, centre - half), centre + half

    def predicted_dice(self, agreement: float) -> tuple[float, float, float] | None:
        """Return the Dice to expect from the members' agreement, and its 90 % interval; None when not fitted."""
        if self.dice_line is None:
            return None
        slope, intercept, half = self.dice_line
        value, low, high = (min(1.0, max(0.0, slope * agreement + intercept + step)) for step in (0, -half, half))
        return value, low, high

    def unlike(self, features: Mapping[str, float]) -> list[str]:
        """Return one sentence for each feature that leaves the usual range."""
        return [
            f"{name}: found {features[name]:.3g}, {low:.3g} to {high:.3g} is usual"
            for name, (low, high) in self.ranges.items()
            if name in features and not low <= features[name] <= high
        ]


def fit_calibration(cases: Sequence[CalibrationCase]) -> Calibration:
    """Fit everything on validation cases.

    Raises:
        ValueError: with fewer than 5 cases, or cases without members.
    """
    if len(cases) < 5:
        raise ValueError(f"cases: {len(cases)} were found, at least 5 with a label are expected for a calibration")
    labels = list(cases[0].true_ml)
    factors = {}
    for label in labels:
        members = [case.members_ml[label] for case in cases]
        factors[label] = fit_interval_factor(
            [case.true_ml[label] for case in cases],
            [float(np.mean(m)) for m in members],
            [spread_of_volume(m) for m in members],
        )
    agreement, dice = [case.features["agreement"] for case in cases], [case.dice for case in cases]
    line: tuple[float, float, float] | None = None
    if np.ptp(agreement) > 0:
        found = linregress(agreement, dice)
        predicted = found.slope * np.asarray(agreement) + found.intercept
        line = (float(found.slope), float(found.intercept), fit_interval_factor(dice, predicted, [1.0] * len(dice)))
    return Calibration(
        temperature=fit_temperature(
            torch.cat([case.probability for case in cases]), torch.cat([case.truth for case in cases])
        ),
        interval_factor=factors,
        dice_line=line,
        ranges={name: usual_range([case.features[name] for case in cases]) for name in cases[0].features},
    )


def cross_validated(cases: Sequence[CalibrationCase]) -> dict[str, Any]:
    """Return what to expect on new cases: each case judged by a calibration that was fitted on the others.

    Returns:
        ``nll_before``, ``nll_after`` (nats), ``interval_coverage`` {label: share}, ``interval_width`` {label: mean
        width as a share of the true volume}, ``dice_correlation`` of predicted and true Dice (Pearson),
        ``dice_mean_error``, ``unlike`` (share of cases called unlike the others).
    """
    before: list[float] = []
    after: list[float] = []
    predicted, called = [], 0
    covered: dict[str, list[bool]] = {label: [] for label in cases[0].true_ml}
    width: dict[str, list[float]] = {label: [] for label in cases[0].true_ml}
    for number, case in enumerate(cases):
        fitted = fit_calibration([*cases[:number], *cases[number + 1 :]])
        truth = case.truth.long()[:, None]
        for p, losses in ((case.probability, before), (tempered(case.probability, fitted.temperature, 1), after)):
            losses.append(float(-p.double().gather(1, truth).clamp(min=1e-6).log().mean()))
        for label, true_ml in case.true_ml.items():
            low, high = fitted.interval(label, case.members_ml[label]) or (math.nan, math.nan)
            covered[label].append(low <= true_ml <= high)
            width[label].append((high - low) / max(true_ml, 1e-9))
        predicted.append((fitted.predicted_dice(case.features["agreement"]) or (math.nan,))[0])
        called += bool(fitted.unlike(case.features))
    dice = np.asarray([case.dice for case in cases])
    return {
        "nll_before": float(np.mean(before)),
        "nll_after": float(np.mean(after)),
        "interval_coverage": {label: float(np.mean(found)) for label, found in covered.items()},
        "interval_width": {label: float(np.mean(found)) for label, found in width.items()},
        "dice_correlation": float(np.corrcoef(predicted, dice)[0, 1]) if np.ptp(predicted) > 0 else math.nan,
        "dice_mean_error": float(np.mean(np.abs(np.asarray(predicted) - dice))),
        "unlike": called / len(cases),
    }
