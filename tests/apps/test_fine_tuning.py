import json
import shutil
from pathlib import Path

import pytest
import torch
from pdddpm_label import fine_tuning
from pdddpm_label.fine_tuning import fine_tune, hold_out

from monai_pdddpm.data import write_phantom
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def pairs(count):
    return [{"image": f"case_{i}.nii.gz", "label": f"label_{i}.nii.gz", "names": []} for i in range(count)]


def names(cases):
    return {case["image"] for case in cases}


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (5, 1), (10, 2), (11, 2)])
def test_hold_out_leaves_some_on_both_sides(count, held):
    training, validation = hold_out(pairs(count), 0.2)
    assert len(validation) == held
    assert names(training) | names(validation) == names(pairs(count))
    assert not names(training) & names(validation)


def test_hold_out_does_not_depend_on_the_order():
    assert hold_out(pairs(10), 0.3) == hold_out(pairs(10)[::-1], 0.3)


def test_hold_out_never_splits_a_subject():
    scans = [{"image": f"case_{i}.nii.gz", "label": f"label_{i}.nii.gz"} for i in range(1, 13)]  # of 4 subjects
    training, validation = hold_out(scans, 0.5, scans_per_subject=3)
    sides = [
        {(int(case["image"].split("_")[1].split(".")[0]) - 1) // 3 for case in side} for side in (training, validation)
    ]
    assert [len(side) for side in sides] == [2, 2]
    assert not sides[0] & sides[1]


def test_hold_out_refuses():
    with pytest.raises(UserError, match="found annotated scans of 1 subject, expected at least 2"):
        hold_out(pairs(1), 0.2)
    for share in (0, 1, True, "0.2"):
        with pytest.raises(UserError, match="val_split"):
            hold_out(pairs(3), share)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    target = tmp_path_factory.mktemp("phantom") / "data"
    few = {"train": 3, "validation": 0, "test": 0, "annotations": 1}
    return write_phantom(target, **few, size=(24, 24, 24), spacing=(1.0, 1.0, 1.0), seed=5)


@pytest.fixture
def bundle(tmp_path):
    """The phantom's bundle with small windows, and a denoiser whose last layer answers nothing."""
    copy = tmp_path / "phantom_segmentation"
    shutil.copytree(ROOT / "bundles" / copy.name, copy, ignore=shutil.ignore_patterns("data", "output", "runs", "eval"))
    for file in ("train.json", "train_segmenter.json"):
        config = json.loads((copy / "configs" / file).read_text(encoding="utf-8"))
        (copy / "configs" / file).write_text(json.dumps(config | {"roi_size": [24, 24, 24]}))
    weights = torch.load(copy / "models" / "model.pt", weights_only=True)
    for key in ("denoiser.head.4.weight", "denoiser.head.4.bias"):
        weights[key] = torch.zeros_like(weights[key])
    torch.save(weights, copy / "models" / "model.pt")
    (copy / "models" / "calibration.json").write_text("{}")
    return copy


def cases(data):
    return [
        {"image": str(scan), "label": str(data / "labelsTr" / scan.name)}
        for scan in sorted((data / "imagesTr").iterdir())
    ]


@pytest.mark.slow
def test_the_better_model_is_in_use(bundle, data):
    training, validation = cases(data)[:2], cases(data)[2:]
    before = (bundle / "models" / "model.pt").read_bytes()
    better = fine_tune(bundle, training, validation, max_epochs=6, learning_rate=0.003)
    assert better["replaced"], better
    assert better["dice_after"] > better["dice_before"] == 0
    kept = Path(better["kept_in"])
    assert (kept / "model_before.pt").read_bytes() == before
    assert (kept / "calibration_before.json").is_file()
    assert not (bundle / "models" / "calibration.json").exists()
    assert json.loads((kept / "outcome.json").read_text(encoding="utf-8")) == better
    assert not list(kept.rglob("checkpoint.pt"))

    good = (bundle / "models" / "model.pt").read_bytes()
    (bundle / "models" / "calibration.json").write_text("{}")
    worse = fine_tune(bundle, training, validation, max_epochs=1, learning_rate=100.0)
    assert not worse["replaced"], worse
    assert worse["dice_before"] == better["dice_after"]
    assert (bundle / "models" / "model.pt").read_bytes() == good
    assert (bundle / "models" / "calibration.json").is_file()
    assert "the old model stays in use" in worse["message"]


@pytest.mark.slow
def test_segmenter_alone_leaves_the_denoiser_as_it_is(bundle, data):
    outcome = fine_tune(bundle, cases(data)[:2], cases(data)[2:], stage="segmenter", max_epochs=1)
    old = torch.load(Path(outcome["kept_in"]) / "model_before.pt", weights_only=True)
    new = torch.load(bundle / "models" / "model.pt", weights_only=True)
    changed = {key.split(".")[0] for key in old if not torch.equal(old[key], new[key])}
    assert changed == {"segmenter"}


def test_a_stop_leaves_no_model_with_the_calibration_of_another(bundle, tmp_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "atomic_write", stop)
    with pytest.raises(KeyboardInterrupt):
        fine_tuning.replace_model(bundle, bundle / "models" / "model.pt", tmp_path / "kept")
    assert [path.name for path in (bundle / "models").iterdir()] == ["model.pt"]
    assert (tmp_path / "kept" / "calibration_before.json").is_file()


def test_options_are_checked(bundle, data):
    with pytest.raises(UserError, match="stage"):
        fine_tune(bundle, cases(data)[:2], cases(data)[2:], stage="all")
    with pytest.raises(UserError, match="max_epochs"):
        fine_tune(bundle, cases(data)[:2], cases(data)[2:], max_epochs=0)
