"""The scale benchmark runs one and two processes."""

import json

import pytest

from benchmarks.scale import scale


def test_table():
    assert scale.median([{"a": 1}, {"a": 5}, {"a": 2}]) == {"a": 2}
    row = scale.as_table({"cases": {"1": {"seconds": 3}, "2": {"seconds": 2}}}).splitlines()[-1]
    assert row == "| cases | seconds | 3.00 | 2.00 | 1.50 |"


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    scale.main(["--tasks", "members", "--cases", "1", "--members", "2", "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())["results"]["members"]
    assert set(found) == {"1", "2"}
    assert all(0 < run["members_of_a_case"] < run["case"] < run["seconds"] for run in found.values())
