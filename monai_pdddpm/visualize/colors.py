"""One color for each label, the same in the overview and in every viewer."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.colors import to_rgb

# Okabe and Ito's colors, which color-blind readers can distinguish; the most visible ones on gray come first
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")


def label_colors(labels: Iterable[int]) -> dict[int, str]:
    """Return a color such as ``#E69F00`` for each label value, in ascending order; they repeat after seven."""
    return {value: PALETTE[rank % len(PALETTE)] for rank, value in enumerate(labels)}


def rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue of a color, each from 0 to 255."""
    red, green, blue = (round(255 * part) for part in to_rgb(color))
    return red, green, blue
