"""A few of the cases of ``endurance.py``, and how growth is measured."""

import os

import pytest
from endurance_cases import differing, endure, name
from endurance_watch import Usage, beyond, growth, usage


def test_growth_is_told_from_a_warm_up():
    done = list(range(10, 510, 10))
    steady = [Usage(400 + 300 * (number < 3), 20, 6, 1) for number in range(50)]
    assert beyond(growth(done, steady)) == []
    leaking = [Usage(400 + 0.1 * cases, 20 + cases, 6 + cases // 50, 1) for cases in done]
    grown = growth(done, leaking)
    assert (grown.memory_mib, grown.files) == pytest.approx((10, 100))
    assert len(beyond(grown)) == 3


def test_an_answer_of_another_scan_is_found(tmp_path):
    for run, numbers in (("output", range(6)), ("again", (5, 4, 2, 3, 1, 0))):  # 2 and 3 changed places
        for place, number in enumerate(numbers):
            folder = tmp_path / run / name(place)
            folder.mkdir(parents=True)
            for what in range(6):
                (folder / f"{name(place)}_{what}.nii.gz").write_text(f"{number}")
    assert differing(tmp_path / "output", tmp_path / "again", 6) == [name(2), name(3)]


def test_usage_counts_what_is_held(tmp_path):
    before = usage(os.getpid(), tmp_path)
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        after = usage(os.getpid(), tmp_path)
    assert (after.files - before.files, after.temporary) == (2, 2)
    assert after.memory_mib > 50


@pytest.mark.slow
def test_cases(tmp_path):
    """A dozen cases: whose answers they are; they are too few to tell growth from warming up."""
    text, wrong = endure(12, tmp_path / "cases", every=2)
    assert not [line for line in wrong if "grows" not in line], wrong
    assert text.startswith("12 cases in ")
