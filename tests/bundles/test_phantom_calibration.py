"""The phantom's true probabilities are known: members vary as annotations do."""

import pytest

from benchmarks.trust import phantom

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    """Compare 48 members of two fresh scans with as many annotations, with the bundle's own settings."""
    return {line["name"]: line for line in phantom.summary(phantom.measure([{}], scans=2, members=48))}


def test_members_are_calibrated(rows):
    assert rows["as shipped"]["frequency_ece"]["mean"] < 0.02
    assert rows["as shipped"]["mean_ece"]["mean"] < 0.02
    assert rows["as shipped"]["frequency_ece"]["mean"] < rows[phantom.SEGMENTER]["frequency_ece"]["mean"] / 2


def test_members_are_nearer_to_annotations_than_independent_voxels(rows):
    limit, ours, independent, segmenter = (
        rows[name]["ged"]["mean"] for name in (phantom.LIMIT, "as shipped", phantom.OF_THE_MEAN, phantom.SEGMENTER)
    )
    assert limit < ours < independent < segmenter
    assert ours < 0.055


@pytest.mark.parametrize("distance", phantom.DISTANCES)
def test_neighbors_correlate_as_in_annotations(rows, distance):
    annotations = rows[phantom.LIMIT][f"correlation_{distance}"]["mean"]
    assert rows["as shipped"][f"correlation_{distance}"]["mean"] == pytest.approx(annotations, abs=0.08)
