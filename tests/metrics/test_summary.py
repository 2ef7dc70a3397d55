import json
import math
import warnings

import numpy as np
import pytest

from monai_pdddpm.metrics.summary import as_table, case_rows, statistic, summarise


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


def test_the_interval_of_two_values_by_hand():
    # Resamples have the means 0, 1/2 and 1, with chances 1/4, 1/2 and 1/4: the quantiles are the extremes.
    found = statistic([0, 1])
    assert (found["low"], found["mean"], found["high"]) == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.3], {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 1, "left_out": 0}),
        ([0.3] * 7, {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 7, "left_out": 0}),
        ([0.3, math.nan, math.inf], {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 1, "left_out": 2}),
        ([math.nan], {"mean": None, "low": None, "high": None, "n": 0, "left_out": 1}),
    ],
)
def test_degenerate_intervals_come_without_a_warning(values, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert statistic(values) == expected


def test_a_constant_difference_is_certain_however_the_cases_vary():
    segmenter = [0.25, 0.5, 0.75, 0.625]
    summary = summarise(rows_of(segmenter, [value + 0.125 for value in segmenter]))
    difference = summary["paired_difference"]["lesion"]["dice"]
    assert difference == {"mean": 0.125, "low": 0.125, "high": 0.125, "n": 4, "left_out": 0}
    assert summary["methods"]["segmenter"]["lesion"]["dice"]["high"] > 0.6
    assert summary["cases"] == 4


def test_pairs_are_formed_by_case_and_not_by_order():
    rows = rows_of([0.25, 0.5, 0.75], [0.5, 0.75, 1.0])
    assert summarise([*rows[:3], *rows[:2:-1]])["paired_difference"]["lesion"]["dice"]["high"] == 0.25


def test_the_difference_leaves_out_what_one_of_the_two_does_not_have():
    rows = rows_of([1.0, math.nan, 3.0, 4.0], [2.0, 3.0, math.nan, 6.0], metric="hd95_mm")
    summary = summarise(rows)
    difference = summary["paired_difference"]["lesion"]["hd95_mm"]
    assert (difference["mean"], difference["n"], difference["left_out"]) == (1.5, 2, 2)
    segmenter = summary["methods"]["segmenter"]["lesion"]["hd95_mm"]
    assert (segmenter["mean"], segmenter["n"], segmenter["left_out"]) == (pytest.approx(8 / 3), 3, 1)


def test_a_case_that_one_method_lacks_is_counted():
    difference = summarise(rows_of([0.5, 0.5], [0.75]))["paired_difference"]["lesion"]["dice"]
    assert (difference["mean"], difference["n"], difference["left_out"]) == (0.25, 1, 1)


def test_json_can_hold_it():
    summary = summarise(rows_of([math.nan, 0.5], [math.nan, 0.75]))
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
    assert as_table(summarise(rows)).splitlines() == [
        "| structure | metric | segmenter | ensemble | ensemble - segmenter | cases |",
        "|---|---|---|---|---|---|",
        "| lesion | dice | 0.5 [0.5, 0.5] | 0.75 [0.75, 0.75] | +0.25 [+0.25, +0.25] | 2 (1 left out) |",
        "| b | hd95_mm | - | 1 [1, 1] | - | 0 (1 left out) |",
    ]


def test_other_methods_are_summarised_and_may_be_compared():
    rows = [*rows_of([0.5], [0.75]), {"case": "c0", "method": "flips", "label": "lesion", "dice": 0.625}]
    assert summarise(rows)["methods"]["flips"]["lesion"]["dice"]["mean"] == 0.625
    assert summarise(rows, candidate="flips")["paired_difference"]["lesion"]["dice"]["mean"] == 0.125


def test_refusals():
    with pytest.raises(ValueError, match=r"'segmenter'.*\[\]"):
        summarise([])
    with pytest.raises(ValueError, match=r"'other'.*\['ensemble', 'segmenter'\]"):
        summarise(rows_of([0.5], [0.5]), candidate="other")
    with pytest.raises(ValueError, match=r"c0.*own name"):
        summarise(rows_of([0.5], [0.5]) * 2)
