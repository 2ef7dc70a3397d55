"""All choices for a new bundle, from the fingerprint of its data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import SegResNet
from torch import nn

from monai_pdddpm.cli import planner
from monai_pdddpm.cli.memory import Need, Room, computer_memory, need_of
from monai_pdddpm.cli.planner import Choice
from monai_pdddpm.cli.segmenter_bundle import Segmenter, network_of, smallest_cube
from monai_pdddpm.networks import ODEUNet
from monai_pdddpm.utils.errors import UserError

__all__ = ["plan"]

# divisor -> blocks of the segmenter down and up, and widths of the denoiser against the segmenter's first
_LEVELS = {8: ((1, 2, 2, 4), (1, 1, 1), (2, 4, 8)), 4: ((1, 2, 4), (1, 1), (2, 4))}


def plan(
    seen: dict[str, Any], trained_on: int, room: Room, foreign: Segmenter | None, wanted: Sequence[float] | None
) -> tuple[dict[str, Any], list[Choice]]:
    """Choose everything that a new task needs.

    Args:
        seen: the data set's fingerprint.
        trained_on: number of training cases.
        room: memory to train in.
        foreign: a segmenter that is there already, or None.
        wanted: spacing in mm, or None to choose it.

    Returns:
        the values of the places of ``configs/_new_task.json``, and the choices behind them.

    Raises:
        UserError: when the memory is too small, or a spacing is wanted that a foreign segmenter does not know.
    """
    names = [label["name"] for label in seen["labels"].values()][1:]
    channels, classes = len(seen["channels"]), len(names) + 1
    if foreign and wanted is not None:
        raise UserError("--spacing: given with --segmenter, whose network knows one spacing; leave one of them out")
    if foreign:
        why = f"what {foreign.name} was trained on"
        words = (
            "that of the scans" if foreign.spacing is None else f"{' x '.join(f'{s:g}' for s in foreign.spacing)} mm"
        )
        space = Choice("spacing", foreign.spacing, words, why)
        steps = ", ".join(transform["_target_"] for transform in foreign.intensity) or "as it is"
        intensity = Choice("intensity", foreign.intensity, steps, why)
    else:
        space, intensity = planner.choose_spacing(seen, wanted), planner.choose_intensity(seen)
    shape = planner.resampled_shape(seen, space.value)
    depth = (
        Choice("depth", 8, "denoiser of 4 levels", "the windows follow the segmenter")
        if foreign
        else (planner.choose_depth(shape))
    )
    divisor = depth.value
    kind = network_of(foreign.network, "network_def") if foreign else None
    needs = {filters: _need(channels, classes, filters, divisor, kind) for filters in (16, 8)}
    widths = planner.choose_widths(lambda filters: needs[filters], divisor, room)
    need = needs[widths.value]
    window = (
        _foreign_window(foreign, kind, channels, shape, need, room)
        if foreign and kind is not None
        else (planner.choose_window(shape, divisor, need, room))
    )
    batch = planner.choose_batch(window.value, need, room)
    overlap = planner.choose_overlap(shape, window.value)
    length = planner.choose_length(trained_on, batch.value)
    cache = planner.choose_cache(seen, space.value, computer_memory())
    flips, lesions = planner.choose_flips(names), planner.choose_lesions(names)
    choices = [space, intensity, depth, widths, window, batch, overlap, length, cache, flips, lesions]
    missing = {channel["name"]: channel["missing"] for channel in seen["channels"] if channel["missing"]}
    if missing:
        words = ", ".join(f"{name} in {count}" for name, count in missing.items())
        choices.append(Choice("missing channels", "zero", "zeros in their place", f"missing: {words} of the cases"))
    down, up, factors = _LEVELS[divisor]
    epochs, drawn = length.value
    values = {
        "num_classes": classes,
        "highest_label": classes - 1,
        "highest_entropy": round(math.log(classes), 4),
        "labels": {str(index): name for index, name in enumerate(["background", *names])},
        "channels": channels,
        "channel_def": {str(index): channel["name"] for index, channel in enumerate(seen["channels"])},
        "spacing": space.value,
        "roi_size": window.value,
        "overlap": overlap.value,
        "intensity": intensity.value,
        "flip_prob": 0.5 if flips.value else 0.0,
        "lesions": lesions.value,
        "filters": widths.value,
        "blocks_down": list(down),
        "blocks_up": list(up),
        "denoiser_channels": [factor * widths.value for factor in factors],
        "stem_channels": widths.value,
        "batch_size": batch.value,
        "epochs": epochs,
        "segmenter_val_interval": max(1, epochs // 20),
        "val_interval": max(1, epochs // 5),
        "drawn": drawn,
        "cache_rate": cache.value,
        "missing": "zero" if missing else None,
    }
    return values, choices


def _foreign_window(
    foreign: Segmenter, network: nn.Module, channels: int, shape: Sequence[int], need: Need, room: Room
) -> Choice:
    own = foreign.window
    if own and len(own) == 3 and all(s > 0 and s % 8 == 0 for s in own) and need.of(own, planner.FEWEST) <= room.size:
        return Choice("window", own, f"{' x '.join(map(str, own))} voxels", f"that of {foreign.name}")
    return planner.choose_window(own or shape, smallest_cube(network, channels), need, room)


def _need(channels: int, classes: int, filters: int, divisor: int, foreign: nn.Module | None) -> Need:
    """Measure both stages on a small window, and return what the larger one needs."""
    down, up, factors = _LEVELS[divisor]
    side = 4 * divisor
    image = torch.zeros(1, channels, side, side, side)
    one_hot = torch.zeros(1, classes, side, side, side)
    segmenter = foreign or SegResNet(
        init_filters=filters, in_channels=channels, out_channels=classes, blocks_down=down, blocks_up=up
    )
    denoiser = ODEUNet(3, channels, classes, classes, [factor * filters for factor in factors], filters)

    def denoise() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return denoiser.denoise(one_hot, torch.zeros(1), denoiser.encode(image, one_hot), "", 0)

    def segment() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return segmenter(image)

    second = need_of(denoiser, denoise, side**3, [segmenter, denoiser])
    first = second if foreign else need_of(segmenter, segment, side**3)
    return Need(max(first.fixed, second.fixed), max(first.per_voxel, second.per_voxel))
