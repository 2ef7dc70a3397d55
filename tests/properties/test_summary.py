"""Two methods are compared over the same cases, and what is missing is counted."""

import math
import re
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.metrics import as_table, summarize
from monai_pdddpm.metrics import summary as module

VALUE = st.one_of(st.floats(0, 50), st.just(math.nan), st.none())  # None: the method has no row for the case
CASES = st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=8)


def summarized(values):
    """Summarize one metric of two methods; None if a method has no row at all."""
    rows = [
        {"case": f"case {number}", "method": method, "label": "a", "hd95_mm": value}
        for number, pair in enumerate(values)
        for method, value in zip(("segmenter", "ensemble"), pair, strict=True)
        if value is not None
    ]
    if {row["method"] for row in rows} != {"segmenter", "ensemble"}:
        return None
    with patch.object(module, "RESAMPLES", 20):
        return summarize(rows)


def finite(value):
    return value is not None and math.isfinite(value)


@given(CASES)
def test_both_means_and_the_difference_are_over_the_common_cases(values):
    found = summarized(values)
    if found is None:
        return
    common = [pair for pair in values if finite(pair[0]) and finite(pair[1])]
    one, other = (found["methods"][method]["a"]["hd95_mm"] for method in ("segmenter", "ensemble"))
    difference = found["paired_difference"]["a"]["hd95_mm"]
    assert one["n"] == other["n"] == difference["n"] == len(common)
    present = [pair for pair in values if pair != (None, None)]
    assert difference["excluded"] == len(present) - len(common)
    for place, stated in enumerate((one, other)):
        column = [pair[place] for pair in values if pair[place] is not None]
        assert stated["undefined"] == sum(not finite(value) for value in column)
        if common:
            assert stated["mean"] == pytest.approx(np.mean([pair[place] for pair in common]), abs=1e-9)
        else:
            assert stated["mean"] is None
    if common:
        assert difference["mean"] == pytest.approx(np.mean([b - a for a, b in common]), abs=1e-9)


@given(CASES, st.integers(0, 7))
def test_a_method_that_misses_a_structure_does_not_gain_on_the_other(values, number):
    """Without the case the comparison is the same: a miss changes no number but the counts."""
    number %= len(values)
    missed = [(pair[0], math.nan) if i == number and pair[1] is not None else pair for i, pair in enumerate(values)]
    without = [pair for i, pair in enumerate(values) if i != number]
    with_miss, shorter = summarized(missed), summarized(without) if without else None
    if with_miss is None or shorter is None:
        return
    for method in ("segmenter", "ensemble"):
        a, b = (each["methods"][method]["a"]["hd95_mm"] for each in (with_miss, shorter))
        assert (a["mean"], a["n"]) == (pytest.approx(b["mean"]) if b["mean"] is not None else None, b["n"])


@given(CASES)
def test_each_line_of_the_table_states_how_many_cases_and_how_many_are_missing(values):
    found = summarized(values)
    if found is None:
        return
    (line,) = as_table(found).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    n, excluded = re.fullmatch(r"(\d+)(?: \((\d+) excluded\))?", cells[-1]).groups()
    assert int(n) + int(excluded or 0) == found["cases"]
    for cell, method in zip(cells[2:4], ("segmenter", "ensemble"), strict=True):
        undefined = found["methods"][method]["a"]["hd95_mm"]["undefined"]
        assert cell.endswith(f"{undefined} undefined") is bool(undefined)
