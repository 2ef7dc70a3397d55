"""From the metrics of each case to means with their intervals, and to the difference between two methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE_LEVEL = 0.95
# Signed volume errors of several labels would cancel: only these are averaged over the labels.
MEAN_METRICS = ("dice", "hd95_mm", "nsd_1mm")
KEYS = ("case", "method", "label")

Row = Mapping[str, Any]
Statistic = dict[str, float | int | None]


def case_rows(case: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out what `SegmentationMetricsd` found for one case as rows.

    Args:
        case: name of the case.
        metrics: {method: {"labels": {name: {metric: value}}, "near structure": {metric: value}}}.

    Returns:
        One dict for each method and label with `case`, `method`, `label` and the metrics. With two labels or more a row
        "mean" has the means over the labels of Dice, HD95 and NSD; it is nan where a label's is, for a mean over
        fewer labels would flatter the method that missed one. A row "near structure" has the calibration.
    """
    rows: list[dict[str, Any]] = []
    for method, found in metrics.items():
        labels = found["labels"]
        rows += [{"case": case, "method": method, "label": name, **values} for name, values in labels.items()]
        if len(labels) > 1:
            means = {metric: float(np.mean([values[metric] for values in labels.values()])) for metric in MEAN_METRICS}
            rows.append({"case": case, "method": method, "label": "mean", **means})
        rows.append({"case": case, "method": method, "label": "near structure", **found["near structure"]})
    return rows


def statistic(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> Statistic:
    """Mean of the finite values and the 95 % percentile bootstrap interval of that mean.

    Args:
        values: one value for each case.
        resamples: number of bootstrap resamples of the cases.
        seed: of the resampling; the same values give the same interval.

    Returns:
        `mean`, `low`, `high` (None without a finite value; low = mean = high for a single or a constant value), `n`
        (finite values) and `left_out` (values that are not finite).
    """
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    counts: Statistic = {"n": len(finite), "left_out": len(array) - len(finite)}
    if not len(finite):
        return {"mean": None, "low": None, "high": None, **counts}
    if np.ptp(finite) == 0:
        value = float(finite[0])
        return {"mean": value, "low": value, "high": value, **counts}
    interval = bootstrap(
        (finite,),
        np.mean,
        n_resamples=resamples,
        confidence_level=CONFIDENCE_LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return {"mean": float(finite.mean()), "low": float(interval.low), "high": float(interval.high), **counts}


def by_case(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Sort rows into {method: {label: {metric: {case: value}}}}, keeping the order in which they come.

    Raises:
        ValueError: where a case has two rows for the same method and label.
    """
    table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    seen = set()
    for row in rows:
        key = tuple(str(row[name]) for name in KEYS)
        if key in seen:
            raise ValueError(f"case {key[0]!r} has two rows for {key[1]!r}, {key[2]!r}: give each case its own name")
        seen.add(key)
        case, method, label = key
        metrics = table.setdefault(method, {}).setdefault(label, {})
        for metric, value in row.items():
            if metric not in KEYS:
                metrics.setdefault(metric, {})[case] = float(value)
    return table


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> list[float]:
    """Difference second - first of each case that either has, nan where one of the two is missing or not finite."""
    cases = [*first, *(case for case in second if case not in first)]
    pairs = [(first.get(case, math.nan), second.get(case, math.nan)) for case in cases]
    return [b - a if math.isfinite(a) and math.isfinite(b) else math.nan for a, b in pairs]


def summarise(
    rows: Sequence[Row],
    baseline: str = "segmenter",
    candidate: str = "ensemble",
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Means over cases with 95 % bootstrap intervals, and the paired difference candidate - baseline.

    Cases are what is resampled; the difference is taken within each case first, so its interval knows the pairing and
    can exclude zero where the two methods' own intervals overlap. Values that are not finite are left out and counted,
    in the difference also where only one of the two methods has one.

    Args:
        rows: dicts with `case`, `method`, `label` and any metrics, as from `case_rows`.
        baseline: name of the method compared with.
        candidate: name of the method that is compared.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        A dict that JSON can hold: the settings, the number of `cases`, `methods` {method: {label: {metric:
        `statistic`}}} and `paired_difference` {label: {metric: `statistic`}}.

    Raises:
        ValueError: where there are no rows, none of one of the two methods, or two of a case, method and label.
    """
    table = by_case(rows)
    for method in (baseline, candidate):
        if method not in table:
            raise ValueError(f"no row is of the method {method!r}; the methods found are {sorted(table)}")
    difference: dict[str, dict[str, Statistic]] = {}
    for label, metrics in table[candidate].items():
        ours = {
            metric: statistic(paired_difference(table[baseline][label][metric], values), resamples, seed)
            for metric, values in metrics.items()
            if metric in table[baseline].get(label, {})
        }
        if ours:
            difference[label] = ours
    return {
        "baseline": baseline,
        "candidate": candidate,
        "interval": "percentile bootstrap over cases",
        "confidence_level": CONFIDENCE_LEVEL,
        "resamples": resamples,
        "seed": seed,
        "cases": len({str(row["case"]) for row in rows}),
        "methods": {
            method: {
                label: {metric: statistic(list(values.values()), resamples, seed) for metric, values in metrics.items()}
                for label, metrics in labels.items()
            }
            for method, labels in table.items()
        },
        "paired_difference": difference,
    }


def as_table(summary: Mapping[str, Any]) -> str:
    """The paired part of a summary as a Markdown table.

    Args:
        summary: what `summarise` returned.

    Returns:
        One line for each structure and metric: both methods' means and the paired difference, each with its interval,
        and the number of cases that the difference is of (with the number left out).
    """
    baseline, candidate = summary["baseline"], summary["candidate"]
    lines = [
        f"| structure | metric | {baseline} | {candidate} | {candidate} - {baseline} | cases |",
        "|---|---|---|---|---|---|",
    ]
    for label, metrics in summary["paired_difference"].items():
        for metric, difference in metrics.items():
            if metric in ("true_volume_ml", "true_lesions"):  # the same for every method
                continue
            both = [_cell(summary["methods"][method][label][metric], ".4g") for method in (baseline, candidate)]
            left_out = f" ({difference['left_out']} left out)" if difference["left_out"] else ""
            cells = [label, metric, *both, _cell(difference, "+.3g"), f"{difference['n']}{left_out}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], form: str) -> str:
    """Write one statistic as 'mean [low, high]', a dash where there is none."""
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"
