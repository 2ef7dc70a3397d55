"""One picture of a case: the scan, what was segmented, and where not to trust it, at the slices where it matters."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke, withStroke

from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize.cuts import (
    Array,
    Case,
    View,
    crop_box,
    index_in_file,
    orientation_of,
    pick_slices,
    planes_of,
)

__all__ = ["COLOURS", "overview_figure", "save_figure", "save_overview"]

# Okabe and Ito's colours, which the colour-blind tell apart; those that stand out most from grey come first
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
_DASHES = (0, (2.5, 2.5))
_OUTLINED = [Stroke(linewidth=1.4, foreground="black"), Normal()]  # so that white is seen on white
_ON_SCAN: dict[str, Any] = {
    "color": "white",
    "fontsize": 7,
    "path_effects": [withStroke(linewidth=1.2, foreground="black")],
}
# so that members are seen on white
_UNDER_MEMBERS: list[AbstractPathEffect] = [withStroke(linewidth=1.0, foreground="black", alpha=0.45)]
_BELOW_BAR = "#595959"  # as the grey of the scan is below the map

_WINDOW = (1.0, 99.0)  # percentiles
_OPAQUE = 0.3  # share of the highest entropy from which on the map hides the scan

# inches, on a page of two columns
_WIDTH, _HEIGHT, _LEAST_ROW, _LEAST_COLUMN = 7.2, 8.4, 0.55, 1.1
_LEFT, _GAP, _LINE, _NOTE_LINE, _LETTER = 0.34, 0.04, 0.15, 0.11, 0.044
_MARK = 0.05  # of a cut's longer side
_DPI = 250

_NOTE = (
    "Radiological convention: patient's right at the left. i, j, k: voxel index in the file, from 0. "
    "Marks at the edges: where the other planes cut."
)

_Paint = Callable[[Axes, View], None]


def overview_figure(
    image: Array,
    label_map: Array,
    uncertainty: Array,
    labels: Mapping[Any, str],
    spacing: Sequence[float],
    title: str = "",
    members: Array | None = None,
    truth: Array | None = None,
    affine: Array | None = None,
) -> Figure:
    """Draw a case in three planes: the scan, the segmentation, its members, and the entropy.

    The slices are those of `pick_slices`, the part of the volume that of `crop_box`; marks at the edges of the second
    column tell where the two other planes cut. Axial and coronal pictures follow
    the radiological convention, the patient's right at the left; sagittal ones have anterior at the left. All pictures
    have one scale.

    Args:
        image: (X, Y, Z) scan; grey from the 1st to the 99th percentile of what is shown, NaN black.
        label_map: (X, Y, Z) whole numbers, 0 for the background.
        uncertainty: (X, Y, Z) entropy in nats; the colours go from 0 to ln K, the most that K classes allow.
        labels: names by label value, ``{1: "lesion"}``; a name for 0 is not used, K counts the background anyway.
        spacing: voxel size in mm along the axes of the arrays.
        title: name of the case.
        members: (N, X, Y, Z) label map of each member of the ensemble; without it the column is left out.
        truth: (X, Y, Z) reference, drawn dashed.
        affine: voxel to RAS+ as nibabel has it, by which the arrays are turned to the nearest axes for display; None
            when they lie as RAS already.

    Returns:
        The figure, with a canvas of its own: pyplot is not used, so any thread may draw.

    Raises:
        ValueError: when the arrays do not fit each other, or no label has a name.
    """
    names = {int(value): str(name) for value, name in labels.items() if int(value) != 0}
    if not names:
        raise ValueError(f"labels: found {dict(labels)}, expected a name for at least one label other than 0")
    highest = math.log(len(names) + 1)
    orientation = orientation_of(affine)
    case = Case(
        image=np.asarray(image),
        label_map=np.asarray(label_map),
        uncertainty=np.nan_to_num(np.asarray(uncertainty, dtype=np.float32)),
        spacing=tuple(float(step) for step in spacing),
        members=None if members is None or len(members) == 0 else np.moveaxis(np.asarray(members), 0, -1),
        truth=None if truth is None else np.asarray(truth),
    ).turned(orientation)
    slices = pick_slices(case.label_map, case.uncertainty, highest)
    box = crop_box(case, highest, slices)
    part = case.cropped(box)
    at = [index - side.start for index, side in zip(slices, box, strict=True)]
    views = [
        part.view(
            plane,
            at[plane.axis],
            index_in_file(plane.axis, slices[plane.axis], case.image.shape, orientation),
            at,
        )
        for plane in planes_of(part.image.shape)
    ]
    return _draw(views, _labels(case, names), highest, title, cropped=part.image.shape != case.image.shape)


def save_overview(path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
    """Write the picture of `overview_figure`, which takes all other arguments, as `save_figure` does."""
    save_figure(overview_figure(*args, **kwargs), path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure under a hidden name, then rename: a reader sees the whole picture or none.

    Args:
        figure: what to write.
        path: name that ends in .png, .pdf, .svg or what else matplotlib writes.

    Raises:
        UserError: when the format is not known, or the disk does not take the file.
    """
    path = Path(path)
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: expected a name that ends in .{', .'.join(sorted(known))}; .png is the usual one")
    with atomic_write(path) as part:
        figure.savefig(part, format=kind, dpi=_DPI)


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches of a page with a row per cut; ``scale`` in inches per mm is the same for all."""

    scale: float
    column: float
    rows: tuple[float, ...]
    columns: int
    top: float
    bottom: float

    @classmethod
    def of(cls, sizes: Sequence[tuple[float, float]], columns: int, top: float, bottom: float) -> _Layout:
        """Give pictures, whose ``sizes`` are in mm, as much room as the page has."""
        widest, highest = max(width for width, _ in sizes), sum(height for _, height in sizes)
        room = (_WIDTH - _LEFT) / columns - _GAP
        scale = min(room / widest, (_HEIGHT - top - bottom) / highest)
        rows = tuple(max(_LEAST_ROW, height * scale) for _, height in sizes)
        return cls(scale, max(widest * scale, _LEAST_COLUMN), rows, columns, top, bottom)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the page."""
        height = self.top + sum(self.rows) + _GAP * (len(self.rows) - 1) + self.bottom
        return self.left(self.columns), height

    def left(self, column: int) -> float:
        """Left side of a column."""
        return _LEFT + column * (self.column + _GAP)

    def lower(self, row: int) -> float:
        """Lower side of a row."""
        return self.size[1] - self.top - sum(self.rows[: row + 1]) - _GAP * row

    def axes(self, figure: Figure, left: float, lower: float, width: float, height: float, **options: Any) -> Axes:
        """Add bare axes at a place in inches."""
        whole = self.size
        place = (left / whole[0], lower / whole[1], width / whole[0], height / whole[1])
        axes = figure.add_axes(place, xticks=[], yticks=[], **options)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(self, figure: Figure, left: float, lower: float, text: str, **options: Any) -> None:
        """Write at a place in inches."""
        figure.text(left / self.size[0], lower / self.size[1], text, **{"fontsize": 8, **options})


