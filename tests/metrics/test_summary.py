import json
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from monai_pdddpm.metrics.segmentation import mask_metrics
from monai_pdddpm.metrics.summary import as_table, case_rows, paired_difference, statistic, summarize


def rows_of(segmenter, ensemble, metric="dice", label="lesion"):
    return [
        {"case": f"c{index}", "method": method, "label": label, metric: value}
        for method, values in (("segmenter", segmenter), ("ensemble", ensemble))
        for index, value in enumerate(values)
    ]


def test_mean_and_interval():
    values = np.random.default_rng(0).normal(0.8, 0.1, 100)
    found = statistic(list(values))
    assert found["mean"] == pytest.approx(values.mean())
    # For a mean of many values the bootstrap agrees with the normal interval.
    half = 1.96 * values.std() / 10
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert statistic(list(values)) == found


def test_the_interval_is_that_of_scipy_with_2000_resamples_and_the_seed_0():
    values = [0.1, 0.4, 0.5, 0.7, 0.71, 0.9, 0.95]
    settings = {"n_resamples": 2000, "confidence_level": 0.95, "method": "percentile"}
    expected = bootstrap((values,), np.mean, **settings, random_state=np.random.default_rng(0)).confidence_interval
    found = statistic(values)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_interval_of_two_values_by_hand():
    # Resamples have the means 0, 1/2 and 1, with chances 1/4, 1/2 and 1/4: the quantiles are the extremes.
    found = statistic([0, 1])
    assert (found["low"], found["mean"], found["high"]) == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.3], {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 1, "excluded": 0}),
        ([0.3] * 7, {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 7, "excluded": 0}),
        ([0.3, math.nan, math.inf], {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 1, "excluded": 2}),
        ([math.nan], {"mean": None, "low": None, "high": None, "n": 0, "excluded": 1}),
    ],
)
def test_degenerate_intervals_come_without_a_warning(values, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert statistic(values) == expected


def test_a_constant_difference_is_certain_however_the_cases_vary():
    segmenter = [0.25, 0.5, 0.75, 0.625]
    summary = summarize(rows_of(segmenter, [value + 0.125 for value in segmenter]))
    difference = summary["paired_difference"]["lesion"]["dice"]
    assert difference == {"mean": 0.125, "low": 0.125, "high": 0.125, "n": 4, "excluded": 0}
    assert summary["methods"]["segmenter"]["lesion"]["dice"]["high"] > 0.6
    assert summary["cases"] == 4


def test_a_pair_with_an_infinite_value_has_no_difference():
    found = paired_difference({"a": math.inf, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": math.inf, "c": 3.0})
    assert [value for value in found.values() if not math.isnan(value)] == [2.0]


def test_pairs_are_formed_by_case_and_not_by_order():
    rows = rows_of([0.25, 0.5, 0.75], [0.5, 0.75, 1.0])
    assert summarize([*rows[:3], *rows[:2:-1]])["paired_difference"]["lesion"]["dice"]["high"] == 0.25


def test_both_means_are_over_the_cases_that_both_methods_have():
    rows = rows_of([1.0, math.nan, 3.0, 4.0], [2.0, 3.0, math.nan, 6.0], metric="hd95_mm")
    summary = summarize(rows)
    difference = summary["paired_difference"]["lesion"]["hd95_mm"]
    assert (difference["mean"], difference["n"], difference["excluded"]) == (1.5, 2, 2)
    for method, mean in (("segmenter", 2.5), ("ensemble", 4.0)):
        found = summary["methods"][method]["lesion"]["hd95_mm"]
        assert (found["mean"], found["n"], found["excluded"], found["undefined"]) == (mean, 2, 2, 1)


def test_a_missed_structure_does_not_improve_the_distance():
    truth = torch.zeros(24, 24, 24, dtype=torch.bool)
    truth[8:14, 8:14, 8:14] = True
    near, far, nothing = truth.roll(1, 0), truth.roll(9, 0), torch.zeros_like(truth)
    rows = [
        {"case": case, "method": method, "label": "x", **mask_metrics(mask, truth, (1.0, 1.0, 1.0))}
        for case, masks in {"a": (near, near), "b": (far, nothing)}.items()
        for method, mask in zip(("segmenter", "ensemble"), masks, strict=True)
    ]
    methods = summarize(rows)["methods"]
    segmenter, ensemble = (methods[name]["x"]["hd95_mm"] for name in ("segmenter", "ensemble"))
    assert segmenter["mean"] == ensemble["mean"] == 1
    assert segmenter["n"] == ensemble["n"] == 1
    assert (segmenter["undefined"], ensemble["undefined"]) == (0, 1)


def test_subjects_are_resampled_with_all_their_cases():
    # Two subjects with equal scans carry the information of two values, not of four.
    assert statistic([0, 0, 1, 1], ["a", "a", "b", "b"]) == statistic([0, 1]) | {"n": 4}
    # A subject with three scans weighs three times: the resampled means are 0, 3/4 and 1.
    found = statistic([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert (found["low"], found["mean"], found["high"]) == (0, 0.75, 1)
    one = statistic([0, 1], ["a", "a"])
    assert (one["low"], one["high"]) == (0.5, 0.5)


def test_each_scan_is_a_subject_unless_stated_otherwise():
    rows = rows_of([0.5, 0.25, 0.125], [0.75, 0.5, 0.25])
    subjects = {"c0": "a", "c1": "b", "c2": "b"}
    assert (summarize(rows)["subjects"], summarize(rows, subjects)["subjects"]) == (3, 2)


def test_intervals_of_dependent_scans_are_wider():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=40), 2) + 0.01 * rng.normal(size=80)
    apart, together = statistic(values), statistic(values, [str(i // 2) for i in range(80)])
    ratio = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert ratio == pytest.approx(math.sqrt(2), rel=0.1)


def test_a_case_that_one_method_lacks_is_counted():
    difference = summarize(rows_of([0.5, 0.5], [0.75]))["paired_difference"]["lesion"]["dice"]
    assert (difference["mean"], difference["n"], difference["excluded"]) == (0.25, 1, 1)


def test_json_can_hold_it():
    summary = summarize(rows_of([math.nan, 0.5], [math.nan, 0.75]))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_rows_of_a_case():
    def metrics(dice):
        return {"dice": dice, "hd95_mm": 2 * dice, "nsd_1mm": dice, "volume_error_percent": 5.0}

    found = {"segmenter": {"labels": {"a": metrics(0.5), "b": metrics(1.0)}, "near structure": {"ece": 0.1}}}
    rows = case_rows("c1", found)
    assert [(row["case"], row["method"], row["label"]) for row in rows] == [
        ("c1", "segmenter", label) for label in ("a", "b", "mean", "near structure")
    ]
    assert rows[2] == {
        "case": "c1",
        "method": "segmenter",
        "label": "mean",
        "dice": 0.75,
        "hd95_mm": 1.5,
        "nsd_1mm": 0.75,
    }
    assert rows[3]["ece"] == 0.1
    single = {"segmenter": {"labels": {"a": metrics(math.nan)}, "near structure": {}}}
    assert [row["label"] for row in case_rows("c1", single)] == ["a", "near structure"]


def test_a_missed_label_leaves_the_mean_undefined():
    metrics = {name: {"dice": 1.0, "hd95_mm": value, "nsd_1mm": 1.0} for name, value in (("a", 1.0), ("b", math.nan))}
    mean = case_rows("c1", {"segmenter": {"labels": metrics, "near structure": {}}})[2]
    assert mean["dice"] == 1
    assert math.isnan(mean["hd95_mm"])


def test_table():
    rows = rows_of([0.5, 0.5, 0.5], [0.75, 0.75, math.nan]) + rows_of([math.nan], [1.0], metric="hd95_mm", label="b")
    rows += rows_of([2.0], [2.0], "true_volume_ml", "volume")
    assert as_table(summarize(rows)).splitlines() == [
        "| structure | metric | segmenter | ensemble | ensemble - segmenter | cases |",
        "|---|---|---|---|---|---|",
        "| lesion | dice | 0.5 [0.5, 0.5] | 0.75 [0.75, 0.75], 1 undefined | +0.25 [+0.25, +0.25] | 2 (1 excluded) |",
        "| b | hd95_mm | -, 1 undefined | - | - | 0 (1 excluded) |",
    ]


def test_other_methods_are_summarized():
    rows = [*rows_of([0.5], [0.75]), {"case": "c0", "method": "flips", "label": "lesion", "dice": 0.625}]
    summary = summarize(rows)
    assert summary["methods"]["flips"]["lesion"]["dice"]["mean"] == 0.625
    assert summary["paired_difference"]["lesion"]["dice"]["mean"] == 0.25  # of the ensemble, not of the last method


def test_unsuitable_rows_raise():
    with pytest.raises(ValueError, match=r"\[\], expected 'segmenter'"):
        summarize([])
    with pytest.raises(ValueError, match=r"\['segmenter'\], expected 'ensemble'"):
        summarize(rows_of([0.5], [])[:1])
