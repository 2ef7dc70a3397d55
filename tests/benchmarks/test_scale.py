"""The model of more processes, by hand."""

from benchmarks.scale.scale import as_table, median, seconds_by_cases, seconds_by_members


def test_model_by_hand():
    assert seconds_by_cases(10, 3, 12, 1) == 46
    assert seconds_by_cases(10, 3, 12, 5) == 19
    assert seconds_by_cases(10, 3, 12, 100) == 13
    assert seconds_by_members(2, 1, 8, 3) == 5


def test_table():
    assert median([{"a": 1}, {"a": 5}, {"a": 2}]) == {"a": 2}
    assert as_table({"cases": {"1": {"seconds": 3}, "2": {"seconds": 2}}}).endswith(
        "| cases | seconds | 3.00 | 2.00 | 1.50 |"
    )