@dataclass(frozen=True)
class _Label:
    """A label: how it is called, its colour, whether any voxel was segmented as it."""

    value: int
    name: str
    colour: str
    found: bool


def _labels(case: Case, names: Mapping[int, str]) -> list[_Label]:
    """List the labels that have a name or a voxel, coloured by rank, so that all cases of a task look alike."""
    found = _values(case.label_map)
    others = _values(case.members) | _values(case.truth)
    values = [*sorted(names), *sorted((found | others) - set(names))]
    return [
        _Label(value, names.get(value, f"label {value}"), COLOURS[rank % len(COLOURS)], value in found)
        for rank, value in enumerate(values)
    ]


def _values(volume: Array | None) -> set[int]:
    return set() if volume is None else {int(value) for value in np.unique(volume[volume != 0])}


def _draw(views: Sequence[View], labels: Sequence[_Label], highest: float, title: str, cropped: bool) -> Figure:
    """Put the picture together: a row per view, a column per thing to see."""
    columns = _columns(views[0], labels, highest)
    legend = _legend(labels, with_truth=views[0].truth is not None)
    sizes = [view.size for view in views]
    top = _LINE * (2.6 if title else 1.4)
    room = _Layout.of(sizes, len(columns), top, 0).left(len(columns) - 1) - _LEFT
    per_line = _per_line(legend, room)
    note = textwrap.wrap(_NOTE + " Cropped to the findings." * cropped, int(room / _LETTER))
    bottom = _LINE * math.ceil(len(legend) / per_line) + _NOTE_LINE * len(note) + 0.06
    layout = _Layout.of(sizes, len(columns), top, bottom)

    figure = Figure(figsize=layout.size, facecolor="white")
    FigureCanvasAgg(figure)
    limits = _window(np.concatenate([view.image.ravel() for view in views]))
    for row, view in enumerate(views):
        for column, (_, paint) in enumerate(columns):
            axes = _panel(figure, layout, row, column, view.size)
            _show(axes, view.image, view.size, colormaps["gray"], limits, "catrom")
            paint(axes, view)
            if column == 0:
                _ends(axes, view.plane.ends)
                if row == 0:
                    _scale_bar(axes, layout)
            elif column == 1 and len(views) > 1:  # where no letters are in their way
                _marks(axes, view)
        middle = layout.lower(row) + layout.rows[row] / 2
        turned = {"rotation": 90, "ha": "center", "va": "center"}
        layout.text(figure, 0.09, middle, view.plane.name, weight="bold", **turned)
        layout.text(figure, 0.24, middle, view.name, fontsize=7, **turned)
    for column, (head, _) in enumerate(columns):
        centre = layout.left(column) + layout.column / 2
        layout.text(figure, centre, layout.size[1] - top + 0.05, head, weight="bold", ha="center")
    if title:
        most = int((layout.size[0] - _LEFT) / (2 * _LETTER))
        short = title if len(title) <= most else f"…{title[1 - most :]}"  # the end of a long name tells most
        layout.text(figure, _LEFT, layout.size[1] - _LINE, short, fontsize=9, weight="bold")
    _colour_bar(figure, layout, highest)
    _names(figure, layout, legend, per_line)
    layout.text(figure, _LEFT, 0.03, "\n".join(note), fontsize=6.5, color="#404040", linespacing=1.2)
    return figure


