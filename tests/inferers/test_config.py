"""The settings of an ensemble: accepted values, and error messages."""

import dataclasses
import re

import numpy as np
import pytest

from monai_pdddpm.inferers import EnsembleConfig, PDDDPMInferer
from monai_pdddpm.schedulers import AncestralRule, Chain, DDIMRule
from monai_pdddpm.utils.errors import UserError

GIVEN = {"roi_size": [8, 8], "time_steps": [899, 500, 100]}


def test_lists_of_json_become_tuples_and_the_rule_is_ddim():
    config = EnsembleConfig(**GIVEN)
    assert (config.roi_size, config.time_steps, config.solver_steps) == ((8, 8), (899, 500, 100), (0, 0, 0))
    assert config.rule == DDIMRule(0.0)
    assert (config.members, config.seed, config.overlap, config.dilation, config.uncertainty_threshold) == (
        8,
        0,
        0.5,
        2,
        0.05,
    )
    assert (config.presegmentation_weight, config.large_scale_noise, config.noise_length) == (0.0, 0.0, 6.0)
    assert (config.member_batch, config.memory, config.return_members, config.progress) == (8, 0, False, True)
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
        ({"large_scale_noise": -0.1}, "large_scale_noise: found -0.1, expected a number of at least 0"),
        ({"noise_length": 0.9}, "noise_length: found 0.9, expected a number of at least 1"),
        ({"uncertainty_threshold": "0.1"}, "uncertainty_threshold: found '0.1'"),
        ({"windows": "some"}, "windows: found 'some', expected 'active' or 'all'"),
        ({"fourth_dimension": "frames"}, "fourth_dimension: found 'frames'"),
        ({"precision": "half"}, "precision: found 'half'"),
        ({"solver": "euler"}, "solver: found 'euler', which ignores the diffusion time"),
        ({"solver": "euler", "solver_steps": [2, 1, 2]}, "solver: found 'euler'"),
        ({"roi_size": 8}, "roi_size: found 8, expected a list"),
        ({"roi_size": np.array(8)}, "roi_size: found array(8), expected a list"),
        ({"time_steps": np.array(8)}, "time_steps: found array(8), expected"),
        ({"time_steps": None}, "time_steps: found None, expected"),
        ({"solver_steps": np.array(2)}, "solver_steps: found array(2), expected"),
        ({"roi_size": [8, 0]}, "roi_size: found"),
        ({"time_steps": [100, 500]}, "time_steps: "),
        ({"solver_steps": [1, 2]}, "solver_steps: found"),
        ({"solver_steps": -1}, "solver_steps: found -1"),
    ],
)
def test_value_out_of_range_is_refused(settings, words):
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        EnsembleConfig.from_settings(GIVEN | settings)


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
    settings = {"solver": "rk4", "solver_steps": [3]}
    settings |= {"noise_length": 1, "member_batch": 1, "dilation": 0}  # the lowest ones
    config = EnsembleConfig.from_settings(GIVEN | settings | {"rule": AncestralRule("fixed_large")})
    assert EnsembleConfig(**GIVEN).chain() == Chain([899, 500, 100], [0, 0, 0])
    assert config.chain() == Chain([899, 500, 100], [3, 3, 3], 1.0, True, "rk4")
    assert EnsembleConfig(**GIVEN, solver="euler", solver_steps=2).chain().solver == "euler"


def test_missing_key_is_named():
    with pytest.raises(UserError, match="found no setting 'time_steps'"):
        PDDDPMInferer(roi_size=[8, 8])
