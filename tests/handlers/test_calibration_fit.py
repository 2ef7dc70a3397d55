"""A calibration with too few cases is refused before the first one is read."""

from types import SimpleNamespace

import pytest
from ignite.engine import Engine

from monai_pdddpm.handlers import CalibrationFit
from monai_pdddpm.handlers.calibration_fit import FITTED_WITH
from monai_pdddpm.utils.errors import UserError


def test_number_of_cases_is_checked_before_any_work(tmp_path):
    settings = SimpleNamespace(as_report=lambda: dict.fromkeys(FITTED_WITH, 1))
    fit = CalibrationFit(tmp_path / "calibration.json", {"0": "background", "1": "x"}, settings)
    read = []
    engine = Engine(lambda engine, case: read.append(case))
    fit.attach(engine)
    with pytest.raises(UserError, match="calibration: found 5 cases with a label, expected at least 6"):
        engine.run([1, 2, 3, 4, 5])
    assert not read
