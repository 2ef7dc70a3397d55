"""Both stages of the training by MONAI's command, broken and resumed, and inference with what they leave behind."""

import json
import signal
import time

import nibabel as nib
import pytest
import torch

pytestmark = pytest.mark.slow

EPOCHS = 6
SHORT = {"max_epochs": EPOCHS, "val_interval": 3, "roi_size": [24, 24, 24], "batch_size": 2, "device": "cpu"}


def config(bundle, name):
    return bundle / "configs" / f"{name}.json"


def weights(file):
    return torch.load(file, weights_only=True)


def same(first, second):
    """Compare two checkpoints bit by bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.fixture(scope="module")
def untrained(copy_bundle):
    return copy_bundle(weights=False)


@pytest.fixture(scope="module")
def before(command, untrained, phantom):
    """What the second stage says when the first has not been run."""
    return command("run", "training", config_file=config(untrained, "train"), dataset_dir=phantom, **SHORT)


@pytest.fixture(scope="module")
def segmenter(command, untrained, phantom, before):
    done = command("run", "training", config_file=config(untrained, "train_segmenter"), dataset_dir=phantom, **SHORT)
    assert done.code == 0, done
    return untrained / "runs" / "segmenter"


@pytest.fixture(scope="module")
def denoiser(command, untrained, phantom, segmenter):
    done = command("run", "training", config_file=config(untrained, "train"), dataset_dir=phantom, **SHORT)
    assert done.code == 0, done
    return untrained / "runs" / "denoiser"


def test_denoiser_without_a_segmenter_names_the_command(before, untrained):
    assert before.error, before
    assert str(untrained / "runs" / "segmenter" / "segmenter.pt") in before.error
    assert "python -m monai.bundle run training --config_file" in before.error
    assert "train_segmenter.json" in before.error
    assert not list((untrained / "models").iterdir())


def test_segmenter_leaves_weights_checkpoint_and_curves(segmenter):
    kinds = sorted(path.name.split(".")[0] for path in segmenter.iterdir())
    assert set(kinds) == {"checkpoint", "events", "segmenter"}
    model = weights(segmenter / "segmenter.pt")
    assert all(torch.isfinite(tensor).all() for tensor in model.values())
    progress = weights(segmenter / "checkpoint.pt")["progress"]
    assert progress["epoch"] == EPOCHS
    assert progress["best_metric_epoch"] in (3, 6)


def test_denoiser_leaves_one_model_of_both(denoiser, segmenter, untrained, read_inference):
    model = weights(untrained / "models" / "model.pt")
    network = read_inference(untrained).get_parsed_content("network_def")
    network.load_state_dict(model)
    kept = {key.removeprefix("segmenter."): model[key] for key in model if key.startswith("segmenter.")}
    assert same(kept, dict(weights(segmenter / "segmenter.pt")))
    assert weights(denoiser / "checkpoint.pt")["progress"]["epoch"] == EPOCHS


def test_model_is_the_moving_average_at_the_best_epoch(denoiser, untrained):
    checkpoint = weights(denoiser / "checkpoint.pt")
    assert not same(dict(checkpoint["ema"]), dict(checkpoint["network"]))
    if checkpoint["progress"]["best_metric_epoch"] == EPOCHS:
        model = weights(untrained / "models" / "model.pt")
        kept = {key.removeprefix("denoiser."): model[key] for key in model if key.startswith("denoiser.")}
        assert same(kept, dict(checkpoint["ema"]))


def test_inference_takes_the_trained_weights(command, untrained, denoiser, phantom, tmp_path):
    options = {"config_file": config(untrained, "inference"), "dataset_dir": phantom, "output_dir": tmp_path}
    done = command("run", "inference", **options, members=2, num_steps=2)
    assert done.code == 0, done
    for case in ("phantom_006", "phantom_007"):
        assert nib.load(tmp_path / case / f"{case}_seg.nii.gz").shape == (24, 24, 24)
        assert json.loads((tmp_path / case / f"{case}_report.json").read_text())["result"]["volume_ml"]


def test_finished_training_is_not_repeated(command, untrained, phantom, segmenter):
    before = (segmenter / "segmenter.pt").stat().st_mtime_ns
    done = command("run", "training", config_file=config(untrained, "train_segmenter"), dataset_dir=phantom, **SHORT)
    assert done.code == 0, done
    assert f"already trained for {EPOCHS} epochs" in done.out + done.err
    assert (segmenter / "segmenter.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", ["train_segmenter", "train"])
def test_killed_training_resumes_to_the_very_same_weights(
    command, started_command, untrained, phantom, segmenter, denoiser, tmp_path, stage
):
    unbroken = {"train_segmenter": segmenter, "train": denoiser}[stage]
    options = {"config_file": config(untrained, stage), "dataset_dir": phantom, **SHORT, "checkpoint_seconds": 0}
    options |= {"output_dir": tmp_path, "model_file": tmp_path / "model.pt"}
    options |= {"segmenter_files": [str(segmenter / "segmenter.pt")]} if stage == "train" else {}
    process = started_command("run", "training", **options)
    while not (tmp_path / "checkpoint.pt").is_file():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = weights(tmp_path / "checkpoint.pt")["progress"]["epoch"]
    assert 1 <= reached < EPOCHS

    done = command("run", "training", **options)
    assert done.code == 0, done
    assert f"checkpoint.pt: resuming after epoch {reached}" in done.out + done.err
    assert same(weights(tmp_path / "checkpoint.pt"), weights(unbroken / "checkpoint.pt"))
    model = segmenter / "segmenter.pt" if stage == "train_segmenter" else untrained / "models" / "model.pt"
    assert same(dict(weights(tmp_path / "model.pt")), dict(weights(model)))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("process", ["presegmentation", "recycled", "residual"])
def test_other_ways_of_training(command, untrained, phantom, segmenter, tmp_path, process):
    options = {"dataset_dir": phantom, **SHORT, "training_process": process, "max_epochs": 1, "val_interval": 1}
    options |= {"output_dir": tmp_path, "model_file": tmp_path / "model.pt"}
    options["segmenter_files"] = [str(segmenter / "segmenter.pt")]
    if process == "residual":
        options |= {"start_step": 664, "trained_steps#start_step": 664}
    done = command("run", "training", config_file=config(untrained, "train"), **options)
    assert done.code == 0, done
    model = weights(tmp_path / "model.pt")
    assert all(torch.isfinite(tensor).all() for tensor in model.values())


def test_training_begins_with_a_given_denoiser(command, untrained, phantom, segmenter, denoiser, tmp_path):
    given = untrained / "models" / "model.pt"
    options = {"dataset_dir": phantom, **SHORT, "max_epochs": 1, "val_interval": 1, "denoiser_file": given}
    options |= {"output_dir": tmp_path, "model_file": tmp_path / "model.pt", "learning_rate": 1e-9}
    done = command("run", "training", config_file=config(untrained, "train"), **options)
    assert done.code == 0, done
    before, after = weights(given), weights(tmp_path / "model.pt")
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6)