def _columns(first: View, labels: Sequence[_Label], highest: float) -> list[tuple[str, _Paint]]:
    """Tell what the columns are called, and what is painted in each on top of the scan."""
    colours = {label.value: label.colour for label in labels}

    def image(axes: Axes, view: View) -> None:
        pass

    def segmentation(axes: Axes, view: View) -> None:
        _contours(axes, view.label_map, view.steps, colours, linewidths=1.2)
        if view.truth is not None:
            white = dict.fromkeys(colours, "white")
            for lines in _contours(axes, view.truth, view.steps, white, linewidths=0.7, linestyles=[_DASHES]):
                lines.set_path_effects(_OUTLINED)
        if not any(label.found for label in labels):
            axes.text(0.5, 0.02, "nothing segmented", ha="center", va="bottom", transform=axes.transAxes, **_ON_SCAN)

    def members(axes: Axes, view: View) -> None:
        assert view.members is not None
        for member in np.moveaxis(view.members, -1, 0):
            for lines in _contours(axes, member, view.steps, colours, linewidths=0.6):
                lines.set_path_effects(_UNDER_MEMBERS)

    def entropy(axes: Axes, view: View) -> None:
        # linear between voxels, so that no colour is shown that lies beyond those of the voxels
        _show(axes, view.uncertainty, view.size, _heat(), (0, highest), "bilinear")

    count = 0 if first.members is None else first.members.shape[-1]
    drawn: list[tuple[str, _Paint]] = [(f"{count} member{'s' * (count > 1)}", members)] if count else []
    return [("Image", image), ("Segmentation", segmentation), *drawn, ("Entropy (nats)", entropy)]


