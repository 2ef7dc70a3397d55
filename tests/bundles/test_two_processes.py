"""Two processes do what one does: both stages of training, evaluation, and inference by cases and by members."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_pdddpm.data import write_phantom

pytestmark = pytest.mark.slow

SHORT = {"max_epochs": 2, "val_interval": 2, "roi_size": [24, 24, 24], "device": "cpu", "precision": "float32"}
FEW = {"members": 2, "num_steps": 1, "roi_size": [24, 24, 24]}
CASES = 12


def both(bundle, name, overlay):
    """The value of --config_file that lays one of a bundle's files over another."""
    return f"['{bundle}/configs/{name}.json','{bundle}/configs/multi_gpu_{overlay}.json']"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Small scans of a folder, one of which cannot be read."""
    data = tmp_path_factory.mktemp("scans") / "data"
    few = {"train": 1, "validation": 1, "test": CASES, "annotations": 1}
    write_phantom(data, **few, size=(24, 24, 24), spacing=(1.5, 1.5, 1.5), seed=3)
    folder = data / "imagesTs"
    (folder / "phantom_005b.nii.gz").write_text("no scan")
    return folder


@pytest.fixture(scope="module")
def by_one(command, bundle, scans, tmp_path_factory):
    """The scans segmented by one process."""
    target = tmp_path_factory.mktemp("by_one") / "output"
    done = command(
        "run", "inference", config_file=bundle / "configs/inference.json", dataset_dir=scans, output_dir=target, **FEW
    )
    assert done.error, done
    assert "1 of 13 cases failed (phantom_005b)" in done.error
    return target


def error(done):
    """The one line that a process ends with, which torch puts the process's number before."""
    assert done.code == 1, done
    assert "Traceback" not in done.out + done.err, done
    return re.fullmatch(r"\[rank\d\]: error: (.*)", done.err.splitlines()[-1])[1]


def finished(output):
    return sorted(path.parent.name for path in output.glob("*/*_report.json"))


def check_equal(output, expected, cases):
    """Compare every volume of some cases: maps to rounding, label maps but for ties."""
    for case in cases:
        files = sorted(path.name for path in (expected / case).iterdir())
        assert sorted(path.name for path in (output / case).iterdir()) == files
        for name in files:
            if not name.endswith(".nii.gz"):
                continue
            a, b = (nib.load(folder / case / name) for folder in (output, expected))
            assert np.array_equal(a.affine, b.affine)
            a, b = (np.asanyarray(image.dataobj) for image in (a, b))
            if a.dtype.kind == "f":
                assert np.abs(a - b).max() < 1e-5, name
            else:
                assert (a != b).mean() < 1e-4, name
        volumes = [json.loads((folder / case / f"{case}_report.json").read_text()) for folder in (output, expected)]
        assert volumes[0]["result"]["volume_ml"].keys() == volumes[1]["result"]["volume_ml"].keys()
        assert volumes[0]["settings"] == volumes[1]["settings"]


