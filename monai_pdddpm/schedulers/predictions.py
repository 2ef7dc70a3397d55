"""Conversions between a denoiser's output and the clean state x_0, and between states and probabilities."""

from __future__ import annotations

import torch

from .rules import implied_noise

PREDICTIONS = ("x0", "eps", "v")


def encode_labels(probabilities: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return probabilities or one-hot labels in [0, 1] as states in [low, high]."""
    return low + (high - low) * probabilities


def decode_probabilities(x_0: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return states as probabilities, (B, K, ...), that sum to 1; voxels without any class get 1 / K each."""
    p = ((x_0 - low) / (high - low)).clamp(min=0.0)
    total = p.sum(dim=1, keepdim=True)
    return torch.where(total > 1e-6, p / total, torch.full_like(p, 1.0 / p.shape[1]))


def predicted_x0(
    output: torch.Tensor, x_t: torch.Tensor, abar_t: torch.Tensor, prediction: str, low: float, high: float
) -> torch.Tensor:
    """Return the x_0 that a network's output encodes, in float32 and within [low, high].

    Args:
        output: output of the network, (B, K, ...): logits of the classes for ``"x0"``, the noise for ``"eps"``,
            ``sqrt(abar) eps - sqrt(1 - abar) x_0`` for ``"v"``.
        x_t: input state of the network.
        abar_t: scalar or (B, 1, ...).
        prediction: ``"x0"``, ``"eps"`` or ``"v"``.
        low: state of an absent class.
        high: state of a present class.

    Reference: Ho et al. 2020 (DDPM), eq. 15; Salimans and Ho 2022 (v).
    """
    output = output.float()
    if prediction == "x0":
        return encode_labels(output.softmax(dim=1), low, high)
    if prediction == "eps":
        return ((x_t - (1 - abar_t).sqrt() * output) / abar_t.sqrt()).clamp(low, high)
    return (abar_t.sqrt() * x_t - (1 - abar_t).sqrt() * output).clamp(low, high)


def regression_target(x_0: torch.Tensor, x_t: torch.Tensor, abar_t: torch.Tensor, prediction: str) -> torch.Tensor:
    """Return the network output for which :func:`predicted_x0` returns ``x_0``.

    If ``x_t`` was not noised from ``x_0``, the target is the noise that leads from ``x_0`` to ``x_t``.

    Args:
        x_0: the true state, (B, K, ...).
        x_t: input state of the network.
        abar_t: scalar or (B, 1, ...).
        prediction: ``"x0"``, ``"eps"`` or ``"v"``.
    """
    if prediction == "x0":
        return x_0
    eps = implied_noise(x_t, x_0, abar_t)
    if prediction == "eps":
        return eps
    return abar_t.sqrt() * eps - (1 - abar_t).sqrt() * x_0
