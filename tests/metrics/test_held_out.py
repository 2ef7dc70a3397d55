"""Out-of-sample calibration recovers probabilities that were sharpened by a known temperature."""

import pytest
import torch

from monai_pdddpm.metrics.calibration import voxel_metrics
from monai_pdddpm.metrics.held_out import calibrated_rows, held_out_calibration, sample_voxels
from monai_pdddpm.metrics.summary import summarize
from monai_pdddpm.utils.probabilities import tempered


def sharpened(seed, temperature, count=3000):
    generator = torch.Generator().manual_seed(seed)
    right = torch.randn(count, 3, generator=generator).softmax(1)
    truth = torch.multinomial(right, 1, generator=generator)[:, 0]
    return tempered(right, 1 / temperature, dim=1), truth


def test_the_temperature_of_a_case_comes_from_other_subjects():
    voxels = {"a1": sharpened(0, 3.0), "a2": sharpened(1, 3.0), "b": sharpened(2, 1.5), "c": sharpened(3, 1.5)}
    by_case, pooled = held_out_calibration(voxels, {"a1": "a", "a2": "a", "b": "b", "c": "c"})
    assert by_case["a1"]["temperature"] == by_case["a2"]["temperature"] == pytest.approx(1.5, rel=0.05)
    assert by_case["b"]["temperature"] > 2
    expected = voxel_metrics(tempered(voxels["a1"][0].double(), by_case["a1"]["temperature"], 1), voxels["a1"][1])
    assert {name: by_case["a1"][name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert set(pooled) == {"raw", "calibrated"}
    assert pooled["calibrated"]["ece"] < pooled["raw"]["ece"]


def test_pooled_error_is_that_of_all_voxels_together():
    # One case too sure, the other too unsure by as much: the errors cancel in the pool, not per case.
    p = torch.tensor([[0.75, 0.25]])
    voxels = {
        "a": (p.repeat(100, 1), torch.tensor([0] * 50 + [1] * 50)),
        "b": (p.repeat(100, 1), torch.tensor([0] * 100)),
    }
    _, pooled = held_out_calibration(voxels, {"a": "a", "b": "b"})
    assert pooled["raw"]["ece"] == pytest.approx(0, abs=1e-7)
    assert voxel_metrics(*voxels["a"])["ece"] == pytest.approx(0.25)


def test_methods_that_differ_by_a_temperature_become_equal():
    right = {str(i): sharpened(i, 1.0) for i in range(4)}
    sharp = {name: (tempered(p, 0.4, 1), truth) for name, (p, truth) in right.items()}
    subjects = {name: name for name in right}
    (_, one), (_, other) = (held_out_calibration(voxels, subjects) for voxels in (right, sharp))
    assert one["raw"]["nll"] < other["raw"]["nll"] - 0.1
    assert one["calibrated"]["nll"] == pytest.approx(other["calibrated"]["nll"], abs=1e-3)


def test_rows_of_two_methods_can_be_summarized():
    right = {f"scan_{i}": sharpened(i, 1.0) for i in range(1, 7)}
    sharp = {name: (tempered(p, 0.5, 1), truth) for name, (p, truth) in right.items()}
    subjects = {f"scan_{i}": str((i - 1) // 2) for i in range(1, 7)}
    rows, pooled = calibrated_rows({"segmenter": sharp, "ensemble": right}, subjects)
    summary = summarize(rows, subjects)
    assert (summary["cases"], summary["subjects"]) == (6, 3)
    label = "near structure, calibrated"
    temperatures = [summary["methods"][name][label]["temperature"]["mean"] for name in ("segmenter", "ensemble")]
    assert temperatures == pytest.approx([2.0, 1.0], rel=0.05)
    assert summary["paired_difference"][label]["nll"]["mean"] == pytest.approx(0, abs=1e-3)
    assert pooled["segmenter"]["raw"]["nll"] > pooled["ensemble"]["raw"]["nll"]
    one = {"scan_1": right["scan_1"], "scan_2": right["scan_2"]}
    assert calibrated_rows({"segmenter": one}, subjects) == ([], {})
    assert len(calibrated_rows({"segmenter": one}, {name: name for name in one})[0]) == 2


def test_the_sample_is_the_same_in_every_run():
    truth = torch.arange(50_003)
    rows, classes = sample_voxels(truth[:, None].repeat(1, 2).double(), truth)
    expected = torch.randperm(50_003, generator=torch.Generator().manual_seed(0))[:50_000]
    assert torch.equal(classes, expected)
    assert torch.equal(rows[:, 1], expected.float())
    assert (rows.dtype, classes.dtype) == (torch.float32, torch.int64)
    assert len(sample_voxels(truth[:, None].double(), truth, most=10)[1]) == 10
    assert torch.equal(sample_voxels(truth[:50_000, None].double(), truth[:50_000])[1], truth[:50_000])
