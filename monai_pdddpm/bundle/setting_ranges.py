"""The range of each setting of a bundle, so that a value out of range is refused before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from monai_pdddpm.utils.checks import check_choice, check_number, check_range, check_switch
from monai_pdddpm.utils.errors import UserError

_FROM_0, _FROM_1 = partial(check_range, low=0), partial(check_range, low=1)
_STEPS = 1000  # noising steps of the schedule


def _check_object(key: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: found {value!r}, expected a JSON object, such as {{'1': 'tumor'}}; fix --{key}")
    return value


def _check_labels(key: str, value: Any) -> None:
    _check_object(key, value)
    if {*map(str, value)} != {*map(str, range(len(value)))} or not all(
        isinstance(name, str) for name in value.values()
    ):
        raise UserError(f"{key}: found {value!r}, expected the names of '0', '1', ...; fix --{key}")


RANGES: Mapping[str, Callable[[str, Any], object]] = {
    "batch_size": _FROM_1,
    "calibrated": check_switch,
    "chains": _check_object,
    "checkpoint_policy": partial(check_choice, choices=("best", "last")),
    "checkpoint_seconds": partial(check_number, low=0),
    "dicom_codes": lambda key, value: value is None or _check_object(key, value),
    "end_step": lambda key, value: value is None or check_range(key, value, 0, _STEPS - 1),
    "fold": partial(check_range, low=-1),
    "folds": _FROM_0,
    "labels": _check_labels,
    "largest_component": check_switch,
    "learning_rate": partial(check_number, low=1e-12, high=10),
    "max_epochs": _FROM_1,
    "members": _FROM_1,
    "num_steps": _FROM_1,
    "num_workers": _FROM_0,
    "overwrite": check_switch,
    "presegmentation_weight": partial(check_number, low=0, high=1, below=True),
    "processes_per_device": _FROM_1,
    "resume": check_switch,
    "scans_per_subject": _FROM_1,
    "seed": partial(check_range, low=0, high=2**63 - 1),  # the largest seed of torch
    "start_step": lambda key, value: value is None or check_range(key, value, 0, _STEPS),
    "val_interval": _FROM_1,
    "val_members": _FROM_1,
}
LISTS: Mapping[str, Callable[[str, Any], object]] = {  # checks of each entry
    "label_values": partial(check_range, low=0, high=65535),
    "roi_size": _FROM_1,
    "spacing": partial(check_number, low=1e-6, high=1e6),  # mm
    "train_list_keys": partial(check_choice, choices=("training", "validation")),
    "trained_solver_steps": _FROM_0,
}
PER_AXIS = ("roi_size", "spacing")
_ONCE = ("label_values", "train_list_keys")


def check_setting(key: str, value: Any, spatial_dims: int = 3) -> None:
    """Check a setting of a bundle, whose value is no expression; one without a range is ignored.

    Raises:
        UserError: if the value has another type or is out of range; one per axis, ``spatial_dims`` in all, is expected
            of some lists.
    """
    if key in RANGES:
        RANGES[key](key, value)
    elif key in LISTS and not (key == "spacing" and value is None):  # scans keep their own
        length = f"{spatial_dims}, one per axis" if key in PER_AXIS else "at least 1"
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or not value or (key in PER_AXIS and len(value) != spatial_dims):
            raise UserError(f"{key}: found {value!r}, expected a list of {length}; fix --{key}")
        for entry in value:
            LISTS[key](key, entry)
        if key in _ONCE and len(set(value)) < len(value):
            raise UserError(f"{key}: found {value!r}, expected each entry once; fix --{key}")
