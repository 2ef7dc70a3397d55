"""A calibration with too few cases is refused before the first one is read; a predicted Dice has to rank cases."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_pdddpm.handlers import CalibrationFit
from monai_pdddpm.handlers.calibration_fit import FITTED_WITH
from monai_pdddpm.metrics.recalibration import CalibrationCase, Volume
from monai_pdddpm.utils.errors import UserError


def fit_in(folder, *names):
    settings = SimpleNamespace(as_report=lambda: dict.fromkeys(FITTED_WITH, 1))
    labels = {str(index): name for index, name in enumerate(("background", *(names or "x")))}
    return CalibrationFit(folder / "calibration.json", labels, settings)


def test_number_of_cases_is_checked_before_any_work(tmp_path):
    fit = fit_in(tmp_path)
    read = []
    engine = Engine(lambda engine, case: read.append(case))
    engine.register_events(*IterationEvents)
    fit.attach(engine)
    with pytest.raises(UserError, match="calibration: found 5 cases with a label, expected at least 6"):
        engine.run([1, 2, 3, 4, 5])
    assert not read


@pytest.mark.parametrize(("rank", "kept"), [(0.3, True), (0.29, False), (float("nan"), False)])
def test_a_predicted_dice_that_does_not_rank_cases_is_left_out(tmp_path, monkeypatch, capsys, rank, kept):
    judged = {"dice_rank_correlation": rank}
    monkeypatch.setattr("monai_pdddpm.handlers.calibration_fit.cross_validated", lambda cases: judged)
    fit, voxels = fit_in(tmp_path), (torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    for i in range(6):
        fit.cases.append(
            CalibrationCase(str(i), *voxels, {"x": 1.0}, {"x": Volume(1.0, 0.1)}, {"expected_dice": 0.1 * i}, 0.1 * i)
        )
    fit.fit()
    line = json.loads((tmp_path / "calibration.json").read_text())["dice_line"]
    assert (line is not None, "predicted Dice: left out" not in capsys.readouterr().out) == (kept, kept)


@pytest.mark.parametrize("made", ["folder", "file"])
def test_place_of_the_file_is_checked_before_any_work(tmp_path, made):
    place = tmp_path / "calibration.json"
    fit = fit_in(tmp_path if made == "folder" else place / "below")
    place.mkdir() if made == "folder" else place.touch()
    engine = Engine(lambda engine, case: pytest.fail("a case was read"))
    engine.register_events(*IterationEvents)
    fit.attach(engine)
    with pytest.raises(UserError, match="found the folder" if made == "folder" else "cannot be written to"):
        engine.run(range(6))


def test_structures_that_no_case_has_get_no_interval(tmp_path, capsys):
    fit, nothing = fit_in(tmp_path, "x", "y"), (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    for number in range(6):
        true_ml = {"x": float(number > 1), "y": 0.0}
        volumes = {"x": Volume(1.0, 0.1), "y": Volume(0.0, 0.0)}
        fit.cases.append(CalibrationCase(str(number), *nothing, true_ml, volumes, {"expected_dice": 0.5}, 0.5))
    fit.fit()
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert list(found["interval_factor"]) == list(found["fitted"]["cross_validated"]["interval_coverage"]) == ["x"]
    assert found["fitted"]["cases_with_structure"] == {"x": 4, "y": 0}
    assert "no volume interval of y, which no case has" in capsys.readouterr().out
    fit.cases = fit.cases[:2] * 3  # none has a structure
    fit.cases = [dataclasses.replace(case, subject=str(number)) for number, case in enumerate(fit.cases)]
    with pytest.raises(UserError, match="found none of x, y in the labels of 6 cases"):
        fit.fit()
