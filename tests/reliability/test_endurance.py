import pytest
from endurance_cases import differing, endure, name
from endurance_watch import Usage, beyond, growth


def test_growth_counts_after_the_warm_up():
    done = list(range(10, 510, 10))
    steady = [Usage(400 + 300 * (number < 3), 20, 6, 1) for number in range(50)]
    assert beyond(growth(done, steady)) == []
    leaking = [Usage(400 + 0.1 * cases, 20 + cases, 6 + cases // 50, 1) for cases in done]
    grown = growth(done, leaking)
    assert (grown.memory_mib, grown.files) == pytest.approx((10, 100))
    assert len(beyond(grown)) == 3


def test_exchanged_results_are_found(tmp_path):
    for run, numbers in (("output", range(6)), ("again", (0, 1, 3, 2, 4, 5))):  # 2 and 3 are exchanged
        for place, number in enumerate(numbers):
            folder = tmp_path / run / name(place)
            folder.mkdir(parents=True)
            for what in range(6):
                (folder / f"{name(place)}_{what}.nii.gz").write_text(f"{number}")
    assert differing(tmp_path / "output", tmp_path / "again", 6) == [name(2), name(3)]


@pytest.mark.slow
def test_a_dozen_cases(tmp_path):
    text, wrong = endure(12, tmp_path / "cases", every=2)
    assert [line for line in wrong if "grows" not in line] == []  # too few cases to measure growth
    assert text.startswith("12 cases in ")
