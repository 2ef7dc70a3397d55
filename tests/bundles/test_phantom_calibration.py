"""The phantom's true probabilities are known: do members differ as annotations do?"""

import pytest

from benchmarks.trust import phantom

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured():
    """Two fresh scans, many members, with the bundle's own settings."""
    found = phantom.run({}, scans=2, members=48)
    print({name: round(value, 4) for name, value in found.items()})
    return found


@pytest.mark.parametrize("name", ["mean", "frequency"])
def test_members_are_calibrated_and_better_than_the_segmenter(measured, name):
    assert measured[f"{name}_ece"] < 0.02
    assert measured[f"{name}_mae"] < 0.045
    assert measured[f"{name}_ece"] < measured["segmenter_ece"] / 2
    assert measured[f"{name}_mae"] < measured["segmenter_mae"]


@pytest.mark.parametrize("distance", phantom.DISTANCES)
def test_neighbours_agree_as_in_readings(measured, distance):
    annotations = measured[f"readings_correlation_{distance}"]
    assert measured[f"correlation_{distance}"] == pytest.approx(annotations, abs=0.08)
