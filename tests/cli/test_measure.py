"""Time and memory of training steps are measured with the parts of the bundle."""

import copy
import json
import subprocess
import sys
import time

import pytest
import torch

from monai_pdddpm.cli import measure
from monai_pdddpm.cli.create import create_bundle
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.cli.measure import StepCost, expected_time, inference_memory, measure_step
from monai_pdddpm.cli.shipped import bundles
from monai_pdddpm.data.phantom import write_phantom


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


@pytest.mark.parametrize(
    ("shape", "spacing", "frames", "arrays"),
    [
        # held: scan 1, image and batch 2, sums 2, output 24; statistics and weights 11, members in work 48; saving 10
        ([50, 50, 50], 1, 1, 125_000 * (29 + 59 + 10)),
        ([512, 512, 300], 1, 1, 78_643_200 * (29 + 20)),  # maps take more than one member at once, 17
        ([50, 50, 50], 1, 3, 125_000 * 3 * (29 + 20 + 10)),  # the maps of all frames
        ([100, 50, 50], 0.5, 1, 250_000 * (1 + 10) + 125_000 * (28 + 59)),  # half of the voxels after resampling
    ],
)
def test_memory_of_arrays(configs, monkeypatch, shape, spacing, frames, arrays):
    monkeypatch.setattr(measure, "_window_peak", lambda parser, settings: 5e8)
    found = inference_memory(configs["inference.json"], shape, [spacing, 1, 1], frames)  # 2 classes, 8 members
    assert found.value - 5e8 == pytest.approx(4 * arrays, rel=1e-6)


@pytest.mark.slow
def test_a_run_takes_the_estimated_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread has buffers of its own
    bundle = bundles() / "phantom_segmentation"
    config, shape = bundle / "configs" / "inference.json", (64, 56, 48)
    write_phantom(tmp_path / "data", train=0, validation=0, test=1, annotations=1, size=shape)
    code = f"""
import json, itk
from monai_pdddpm.cli import create, measure
itk.imread  # as a scan's reader does
config = json.load(open({str(config)!r}))
print(measure.inference_memory(config, {list(shape)}, [1, 1, 1], 1).value)
"""
    estimated = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    words = [
        "--config_file",
        config,
        "--dataset_dir",
        tmp_path / "data",
        "--output_dir",
        tmp_path / "o",
        "--num_steps",
        "1",
    ]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "inference", *map(str, words)], check=True)
    (report,) = tmp_path.glob("o/*/*_report.json")
    measured = 2**20 * json.loads(report.read_text(encoding="utf-8"))["peak_memory_mib"]
    assert float(estimated.split()[-1]) == pytest.approx(measured, rel=0.2)


def test_window_without_a_segmenter(configs, tmp_path):
    config = configs["inference.json"] | {"presegmentation_dir": str(tmp_path)}
    config |= {"segmenter_def": {"_target_": "monai_pdddpm.networks.NoSegmenter"}}
    assert inference_memory(config, [20, 24, 16], [1, 1, 1], 1).value > 2**27
