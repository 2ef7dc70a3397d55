"""Time and memory of training steps are measured with the parts of the bundle."""

import json
import time

import pytest
import torch

from monai_pdddpm.cli import measure
from monai_pdddpm.cli.create import create_bundle
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.cli.measure import StepCost, expected_time, measure_step


@pytest.fixture
def configs(decathlon, tmp_path):
    create_bundle("boxes", read_dataset(decathlon()), tmp_path / "b", progress=False)
    folder = tmp_path / "b" / "boxes" / "configs"
    return {f"{name}.json": json.loads((folder / f"{name}.json").read_text()) for name in ("train_segmenter", "train")}


def test_steps(configs):
    for config in configs.values():
        start = time.perf_counter()
        small = measure_step(config | {"batch_size": 1}, (1, 26, 26, 26))
        assert 0 < small.seconds < time.perf_counter() - start
        assert small.peak > 2**27 or torch.cuda.is_available()


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
