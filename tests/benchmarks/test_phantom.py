"""The measures of the sample table, on samples with a known distribution."""

import json

import numpy as np
import pytest

from benchmarks.trust import phantom as script
from monai_pdddpm.data.phantom_distribution import make_phantom_scan, smooth_field


@pytest.fixture(scope="module")
def scan():
    return make_phantom_scan(seed=5, size=(24, 28, 20), spacing=(2.0, 2.0, 2.0))


def test_calibration_error_by_hand():
    predicted = np.array([0.1, 0.1, 0.9, 0.9])
    # gaps of 0.1 and 0.2 in two bins with half the voxels each
    assert script.calibration_error(predicted, np.array([0.2, 0.2, 0.7, 0.7]), bins=10) == pytest.approx(0.15)
    # gaps within a bin cancel
    assert script.calibration_error(predicted, np.array([0.0, 0.2, 0.8, 1.0]), bins=10) == pytest.approx(0)


def test_neighbor_correlation_of_known_fields():
    rng = np.random.default_rng(0)
    region = np.ones((12, 6, 6), bool)
    independent = rng.random((400, 12, 6, 6)) < 0.5
    assert script.neighbor_correlation(independent, region, 1) == pytest.approx(0, abs=0.02)
    together = np.broadcast_to(rng.random((400, 1, 1, 1)) < 0.5, independent.shape)
    assert script.neighbor_correlation(together, region, 4) == pytest.approx(1)
    fields = np.stack([smooth_field((48, 3, 3), (1, 1, 1), 4.0, rng) for _ in range(1500)])
    line = np.zeros((48, 3, 3), bool)
    line[12:36, 1, 1] = True  # pairs along one axis, far from its ends
    # orthant probabilities: the signs of Gaussians of correlation r correlate with 2 asin(r) / pi
    expected = 2 / np.pi * np.arcsin(np.exp(-4 / 32))
    assert script.neighbor_correlation(fields > 0, line, 2) == pytest.approx(expected, abs=0.03)


def test_annotations_in_place_of_members_are_perfect(scan):
    rng = np.random.default_rng(1)
    members, annotations = (np.stack([scan.draw_annotation(rng) for _ in range(300)]) for _ in range(2))
    found = script.compare(members, annotations, scan)
    assert found["ged"] == pytest.approx(0, abs=0.01)
    assert found["frequency_ece"] < 0.015
    for name in ("body", "core"):
        assert found[f"volume_sd_{name}"] == pytest.approx(1, abs=0.2)
    theirs = script.compare(annotations, members, scan)
    for d in (1, 2, 4):
        assert found[f"correlation_{d}"] == pytest.approx(theirs[f"correlation_{d}"], abs=0.06)


def test_independent_voxels_have_the_probabilities_and_no_correlation(scan):
    rng = np.random.default_rng(2)
    drawn = script.independent_voxels(scan.probability, 400, rng)
    frequency = np.stack([(drawn == k).mean(0) for k in range(3)])
    assert np.abs(frequency - scan.probability).mean() < 0.01
    annotations = np.stack([scan.draw_annotation(rng) for _ in range(64)])
    found = script.compare(drawn[:64], annotations, scan)
    assert found["correlation_1"] == pytest.approx(0, abs=0.1)
    assert found["volume_sd_body"] < 0.3
    assert found["ged"] == pytest.approx(0, abs=0.02)  # the distance hardly depends on the correlation


def test_the_script_runs(tmp_path, capsys):
    command = ["--scans", "2", "--members", "3", "--output_dir", str(tmp_path)]
    script.main([*command, "--settings", '{"num_steps": 1}'])
    found = json.loads((tmp_path / "results_phantom.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [script.LIMIT, script.INDEPENDENT, '{"num_steps": 1}', script.OF_THE_MEAN, script.SEGMENTER]
    assert rows[script.SEGMENTER]["volume_sd_body"]["mean"] == pytest.approx(0, abs=1e-9)
    assert rows[script.SEGMENTER]["ged"]["mean"] > rows[script.LIMIT]["ged"]["mean"]
    assert rows['{"num_steps": 1}']["ged"]["n"] == 2
    assert "| other annotations |" in capsys.readouterr().out
    assert (tmp_path / "results_phantom.md").read_text().startswith("| members | GED |")
    assert (tmp_path / "results_phantom.png").stat().st_size > 5000
