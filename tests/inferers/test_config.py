"""The settings of an ensemble: accepted values, and error messages."""

import dataclasses

import pytest

from monai_pdddpm.inferers import EnsembleConfig, PDDDPMInferer
from monai_pdddpm.schedulers import DDIMRule
from monai_pdddpm.utils.errors import UserError

GIVEN = {"roi_size": [8, 8], "time_steps": [899, 500, 100]}


def test_lists_of_json_become_tuples_and_the_rule_is_ddim():
    config = EnsembleConfig(**GIVEN)
    assert (config.roi_size, config.time_steps, config.solver_steps) == ((8, 8), (899, 500, 100), (0, 0, 0))
    assert config.rule == DDIMRule(0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.members = 3


def test_report_holds_what_changes_the_result():
    report = PDDDPMInferer(**GIVEN, solver_steps=[2, 1, 1]).config.as_report()
    assert report["start_step"] == 900
    assert report["time_steps"] == [899, 500, 100]
    assert report["solver_steps"] == [2, 1, 1]
    assert report["roi_size"] == [8, 8]
    assert not {"progress", "memory", "member_batch", "return_members"} & set(report)
    assert EnsembleConfig(roi_size=[8], time_steps=[]).as_report()["start_step"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"members": 0}, "members: found 0, expected a whole number of at least 1; give members"),
        ({"members": True}, "members: found True"),
        ({"member_batch": 0}, "member_batch: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"dilation": 0.5}, "dilation: found 0.5"),
        ({"memory": -1}, "memory: found -1"),
        ({"overlap": 1}, "overlap: found 1, expected a number from 0 to below 1"),
        ({"presegmentation_weight": 1.0}, "presegmentation_weight: found 1.0"),
        ({"uncertainty_threshold": "0.1"}, "uncertainty_threshold: found '0.1'"),
        ({"windows": "some"}, "windows: found 'some', expected 'active' or 'all'"),
        ({"fourth_dimension": "frames"}, "fourth_dimension: found 'frames'"),
        ({"precision": "half"}, "precision: found 'half'"),
        ({"training_process": "other"}, "training_process: "),
        ({"roi_size": 8}, "roi_size: found 8, expected a list"),
        ({"roi_size": [8, 0]}, "roi_size: found"),
        ({"time_steps": [100, 500]}, "time_steps: "),
        ({"solver_steps": [1, 2]}, "solver_steps: found"),
        ({"solver_steps": -1}, "solver_steps: found -1"),
    ],
)
def test_value_out_of_range_is_refused(settings, words):
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(").replace("[", r"\[")):
        PDDDPMInferer(**(GIVEN | settings))


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("member", "write 'members'"),
        ("doubt", "write 'uncertainty_threshold'"),
        ("fusion", "remove it"),
    ],
)
def test_unknown_key_names_the_nearest(key, remedy):
    with pytest.raises(UserError, match=f"^inferer: found the setting '{key}', expected one of .*; {remedy}$"):
        PDDDPMInferer(**GIVEN, **{key: 1})


def test_the_chain_has_every_setting():
    config = EnsembleConfig.from_settings(GIVEN | {"solver": "rk4", "solver_steps": 3, "training_process": "residual"})
    chain = config.chain()
    assert (chain.solver, set(chain.solver_steps), chain.residual) == ("rk4", {3}, True)
    assert chain.time_steps == list(config.time_steps)


def test_missing_key_is_named():
    with pytest.raises(UserError, match="found no setting 'time_steps'"):
        PDDDPMInferer(roi_size=[8, 8])
