"""Settings that cannot work are told by name."""

import pytest
import torch

from monai_pdddpm.bundle import check_settings
from monai_pdddpm.utils.errors import UserError

FINE = {
    "device": torch.device("cpu"),
    "precision": "bfloat16",
    "seed": 0,
    "overlap": 0.5,
    "training_process": "ddpm",
    "start_step": 900,
    "end_step": 250,
    "num_steps": 5,
    "num_train_timesteps": 1000,
    "members": 8,
    "presegmentation_weight": 0,
    "overwrite": False,
    "max_epochs": 1,
    "learning_rate": 1e-3,
    "fold": -1,
    "something_else": object(),
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"start_step": 0},
        {"start_step": 1000, "end_step": 999},
        {"device": "cpu"},
        {"precision": "float32"},
    ],
)
def test_what_can_work_passes(changed):
    check_settings(FINE | changed)


def test_keys_that_are_not_there_are_not_missed():
    check_settings({})
    check_settings({"members": 1})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("members", 0, "members: found 0, expected a whole number of at least 1; set members to one"),
        ("num_steps", 2.5, r"num_steps: found 2\.5"),
        ("seed", True, "seed: found True"),
        ("seed", 2**63, "seed: found 9223372036854775808, expected a whole number from 0 to 9223372036854775807"),
        ("fold", -2, "fold: found -2"),
        ("start_step", 1001, "start_step: found 1001, expected a whole number from 0 to 1000"),
        ("start_step", 250, "start_step: found 250, expected more than end_step, which is 250, .* at most 249"),
        ("overlap", 1, "overlap: found 1, expected a number from 0 to below 1"),
        ("overlap", float("nan"), "overlap: found nan"),
        ("presegmentation_weight", "half", "presegmentation_weight: found 'half'"),
        ("learning_rate", 0, "learning_rate: found 0, expected a number above 0"),
        ("learning_rate", float("inf"), "learning_rate: found inf"),
        ("overwrite", "yes", "overwrite: found 'yes', expected True or False; write --overwrite True"),
        ("device", "cuda:99", "device: 'cuda:99' cannot be used, this computer has"),
        ("device", "gpu", "device: 'gpu' cannot be used"),
        ("device", None, "device: 'None' cannot be used"),
        ("precision", "float16", "precision: .*float16"),
        ("precision", "half", "precision: found 'half'"),
        ("training_process", "magic", "training_process: found 'magic'"),
    ],
)
def test_what_cannot_work_is_named(key, value, told):
    with pytest.raises(UserError, match=told) as caught:
        check_settings(FINE | {key: value})
    assert "\n" not in str(caught.value)
