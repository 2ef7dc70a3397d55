import dataclasses
import json
from pathlib import Path

import pytest

from monai_pdddpm.bundle import load_calibration, save_calibration
from monai_pdddpm.inferers import EnsembleConfig
from monai_pdddpm.metrics.recalibration import Calibration
from monai_pdddpm.utils.errors import UserError

FITTED = Calibration(
    temperature=1.5,
    interval_factor={"Anterior": 2.0},
    dice_line=(1.0, 0.1, 0.05),
    ranges={"agreement": (0.5, 1.2)},
    fitted={"cases": 9, "settings": {"time_steps": [999, 500], "presegmentation_weight": 0.5}},
)


def config(**settings):
    return EnsembleConfig(roi_size=[8, 8, 8], **{"time_steps": [999, 500], "presegmentation_weight": 0.5} | settings)


def test_comes_back_as_it_was(tmp_path, capsys):
    save_calibration(FITTED, tmp_path / "models" / "calibration.json")
    assert load_calibration(tmp_path / "models" / "calibration.json", config=config(members=4, seed=3)) == FITTED
    assert capsys.readouterr().out == ""
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["calibration.json"]


def test_without_a_file_or_unwanted_nothing_changes(tmp_path, capsys):
    assert load_calibration(tmp_path / "none.json") == Calibration()
    assert capsys.readouterr().out == f"{tmp_path / 'none.json'}: does not exist; results are not calibrated\n"
    save_calibration(FITTED, tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json", use=False) == Calibration()


def test_other_settings_leave_out_intervals_and_predicted_dice(tmp_path, capsys):
    save_calibration(FITTED, tmp_path / "c.json")
    found = load_calibration(tmp_path / "c.json", config=config(time_steps=[899]))
    assert "fitted with time_steps [999, 500], now [899]; volume intervals and predicted Dice are left out" in (
        capsys.readouterr().out
    )
    assert found == dataclasses.replace(FITTED, interval_factor={}, dice_line=None)


def test_one_of_other_weights_is_not_applied(tmp_path, capsys):
    path, model = tmp_path / "c.json", tmp_path / "model.pt"
    model.write_bytes(b"abc")  # its SHA-256 is an example of FIPS 180-2
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for weights, applied in ((abc, True), (None, True), ("0" * 64, False)):
        fitted = dataclasses.replace(FITTED, fitted=FITTED.fitted | {"weights": weights})
        save_calibration(fitted, path)
        assert load_calibration(path, model_file=model) == (fitted if applied else Calibration())
        assert ("fitted to other weights than" in capsys.readouterr().out) is not applied


def test_one_of_version_0_1_is_refused(tmp_path):
    save_calibration(dataclasses.replace(FITTED, fitted={"settings": {"segmenter_share": 0.5}}), tmp_path / "c.json")
    with pytest.raises(UserError, match=r"c\.json: found a calibration of version 0\.1, .* fit it again"):
        load_calibration(tmp_path / "c.json")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"temperature": "hot"}',
        '{"temperature": 0}',
        '{"dice_line": [1]}',
        '{"ranges": {"agreement": [1]}}',
        '{"interval_factor": [1]}',
        '{"heat": 2}',
        '{"temperature": 1.0, "fitted": []}',
        '{"fitted": {"settings": 3}}',
    ],
)
def test_what_is_no_calibration(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=r"c\.json: not a calibration .*; fit it again"):
        load_calibration(tmp_path / "c.json")


def test_the_shipped_ones_can_be_read():
    for path in Path(__file__).parents[2].glob("bundles/*/models/calibration.json"):
        labels = json.loads((path.parents[1] / "configs" / "inference.json").read_text())["labels"]
        calibration = load_calibration(path)
        assert set(calibration.interval_factor) == set(labels.values()) - {labels["0"]}
        assert calibration.fitted["cases"] >= 5
        assert load_calibration(path, model_file=path.parent / "model.pt") == calibration
        assert load_calibration(path, model_file=path) != calibration
