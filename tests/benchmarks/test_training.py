"""Iterations are timed by a clock that stands still on its own, and both stages of a bundle run as they are."""

import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from benchmarks.speed import training
from benchmarks.speed.options import BUNDLES
from benchmarks.speed.training import STAGES, Waiting, rates, run_job, training_table
from monai_pdddpm.data import write_phantom
from monai_pdddpm.utils.errors import UserError

PHANTOM = BUNDLES / "phantom_segmentation"
TINY = {"roi_size": [16, 16, 16]}
CPU = torch.device("cpu")


def test_rates_by_hand():
    found = rates(wait=[1.0, 3.0], whole=[4.0, 6.0], samples=[4, 1])
    assert (found["samples_per_second"], found["waiting_share"]) == (0.5, 0.4)
    assert (found["iteration_seconds"]["median"], found["wait_seconds"]["median"]) == (5.0, 2.0)


@pytest.fixture
def clock(monkeypatch):
    """``clock(n)`` lets n seconds pass; else none do."""
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


class Loader:
    """Batches of two images, of which each takes 2 s; workers take 7 s to start."""

    def __init__(self, clock, length=4):
        self.clock, self.length = clock, length

    def __len__(self):
        return self.length

    def __iter__(self):
        self.clock(7)
        for _ in range(self.length):
            self.clock(2)
            yield {"image": torch.zeros(2, 1)}


@pytest.mark.parametrize(("iterations", "seconds", "counted", "ran"), [(5, 1000, 5, 8), (100, 11, 2, 5)])
def test_waiting_is_told_from_working(clock, iterations, seconds, counted, ran):
    engine = Engine(lambda *_: clock(3))
    waiting = Waiting(iterations, warm_up=2, seconds=seconds, device=CPU)
    waiting.attach(engine)
    engine.run(Loader(clock), max_epochs=100)
    # 1 and 2 are the warm-up, 3 and 4 count, 5 begins an epoch, 6 to 8 count
    assert waiting.wait == [2.0] * counted
    assert waiting.whole == [5.0] * counted
    assert waiting.samples == [2] * counted
    assert waiting.epoch_starts == [9.0, 9.0]
    assert engine.state.iteration == ran


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "data"
    return write_phantom(folder, 5, 1, 0, 0, annotations=2, size=(16, 16, 16), progress=False)


def job(stage, data, **changes):
    common = {"bundle": str(PHANTOM), "dataset_dir": str(data), "device": "cpu", "workers": 0, "cache": True}
    return {"stage": stage, **common, "iterations": 3, "warm_up": 1, "seconds": 60, "overrides": TINY} | changes


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "workers", "cache"), [("segmenter", 0, True), ("denoiser", 1, False)])
def test_a_stage_runs_as_it_is_and_leaves_nothing(stage, workers, cache, data, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in PHANTOM.rglob("*")}
    asked = json.dumps(job(stage, data, workers=workers, cache=cache))
    training.main(["--job", asked, "--job_file", str(tmp_path / "row.json")])
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["cases"], row["batch_size"], row["iterations"]) == (5, 2, 3)
    # two batches an epoch, of which the second counts
    assert row["samples_per_second"] * row["iteration_seconds"]["median"] == pytest.approx(2, rel=0.5)
    assert 0 < row["waiting_share"] < 1
    assert row["epoch_start_seconds"] > 0
    assert {path: path.stat().st_mtime_ns for path in PHANTOM.rglob("*")} == before


def test_an_epoch_needs_more_than_its_first_iteration(data):
    with pytest.raises(UserError, match="found 5 training cases in batches of 5, expected two batches an epoch"):
        run_job(**job("segmenter", data, overrides={**TINY, "batch_size": 5}))


def row(job):
    """2 samples a second, 4 of them with the cache; reading takes a quarter of the time."""
    faster = 2.0 if job["cache"] else 1.0
    quartiles = {"median": 2.0 / faster, "low": 1.0, "high": 3.0}
    return {
        **{name: job[name] for name in ("stage", "workers", "cache")},
        "cases": 221,
        "batch_size": 4,
        "iterations": 30,
        "samples_per_second": 2 * faster,
        "waiting_share": 0.25,
        "iteration_seconds": quartiles,
        "wait_seconds": quartiles,
        "epoch_start_seconds": 0.5,
        "fill_seconds": 6.0,
        "cache_mib": 123.4,
        "start_mib": 500.0,
        "peak_mib": 750.0,
        "gpu_peak_mib": None,
        "yardstick_seconds": 0.02,
        "at": "2000-01-01 00:00",
    }


def test_table_of_both_stages(tmp_path, monkeypatch):
    asked = []

    def measured(name, job, args, script):
        asked.append((name, job["workers"], job["cache"]))
        return row(job)

    monkeypatch.setattr(training, "measured", measured)
    common = ["--output_dir", str(tmp_path), "--work", str(tmp_path), "--device", "cpu"]
    training.main([*common, "--dataset_dir", str(tmp_path), "--workers", "0", "1"])
    assert asked[:4] == [
        ("training_segmenter_0_cached", 0, True),
        ("training_segmenter_1_cached", 1, True),
        ("training_segmenter_0_read", 0, False),
        ("training_segmenter_1_read", 1, False),
    ]
    assert len(asked) == 4 * len(STAGES)
    text = (tmp_path / "results_training_cpu.md").read_text()
    end = "25.0 | 0.5 | 6 | 123 | 750 (+250) |"
    assert f"| segmenter | 0 | yes | 4 | 30 | 4 | 1.00 | 1 [1, 3] | 1 [1, 3] | {end}" in text
    assert f"| denoiser | 1 | no | 4 | 30 | 2 | 0.50 | 2 [1, 3] | 2 [1, 3] | {end}" in text
    assert "hippocampus_mri_segmentation, 221 training cases" in text
    assert len(json.loads((tmp_path / "results_training_cpu.json").read_text())["rows"]) == 8
    assert len(training_table([row(job("segmenter", tmp_path))]).splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "1"], "iterations: found 1, expected 2 or more"),
        (["--warm_up", "0"], "warm_up: found 0, expected 1 or more"),
        (["--workers", "-1"], r"workers: found \[-1\]"),
        (["--overrides", "{"], "overrides: found '{', expected JSON"),
    ],
)
def test_mistakes_are_told_at_once(options, message):
    with pytest.raises(UserError, match=message):
        training.main(options)
