"""Measures of the traces that windows leave in maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from monai_pdddpm.inferers import EnsembleConfig
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.inferers.chain import reverse_chain
from monai_pdddpm.inferers.noise import member_noise
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM


def window_borders(plan: WindowPlan) -> list[list[int]]:
    """Return along each axis the inner planes at which a window begins or ends; plane i lies before voxel i."""
    ends = [{end for w in plan.windows for end in (w[axis].start, w[axis].stop)} for axis in range(len(plan.size))]
    return [sorted(found - {0, n}) for found, n in zip(ends, plan.size, strict=True)]


def seam_energy(volume: torch.Tensor, borders: Sequence[Sequence[int]], region: torch.Tensor) -> float:
    """Compare the differences of neighboring voxels across borders of windows with those elsewhere.

    Args:
        volume: (..., X, Y, Z).
        borders: planes along each axis, see `window_borders`.
        region: (X, Y, Z) bool; both voxels of a pair must lie in it.

    Returns:
        The mean absolute difference across borders divided by that across all other planes: 1 for a ramp without
        windows, more with visible borders; NaN if there is no pair or no difference.
    """
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for axis, planes in enumerate(borders):
        dim = axis - len(borders)
        n = volume.shape[dim]
        step = (volume.narrow(dim, 1, n - 1) - volume.narrow(dim, 0, n - 1)).abs()
        pairs = region.narrow(axis, 0, n - 1) & region.narrow(axis, 1, n - 1)
        at_border = torch.zeros(n - 1, dtype=torch.bool)
        at_border[[p - 1 for p in planes]] = True
        at_border = at_border.view([n - 1 if a == axis else 1 for a in range(len(borders))])
        for row, chosen in enumerate((pairs & at_border, pairs & ~at_border)):
            found = step[..., chosen]
            sums[row] += torch.tensor([float(found.double().sum()), found.numel()])
    border, elsewhere = (float(total / count) for total, count in sums)
    return border / elsewhere if elsewhere else float("nan")


def squared_shares(plan: WindowPlan) -> torch.Tensor:
    """Return the sum over windows of their squared weights in a voxel: 1 for one window, 1/n for n equal ones."""
    squares = torch.zeros_like(plan.total)
    for window in plan.windows:
        squares[window] += plan.weight**2
    return squares / plan.total**2


def spread_kept(variance: torch.Tensor, known: torch.Tensor, plan: WindowPlan, region: torch.Tensor) -> float:
    """Compare the variance where windows overlap most with that where one window dominates.

    Args:
        variance: (X, Y, Z).
        known: (X, Y, Z), true variance.
        plan: the windows.
        region: (X, Y, Z) bool.

    Returns:
        The ratio of variance per true variance in the two halves of the region: 1 without a trace, less if windows
        average the members' differences away.
    """
    shares = squared_shares(plan)
    overlapped = shares <= shares[region].median()
    halves = [region & chosen for chosen in (overlapped, ~overlapped)]
    inside, apart = (float(variance[half].sum() / known[half].sum()) for half in halves)
    return inside / apart if apart else float("nan")


def with_own_noise(
    config: EnsembleConfig, network: PDDDPM, image: torch.Tensor, preseg: torch.Tensor, blend_mode: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw every window with noise of its own, the control in which spread is lost where windows overlap.

    Args:
        config: settings of chain and windows.
        network: segmenter and denoiser.
        image: (1, C, X, Y, Z), at least a window.
        preseg: (K, X, Y, Z), the segmenter's probabilities.
        blend_mode: weights of the windows.

    Returns:
        Mean (K, X, Y, Z) and variance of the foreground classes (K - 1, X, Y, Z), that of a weighted mean of
        independent windows.
    """
    plan, chain = WindowPlan(image.shape[2:], config.roi_size, config.overlap, blend_mode), config.chain()
    presegmentation = network.prepare_presegmentation(preseg[None])
    mean, variance = torch.zeros_like(preseg), torch.zeros_like(preseg[1:])
    for number, window in enumerate(plan.windows):
        seed, shape = config.seed + 1 + number, (len(preseg), *plan.roi_size)
        noise = [
            torch.stack([member_noise(seed, member, draw, shape) for member in range(config.members)])
            for draw in range(chain.draws)
        ]
        with torch.no_grad(), autocast(image.device, config.precision):
            cut = plan.cut(presegmentation, window)
            features = network.encode(plan.cut(image, window), cut)
            drawn = reverse_chain(network, cut, features, noise, chain)[1].float()
        plan.add(mean, window, drawn.mean(0))
        plan.cut(variance, window).add_(plan.weight**2 * drawn.var(0, correction=0)[1:])
    return plan.finish(mean), variance.div_(plan.total**2)


def draw_slices(maps: Mapping[str, torch.Tensor], borders: Sequence[Sequence[int]], path: Path) -> None:
    """Draw one slice of each map (X, Y, Z) on one scale; ticks mark the borders of windows."""
    from matplotlib import pyplot as plt

    first = next(iter(maps.values()))
    level = int(first.sum(dim=(0, 1)).argmax())
    top = max(float(volume[..., level].max()) for volume in maps.values())
    figure, axes = plt.subplots(1, len(maps), figsize=(3.6 * len(maps), 4.2), layout="constrained")
    for axis, (name, volume) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(volume[..., level].T.numpy(), origin="lower", cmap="magma", vmin=0, vmax=top)
        axis.set_title(name)
        axis.set_xticks([p - 0.5 for p in borders[0]], [])
        axis.set_yticks([p - 0.5 for p in borders[1]], [])
        axis.tick_params(top=True, right=True, length=8, width=1.5, color="tab:blue")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="variance, summed over classes")
    figure.savefig(path, dpi=110)
    plt.close(figure)