def _window(values: Array) -> tuple[float, float]:
    """Find the values of black and white."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _WINDOW))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, low + 0.5)  # a constant image is grey


def _heat() -> Colormap:
    """Magma, transparent where there is next to no entropy, so that the scan is seen below."""
    colours = colormaps["magma"](np.linspace(0, 1, 256))
    colours[:, 3] = np.clip(np.linspace(0, 1 / _OPAQUE, 256), 0, 1)
    return ListedColormap(colours)


def _legend(labels: Sequence[_Label], with_truth: bool) -> list[Line2D]:
    """Make a line for each label; of very many, only for those that were found."""
    lines = [
        Line2D([], [], color=label.colour, linewidth=2, solid_capstyle="butt", label=_in_legend(label))
        for label in labels
        if label.found or len(labels) <= len(COLOURS)
    ]
    if with_truth:
        dashes: dict[str, Any] = {"linewidth": 0.7, "linestyle": _DASHES, "path_effects": _OUTLINED}
        lines.append(Line2D([], [], color="white", label="reference", **dashes))
    return lines


def _in_legend(label: _Label) -> str:
    return label.name if label.found else f"{label.name} (none)"


def _per_line(legend: Sequence[Line2D], room: float) -> int:
    """Tell how many entries of the legend stand side by side in so many inches."""
    longest = max((len(str(line.get_label())) for line in legend), default=0)
    return max(1, int(room / (0.42 + 0.065 * longest)))


def _panel(figure: Figure, layout: _Layout, row: int, column: int, size: tuple[float, float]) -> Axes:
    """Make a black field with a cut in its middle; its units are mm from the upper left of the cut."""
    width, height = layout.column, layout.rows[row]
    axes = layout.axes(figure, layout.left(column), layout.lower(row), width, height, facecolor="black")
    axes.set_autoscale_on(False)
    axes.set_xlim((size[0] - width / layout.scale) / 2, (size[0] + width / layout.scale) / 2)
    axes.set_ylim((size[1] + height / layout.scale) / 2, (size[1] - height / layout.scale) / 2)
    return axes


def _show(
    axes: Axes,
    picture: Array,
    size: tuple[float, float],
    colours: Colormap,
    limits: tuple[float, float],
    interpolation: str,
) -> None:
    """Show an array over the whole cut, and nothing where it is not finite."""
    seen = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        np.ma.masked_invalid(picture.astype(np.float32)),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, size[0], size[1], 0),
        interpolation=interpolation,
        aspect="auto",
    )
    axes.set(xlim=seen[0], ylim=seen[1])


def _contours(
    axes: Axes, picture: Array, steps: tuple[float, float], colours: Mapping[int, str], **style: Any
) -> list[ContourSet]:
    """Draw the border of each label in a picture, closed even at its edge."""
    picture = np.pad(picture, 1)
    down, across = ((np.arange(size) - 0.5) * step for size, step in zip(picture.shape, steps, strict=True))
    masks = ((picture == value, colour) for value, colour in colours.items())
    return [
        axes.contour(across, down, mask.astype(np.float32), levels=[0.5], colors=[colour], **style)
        for mask, colour in masks
        if mask.any()
    ]


def _ends(axes: Axes, ends: str) -> None:
    """Write what lies at the left, right, bottom and top."""
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"))
    for end, (x, y, ha, va) in zip(ends, (*places, (0.5, 0.98, "center", "top")), strict=True):
        axes.text(x, y, end, ha=ha, va=va, transform=axes.transAxes, **_ON_SCAN)


def _marks(axes: Axes, view: View) -> None:
    """Mark at the edges of a cut where the two other planes lie."""
    assert view.others is not None  # overview_figure gives them
    (width, height), (across, down) = view.size, view.others
    length = _MARK * max(width, height)
    seen = [withStroke(linewidth=2, foreground="black")]
    for x, y, right, lower in (
        *((across, edge, 0.0, sign * length) for edge, sign in ((0.0, 1), (height, -1))),
        *((edge, down, sign * length, 0.0) for edge, sign in ((0.0, 1), (width, -1))),
    ):
        axes.plot([x, x + right], [y, y + lower], color="white", linewidth=0.8, path_effects=seen)


def _scale_bar(axes: Axes, layout: _Layout) -> None:
    """Draw a bar of a round length, at most a third of the column, at the lower left."""
    most = layout.column / layout.scale / 3
    power = 10.0 ** math.floor(math.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    left, right = axes.get_xlim()
    lower, upper = axes.get_ylim()
    x, y = left + 0.04 * (right - left), lower + 0.07 / layout.scale * (1 if upper > lower else -1)
    seen = [withStroke(linewidth=3, foreground="black")]
    axes.plot([x, x + length], [y, y], color="white", linewidth=1.5, solid_capstyle="butt", path_effects=seen)
    up = 0.04 / layout.scale * (1 if upper > lower else -1)
    axes.text(x, y + up, f"{length:g} mm", ha="left", va="bottom", **_ON_SCAN)


def _colour_bar(figure: Figure, layout: _Layout, highest: float) -> None:
    """Draw the colours of the entropy below its column, on grey as they are on the scan."""
    width = 0.86 * layout.column
    left = layout.left(layout.columns - 1) + 0.07 * layout.column
    axes = layout.axes(figure, left, layout.bottom - 0.14, width, 0.08, facecolor=_BELOW_BAR)
    axes.imshow(np.linspace(0, highest, 256)[None], cmap=_heat(), extent=(0, highest, 0, 1), aspect="auto")
    axes.set_xticks([0, highest / 2, highest], ["0", f"{highest / 2:.2f}", f"{highest:.2f}"])
    axes.tick_params(labelsize=7, length=2, pad=1)


def _names(figure: Figure, layout: _Layout, legend: Sequence[Line2D], per_line: int) -> None:
    """Write what the lines are, below the pictures."""
    figure.legend(
        handles=legend,
        loc="upper left",
        bbox_to_anchor=(_LEFT / layout.size[0], (layout.bottom - 0.05) / layout.size[1]),
        ncols=per_line,
        fontsize=8,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.6,
        columnspacing=1.2,
        labelspacing=0.3,
    )
