"""Noise schedules, lists of time steps, reverse rules, forward processes and the reverse chain's step."""

from .predictions import PREDICTIONS, decode_probabilities, encode_labels, predicted_x0, regression_target
from .processes import TRAINING_PROCESSES, check_residual_start, is_residual, noisy_state
from .rules import AncestralRule, Chain, DDIMRule, chain_step, reverse_step
from .schedule import cumulative_schedule, signal_to_noise, start_state
from .steps import check_steps, stored_steps, uniform_steps

__all__ = [
    "PREDICTIONS",
    "TRAINING_PROCESSES",
    "AncestralRule",
    "Chain",
    "DDIMRule",
    "chain_step",
    "check_residual_start",
    "check_steps",
    "cumulative_schedule",
    "decode_probabilities",
    "encode_labels",
    "is_residual",
    "noisy_state",
    "predicted_x0",
    "regression_target",
    "reverse_step",
    "signal_to_noise",
    "start_state",
    "stored_steps",
    "uniform_steps",
]
