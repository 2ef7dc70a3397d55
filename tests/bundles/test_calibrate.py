"""A calibration fitted by MONAI's command is applied by the next inference."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data import write_phantom

pytestmark = pytest.mark.slow

SHORT = {"members": 3, "num_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    few = {"train": 1, "validation": 6, "test": 1, "annotations": 1}
    return write_phantom(tmp_path_factory.mktemp("six") / "data", **few, size=(16, 16, 16), spacing=(3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def calibrated(command, copy_bundle, data):
    bundle = copy_bundle()
    done = command(
        "run",
        "calibrating",
        config_file=[bundle / f"configs/{name}.json" for name in ("inference", "calibrate")],
        dataset_dir=data,
        **SHORT,
    )
    assert done.code == 0, done
    return bundle, done


def infer(command, bundle, data, output, **options):
    options = {
        "config_file": bundle / "configs" / "inference.json",
        "dataset_dir": data,
        "output_dir": output,
    } | options
    done = command("run", "inference", **SHORT | options)
    assert done.code == 0, done
    (folder,) = (path for path in output.iterdir() if path.is_dir())
    return done, folder, json.loads((folder / f"{folder.name}_report.json").read_text())


def test_file_and_figures(calibrated):
    bundle, done = calibrated
    content = json.loads((bundle / "models" / "calibration.json").read_text())
    assert content["fitted"]["cases"] == 6
    assert len(content["fitted"]["settings"]["time_steps"]) == 1
    assert set(content["interval_factor"]) == {"body", "core"}
    assert 0.25 <= content["temperature"] <= 4
    for figure in ("nll_before", "interval_coverage", "dice_rank_correlation"):
        assert figure in done.out


def test_inference_applies_it(command, calibrated, data, tmp_path):
    bundle, _ = calibrated
    file = bundle / "models" / "calibration.json"
    content = json.loads(file.read_text())
    other = tmp_path / "hot.json"
    other.write_text(json.dumps(content | {"temperature": 2.0}))
    _, hot, report = infer(command, bundle, data, tmp_path / "hot", calibration_file=other)
    _, plain, without = infer(command, bundle, data, tmp_path / "plain", calibrated=False)
    low, high = report["result"]["volume_ml"]["body"]["interval_90"]
    assert low <= report["result"]["volume_ml"]["body"]["expected"] <= high
    assert "interval_90" not in without["result"]["volume_ml"]["body"]

    def load(folder, kind):
        return nib.load(folder / f"{folder.name}_{kind}.nii.gz").get_fdata()

    p, q = load(plain, "prob"), load(hot, "prob")
    # a square root would enlarge what rounding to 16 bits changes in small probabilities
    assert p == pytest.approx(q**2 / (q**2).sum(-1, keepdims=True), abs=1e-3)
    assert np.array_equal(load(plain, "seg"), load(hot, "seg"))
    assert np.array_equal(load(plain, "mutual-information"), load(hot, "mutual-information"))
    assert load(hot, "entropy").mean() > load(plain, "entropy").mean()


def test_other_steps_leave_the_intervals_out(command, calibrated, data, tmp_path):
    bundle, _ = calibrated
    fitted_with = json.loads((bundle / "models" / "calibration.json").read_text())["fitted"]["settings"]["time_steps"]
    done, _, report = infer(command, bundle, data, tmp_path / "two", num_steps=2)
    assert f"fitted with time_steps {fitted_with}, now [899, 700]; volume intervals and predicted" in done.out
    assert "interval_90" not in report["result"]["volume_ml"]["body"]


def test_evaluation_does_not_apply_it(command, calibrated, data, tmp_path):
    bundle, _ = calibrated
    content = json.loads((bundle / "models" / "calibration.json").read_text())
    found = []
    for name, temperature in (("hot", 2.0), ("none", 1.0)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content | {"temperature": temperature}))
        options = {"dataset_dir": data, "output_dir": tmp_path / name, "calibration_file": file, **SHORT}
        files = [bundle / f"configs/{config}.json" for config in ("inference", "evaluate")]
        done = command("run", "evaluating", config_file=files, **options)
        assert done.code == 0, done
        found.append(json.loads((tmp_path / name / "evaluation_summary.json").read_text())["methods"])
    assert found[0] == found[1]
