"""Summarize the metrics of all cases: means with intervals, and the paired difference of two methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

CONFIDENCE_LEVEL = 0.95
RESAMPLES, SEED = 2000, 0  # of the bootstrap
BASELINE, CANDIDATE = "segmenter", "ensemble"
# Signed volume errors of several labels would cancel: only these metrics are averaged over the labels.
MEAN_METRICS = ("dice", "hd95_mm", "nsd_1mm")
KEYS = ("case", "method", "label")

Row = Mapping[str, Any]
Statistic = dict[str, float | int | None]


def case_rows(case: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert the result of `SegmentationMetricsd` for one case to rows.

    Args:
        case: name of the case.
        metrics: {method: {"labels": {name: {metric: value}}, "near structure": {metric: value}}}, and where there are
            any, "regions" like "labels", which do not count in the mean.

    Returns:
        One dict for each method and label with `case`, `method`, `label` and the metrics. With two labels or more, a
        row "mean" has the means over the labels of Dice, HD95 and NSD; the mean is NaN if a label's value is, since a
        mean over fewer labels would favor the method that misses one. The row "near structure" has the calibration.
    """
    rows: list[dict[str, Any]] = []
    for method, found in metrics.items():
        labels = found["labels"]
        structures = labels | found.get("regions", {})
        rows += [{"case": case, "method": method, "label": name, **values} for name, values in structures.items()]
        if len(labels) > 1:
            means = {metric: float(np.mean([values[metric] for values in labels.values()])) for metric in MEAN_METRICS}
            rows.append({"case": case, "method": method, "label": "mean", **means})
        rows.append({"case": case, "method": method, "label": "near structure", **found["near structure"]})
    return rows


def statistic(values: Sequence[float], subjects: Sequence[str] | None = None) -> Statistic:
    """Compute the mean of the finite values and its 95 % percentile bootstrap interval.

    Args:
        values: one value for each case.
        subjects: subject of each case; subjects are resampled, with all their cases. By default each case is one.

    Returns:
        `mean`, `low`, `high` (None without a finite value; equal for a single subject or a constant value), `n` (number
        of finite values) and `excluded` (number of other values).
    """
    array = np.asarray(values, dtype=float)
    kept = np.isfinite(array)
    finite = array[kept]
    counts: Statistic = {"n": len(finite), "excluded": len(array) - len(finite)}
    if not len(finite):
        return {"mean": None, "low": None, "high": None, **counts}
    mean = float(finite[0] if np.ptp(finite) == 0 else finite.mean())
    names = np.arange(len(array)) if subjects is None else np.asarray(subjects)
    _, group = np.unique(names[kept], return_inverse=True)
    if np.ptp(finite) == 0 or group.max() == 0:
        return {"mean": mean, "low": mean, "high": mean, **counts}

    def ratio(sums: NDArray[Any], sizes: NDArray[Any], axis: int) -> NDArray[Any]:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    interval = bootstrap(
        (np.bincount(group, weights=finite), np.bincount(group)),
        ratio,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE_LEVEL,
        method="percentile",
        paired=True,
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), **counts}


def by_case(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, float]]:
    """Sort rows into {(method, label, metric): {case: value}}, in the order in which they come."""
    table: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        case, method, label = (str(row[name]) for name in KEYS)
        for metric, value in row.items():
            if metric not in KEYS:
                table.setdefault((method, label, metric), {})[case] = float(value)
    return table


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Return second - first for each case of either, NaN if one of the two is missing or not finite."""
    pairs = {case: (first.get(case, math.nan), second.get(case, math.nan)) for case in {**first, **second}}
    return {case: b - a if math.isfinite(a) and math.isfinite(b) else math.nan for case, (a, b) in pairs.items()}


def summarize(rows: Sequence[Row], subjects: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compute means over cases with 95 % bootstrap intervals, and the paired difference ensemble - segmenter.

    The means of these two are over the cases where both have a finite value. A method that misses a structure has no
    HD95 there: the case is excluded for both methods, and `undefined` counts it.

    Args:
        rows: dicts with `case`, `method`, `label` and metrics, as from `case_rows`.
        subjects: subject of each case; subjects are resampled. By default each case is one.

    Returns:
        A dict for JSON: the settings, the numbers of `cases` and `subjects`, `methods` {method: {label: {metric:
        `statistic` with `undefined`}}} and `paired_difference` {label: {metric: `statistic`}}.

    Raises:
        ValueError: if one of the two has no rows.
    """
    table = by_case(rows)
    found = {method for method, _, _ in table}
    for method in (BASELINE, CANDIDATE):
        if method not in found:
            raise ValueError(f"rows: found the methods {sorted(found)}, expected {method!r} among them")

    cases = {str(row["case"]) for row in rows}
    own = subjects or {case: case for case in cases}

    def described(values: Mapping[str, float]) -> Statistic:
        return statistic(list(values.values()), [own[case] for case in values])

    gaps: dict[str, dict[str, dict[str, float]]] = {}
    for (method, label, metric), values in table.items():
        if method == CANDIDATE and (BASELINE, label, metric) in table:
            gaps.setdefault(label, {})[metric] = paired_difference(table[BASELINE, label, metric], values)
    methods: dict[str, Any] = {}
    for (method, label, metric), values in table.items():
        gap = gaps.get(label, {}).get(metric, {}) if method in (BASELINE, CANDIDATE) else {}
        common = {case: values[case] if math.isfinite(gap[case]) else math.nan for case in gap} or values
        undefined = sum(not math.isfinite(value) for value in values.values())
        methods.setdefault(method, {}).setdefault(label, {})[metric] = described(common) | {"undefined": undefined}
    return {
        "baseline": BASELINE,
        "candidate": CANDIDATE,
        "interval": "percentile bootstrap over subjects",
        "confidence_level": CONFIDENCE_LEVEL,
        "resamples": RESAMPLES,
        "seed": SEED,
        "cases": len(cases),
        "subjects": len({own[case] for case in cases}),
        "methods": methods,
        "paired_difference": {
            label: {metric: described(gap) for metric, gap in metrics.items()} for label, metrics in gaps.items()
        },
    }


def as_table(summary: Mapping[str, Any]) -> str:
    """Format the paired part of a `summarize` result as a Markdown table, a line for each structure and metric.

    Both means and the paired difference with their intervals are over the same cases, whose number is the last column.
    The number of undefined values stands beside each mean.
    """
    lines = [
        f"| structure | metric | {BASELINE} | {CANDIDATE} | {CANDIDATE} - {BASELINE} | cases |",
        "|---|---|---|---|---|---|",
    ]
    for label, metrics in summary["paired_difference"].items():
        for metric, difference in metrics.items():
            if metric in ("true_volume_ml", "true_lesions", "temperature"):  # no property of the answer
                continue
            both = [_cell(summary["methods"][method][label][metric], ".4g") for method in (BASELINE, CANDIDATE)]
            excluded = f" ({difference['excluded']} excluded)" if difference["excluded"] else ""
            cells = [label, metric, *both, _cell(difference, "+.3g"), f"{difference['n']}{excluded}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], form: str) -> str:
    """Format one statistic as 'mean [low, high]'."""
    undefined = f", {found['undefined']} undefined" if found.get("undefined") else ""
    if found["mean"] is None:
        return f"-{undefined}"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]{undefined}"
