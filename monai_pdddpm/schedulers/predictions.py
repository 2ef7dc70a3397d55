"""What a denoiser predicts, and the x_0 that follows from it."""

from __future__ import annotations

import torch

PREDICTIONS = ("x0", "eps", "v")


def encode_labels(probabilities: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return probabilities or one-hot labels in [0, 1] as states in [low, high]."""
    return low + (high - low) * probabilities


def decode_probabilities(x_0: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return states of shape (B, K, ...) as probabilities that sum to 1 over K, equal ones where no class shows."""
    p = ((x_0 - low) / (high - low)).clamp(min=0.0)
    total = p.sum(dim=1, keepdim=True)
    return torch.where(total > 1e-6, p / total.clamp(min=1e-6), torch.full_like(p, 1.0 / p.shape[1]))


def predicted_x0(
    output: torch.Tensor, x_t: torch.Tensor, abar_t: torch.Tensor, prediction: str, low: float, high: float
) -> torch.Tensor:
    """Return the x_0 that a network's output stands for, in float32 and within [low, high].

    Args:
        output: the network's, (B, K, ...): logits of the classes for ``"x0"``, the noise for ``"eps"``
            (DDPM, eq. 15), ``sqrt(abar) eps - sqrt(1 - abar) x_0`` for ``"v"`` (Salimans & Ho 2022).
        x_t: the state that it was given.
        abar_t: scalar or (B, 1, ...).
        prediction: ``"x0"``, ``"eps"`` or ``"v"``.
        low: state of an absent class.
        high: state of a present class.

    Raises:
        ValueError: when the prediction is another one.
    """
    output = output.float()
    if prediction == "x0":
        return encode_labels(output.softmax(dim=1), low, high)
    if prediction == "eps":
        return ((x_t - (1 - abar_t).sqrt() * output) / abar_t.sqrt()).clamp(low, high)
    if prediction == "v":
        return (abar_t.sqrt() * x_t - (1 - abar_t).sqrt() * output).clamp(low, high)
    raise ValueError(f"prediction: '{prediction}' was found, x0, eps or v is expected")


def regression_target(x_0: torch.Tensor, x_t: torch.Tensor, abar_t: torch.Tensor, prediction: str) -> torch.Tensor:
    """Return what the network should predict so that :func:`predicted_x0` gives ``x_0``.

    For a state noised from x_0 this is the noise (``"eps"``) or v; for one noised from elsewhere it is the noise that
    would have led there from x_0.

    Args:
        x_0: the true state, (B, K, ...).
        x_t: the state that the network is given.
        abar_t: scalar or (B, 1, ...).
        prediction: ``"x0"``, ``"eps"`` or ``"v"``.
    """
    if prediction == "x0":
        return x_0
    eps = (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()
    if prediction == "eps":
        return eps
    if prediction == "v":
        return abar_t.sqrt() * eps - (1 - abar_t).sqrt() * x_0
    raise ValueError(f"prediction: '{prediction}' was found, x0, eps or v is expected")
