"""A fourth dimension that is time."""

from __future__ import annotations

import torch
from monai.networks.layers import gaussian_1d


def smoothed_over_frames(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return frames averaged with their neighbours by a Gaussian; the first and the last stand for those beyond.

    Args:
        frames: (T, ...).
        sigma: standard deviation in frames; 0 returns the frames as they are.
    """
    if sigma == 0 or len(frames) == 1:
        return frames
    kernel = gaussian_1d(torch.tensor(float(sigma)), truncated=3.0, approx="sampled", normalize=True)
    reach = len(kernel) // 2
    smooth = torch.zeros_like(frames)
    for f in range(len(frames)):
        for offset, weight in zip(range(-reach, reach + 1), kernel.tolist(), strict=True):
            smooth[f] += weight * frames[min(max(f + offset, 0), len(frames) - 1)]
    return smooth