def curves(folder):
    """Every curve that a training left behind, over all of its event files."""
    found = {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return found


def test_training_is_that_of_one_process_with_the_double_batch(command, two_commands, copy_bundle, phantom, tmp_path):
    bundle = copy_bundle(weights=False)
    for stage in ("train_segmenter", "train"):
        folders = {count: tmp_path / f"{stage}_{count}" for count in (1, 2)}
        options = {"dataset_dir": phantom, **SHORT}
        if stage == "train":
            options["segmenter_files"] = [str(tmp_path / "train_segmenter_1" / "model.pt")]
        place = {n: {"output_dir": folder, "model_file": folder / "model.pt"} for n, folder in folders.items()}
        one = command(
            "run", "training", config_file=bundle / "configs" / f"{stage}.json", batch_size=2, **options, **place[1]
        )
        assert one.code == 0, one
        for done in two_commands(
            "run", "training", config_file=both(bundle, stage, "train"), batch_size=1, **options, **place[2]
        ):
            assert done.code == 0, done
        expected, found = (curves(folders[count]) for count in (1, 2))
        assert len(expected["train_loss"]) == 4
        assert found.keys() == expected.keys()
        for tag, values in expected.items():
            assert found[tag] == pytest.approx(values, abs=1e-3 if tag.startswith("val") else 1e-4), tag
        assert sorted(path.name.split(".")[0] for path in folders[2].iterdir()) == sorted(
            path.name.split(".")[0] for path in folders[1].iterdir()
        )
        models = [torch.load(folder / "model.pt", weights_only=True) for folder in folders.values()]
        # Adam makes full steps from gradients that are rounding errors, so a few weights differ by them
        apart = torch.cat([(models[0][name] - models[1][name]).abs().flatten() for name in models[0]])
        assert apart.mean() < 1e-4
        assert apart.max() < 4 * 1e-3  # steps of the learning rate


def test_training_resumes(two_commands, copy_bundle, phantom, tmp_path):
    bundle = copy_bundle(weights=False)
    options = {"config_file": both(bundle, "train_segmenter", "train"), "dataset_dir": phantom, **SHORT}
    for epochs, line in ((1, "until 1 epochs"), (2, "resuming after epoch 1")):
        first, second = two_commands(
            "run", "training", **options | {"max_epochs": epochs}, batch_size=1, output_dir=tmp_path
        )
        assert (first.code, second.code) == (0, 0), (first, second)
        assert line in first.out + first.err
        assert line not in second.out + second.err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["epoch"] == 2


def test_evaluation_prints_the_same_table(command, two_commands, bundle, phantom, tmp_path):
    options = {"dataset_dir": phantom, "data_list_key": "training", **FEW}
    one = command(
        "run",
        "evaluating",
        config_file=[bundle / f"configs/{name}.json" for name in ("inference", "evaluate")],
        output_dir=tmp_path / "1",
        **options,
    )
    assert one.code == 0, one
    for spread in ("cases", "members"):
        folder = tmp_path / spread
        first, second = two_commands(
            "run",
            "evaluating",
            config_file=[bundle / f"configs/{name}.json" for name in ("inference", "evaluate", "multi_gpu_evaluate")],
            output_dir=folder,
            **options,
            spread=spread,
        )
        assert (first.code, second.code) == (0, 0), (first, second)
        tables = [[line for line in done.out.splitlines() if line.startswith("|")] for done in (one, first, second)]
        assert tables[1] == tables[0] != []
        assert tables[2] == []
        rows = [list(csv.reader((path / "evaluation_cases.csv").open())) for path in (folder, tmp_path / "1")]
        for mine, theirs in zip(*rows, strict=True):
            assert mine[:3] == theirs[:3]
            for a, b in zip(mine[3:], theirs[3:], strict=True):
                assert a == b or float(a) == pytest.approx(float(b), abs=1e-4, nan_ok=True)


def test_killed_process_loses_no_finished_case_and_the_rest_is_made_later(
    two_commands, bundle, scans, by_one, tmp_path
):
    output = tmp_path / "output"
    options = {"config_file": both(bundle, "inference", "inference"), "dataset_dir": scans, "output_dir": output, **FEW}
    words = ["run", "inference", *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = subprocess.Popen(
        [*starter, "monai.bundle", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not finished(output):
            assert started.poll() is None
            time.sleep(0.02)
        workers = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert started.wait(120) != 0
    finally:
        started.kill()
        started.wait()
    done = {case: (output / case / f"{case}_report.json").stat().st_mtime_ns for case in finished(output)}
    assert 1 <= len(done) < CASES

    first, second = two_commands(*words)
    for told in (first, second):
        assert f"1 of {13 - len(done)} cases failed (phantom_005b)" in error(told)
    assert f"{len(done)} of 13 cases are finished" in first.out
    assert f"{CASES - len(done)} cases are in {output}" in first.out
    assert "finished" not in second.out
    assert finished(output) == finished(by_one)
    for case, when in done.items():
        assert (output / case / f"{case}_report.json").stat().st_mtime_ns == when
    check_equal(output, by_one, finished(by_one))


def test_fewer_cases_than_processes(two_commands, bundle, scans, by_one, tmp_path):
    options = {"config_file": both(bundle, "inference", "inference"), "output_dir": tmp_path / "output", **FEW}
    first, second = two_commands("run", "inference", **options, dataset_dir=scans / "phantom_003.nii.gz")
    assert (first.code, second.code) == (0, 0), (first, second)
    assert "1 cases are in" in first.out
    check_equal(tmp_path / "output", by_one, ["phantom_003"])
    again = two_commands("run", "inference", **options, dataset_dir=scans / "phantom_003.nii.gz")
    assert [done.code for done in again] == [0, 0], again


def test_members_of_a_case_are_spread(two_commands, bundle, scans, by_one, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("phantom_003", "phantom_005b", "phantom_006"):
        shutil.copy(scans / f"{name}.nii.gz", few)
    options = {"config_file": both(bundle, "inference", "inference"), "output_dir": tmp_path / "output", **FEW}
    first, second = two_commands("run", "inference", **options, dataset_dir=few, spread="members")
    for done in (first, second):
        assert "1 of 3 cases failed (phantom_005b)" in error(done)
    check_equal(tmp_path / "output", by_one, ["phantom_003", "phantom_006"])
    report = json.loads((tmp_path / "output/phantom_003/phantom_003_report.json").read_text())
    assert report["inference"]["processes"] == 2


def test_without_torchrun_it_says_so(command, bundle, scans, tmp_path):
    done = command(
        "run", "inference", config_file=both(bundle, "inference", "inference"), dataset_dir=scans, output_dir=tmp_path
    )
    assert done.error, done
    assert "found a process started without it" in done.error
