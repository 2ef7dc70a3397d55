"""Numbers and names of a configuration, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.schedulers import is_residual
from monai_pdddpm.utils.checks import check_range
from monai_pdddpm.utils.errors import UserError

_LOWEST = {
    "members": 1,
    "val_members": 1,
    "num_steps": 1,
    "start_step": 0,
    "end_step": 0,
    "seed": 0,
    "max_epochs": 1,
    "val_interval": 1,
    "batch_size": 1,
    "num_workers": 0,
    "folds": 0,
    "fold": -1,
}
_SHARES = ("overlap", "presegmentation_weight")
_SWITCHES = (
    *("overwrite", "write_members", "write_dicom_seg", "write_seg_nrrd", "write_scene", "write_report"),
    *("calibrated", "resume"),
)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what a user may have typed, each key by its name; keys without a rule pass.

    Args:
        settings: key of the configuration -> its value; ``start_step`` comes with ``end_step`` and
            ``num_train_timesteps``, ``precision`` with ``device``.

    Raises:
        UserError: at the first value that cannot work.
    """
    for name, value in settings.items():
        if name in _LOWEST:
            highest = {"seed": 2**63 - 1, "start_step": settings.get("num_train_timesteps")}  # torch's seeds end there
            check_range(name, value, _LOWEST[name], highest.get(name))
        elif name in _SHARES and not (_is_number(value) and 0 <= value < 1):
            raise UserError(f"{name}: found {value!r}, expected a number from 0 to below 1; set {name} to one")
        elif name == "learning_rate" and not (_is_number(value) and 0 < value < math.inf):
            raise UserError(f"{name}: found {value!r}, expected a number above 0; set {name} to one")
        elif name in _SWITCHES and not isinstance(value, bool):
            raise UserError(f"{name}: found {value!r}, expected True or False; write --{name} True")
    if "start_step" in settings:
        _check_chain(settings["start_step"], settings["end_step"])
    if "device" in settings:
        _check_device(settings["device"])
    try:
        if "precision" in settings:
            autocast(torch.device(settings["device"]), settings["precision"])
        if "training_process" in settings:
            is_residual(settings["training_process"])
    except ValueError as error:
        raise UserError(str(error)) from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_chain(start_step: int, end_step: int) -> None:
    if 0 < start_step <= end_step:
        raise UserError(
            f"start_step: found {start_step}, expected more than end_step, which is {end_step}, or 0 for the presegmentation "
            f"itself; set start_step higher or end_step to at most {start_step - 1}"
        )


def _check_device(device: torch.device | str) -> None:
    try:
        torch.zeros(1, device=torch.device(device))
    except Exception as error:  # torch raises many kinds for a device that is not there
        count = torch.cuda.device_count()
        there = "no CUDA device" if count == 0 else f"CUDA devices 0 to {count - 1}"
        raise UserError(
            f"device: '{device}' cannot be used, this computer has {there}; set device to cpu"
            f"{' or cuda:0' if count else ''}"
        ) from error
