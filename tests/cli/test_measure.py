"""Time and memory of training steps are measured with the parts of the bundle."""

import copy
import json
import math
import time

import pytest
import torch

from monai_pdddpm.cli import measure
from monai_pdddpm.cli.create import create_bundle
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.cli.measure import StepCost, expected_time, inference_memory, measure_step


@pytest.fixture
def configs(decathlon, tmp_path):
    create_bundle("boxes", read_dataset(decathlon()), tmp_path / "b", progress=False)
    folder = tmp_path / "b" / "boxes" / "configs"
    return {
        f"{name}.json": json.loads((folder / f"{name}.json").read_text())
        for name in ("train_segmenter", "train", "inference")
    }


def test_steps(configs):
    before = copy.deepcopy(configs)
    for config in (configs["train_segmenter.json"], configs["train.json"]):
        start = time.perf_counter()
        small = measure_step(config | {"batch_size": 1}, (1, 26, 26, 26))
        assert 0 < small.seconds < time.perf_counter() - start
        assert small.peak > 2**27 or torch.cuda.is_available()
    assert configs == before  # they are written afterwards


def test_hours_are_those_of_all_steps_of_both_stages(configs, monkeypatch):
    costs = iter([StepCost(0.5, 2**30), StepCost(1.0, 2**31)])
    monkeypatch.setattr(measure, "measure_step", lambda config, shape: next(costs))
    values = {"channels": 1, "roi_size": [24, 24, 16], "epochs": 100, "epoch_windows": None, "batch_size": 4}
    found = expected_time(configs, values, cases=96)  # 24 steps in each of 100 epochs
    assert found.value == pytest.approx(2400 * 1.5 / 3600)
    assert found.text == "about 1 hours on this computer, peak memory 2 GiB and the cached cases"
    assert found.reason == "measured: 0.5 s + 1 s a step, 2400 steps in each stage"


def test_pre_segmentations_take_the_place_of_a_segmenter(configs):
    config = configs["train.json"] | {"batch_size": 1, "presegmentation_dir": "pre"}
    config |= {"segmenter_def": {"_target_": "monai_pdddpm.networks.NoSegmenter"}}
    assert measure_step(config, (1, 26, 26, 26)).seconds > 0


def test_memory_of_a_large_scan_is_on_the_line_of_two_smaller_ones(monkeypatch):
    def peaks(configs, shapes, spacing):
        return [5e8 + 100 * math.prod(shape) for shape in shapes]

    monkeypatch.setattr(measure, "measure_inference", peaks)
    for shape in ([100, 100, 100], [512, 512, 300]):
        found = inference_memory({}, shape, [1, 1, 1])
        assert found.value == pytest.approx(5e8 + 100 * math.prod(shape), rel=1e-6)
        assert ("extrapolated" in found.reason) == (math.prod(shape) > measure.MEASURED_VOXELS)


@pytest.mark.slow
def test_extrapolated_memory_of_inference(configs, monkeypatch):
    file = {"inference.json": configs["inference.json"] | {"roi_size": [48, 48, 48]}}
    shape = [96, 96, 96]
    measured = inference_memory(file, shape, [1, 1, 1]).value
    monkeypatch.setattr(measure, "MEASURED_VOXELS", 0.6 * math.prod(shape))
    assert inference_memory(file, shape, [1, 1, 1]).value == pytest.approx(measured, rel=0.25)


@pytest.mark.slow
def test_memory_without_a_segmenter(configs):
    file = configs["inference.json"] | {"presegmentation_dir": "pre"}
    file |= {"segmenter_def": {"_target_": "monai_pdddpm.networks.NoSegmenter"}}
    assert inference_memory({"inference.json": file}, [20, 24, 16], [1, 1, 1]).value > 2**27
