"""Noise schedules, lists of time steps, reverse-step rules and forward processes."""

from .predictions import PREDICTIONS, decode_probabilities, encode_labels, predicted_x0, regression_target
from .processes import DDPMProcess, ResidualProcess, forward_process, matching_start
from .rules import AncestralRule, DDIMRule, ancestral_step, ddim_step
from .schedule import cumulative_schedule, signal_to_noise, start_state
from .steps import check_steps, early_end, uneven_steps, uniform_steps

__all__ = [
    "PREDICTIONS",
    "AncestralRule",
    "DDIMRule",
    "DDPMProcess",
    "ResidualProcess",
    "ancestral_step",
    "check_steps",
    "cumulative_schedule",
    "ddim_step",
    "decode_probabilities",
    "early_end",
    "encode_labels",
    "forward_process",
    "matching_start",
    "predicted_x0",
    "regression_target",
    "signal_to_noise",
    "start_state",
    "uneven_steps",
    "uniform_steps",
]
