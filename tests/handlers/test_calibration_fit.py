"""A calibration with too few cases is refused before the first one is read; a predicted Dice has to rank cases."""

import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from monai_pdddpm.handlers import CalibrationFit
from monai_pdddpm.handlers.calibration_fit import FITTED_WITH
from monai_pdddpm.metrics.recalibration import CalibrationCase, Volume
from monai_pdddpm.utils.errors import UserError


def fit_in(folder):
    settings = SimpleNamespace(as_report=lambda: dict.fromkeys(FITTED_WITH, 1))
    return CalibrationFit(folder / "calibration.json", {"0": "background", "1": "x"}, settings)


def test_number_of_cases_is_checked_before_any_work(tmp_path):
    fit = fit_in(tmp_path)
    read = []
    engine = Engine(lambda engine, case: read.append(case))
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
