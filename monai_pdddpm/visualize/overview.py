"""Draw one picture of a case: scan, segmentation, members and entropy in the most informative planes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation

from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.colors import PALETTE, label_colors
from monai_pdddpm.visualize.cuts import (
    Array,
    Plane,
    crop_box,
    cut,
    index_in_file,
    informative_slices,
    planes_of,
)

_WINDOW = (1.0, 99.0)  # percentiles of the scan that are black and white
_OPAQUE = 0.3  # part of the highest entropy from which on the map hides the scan
_GRAY = "#595959"  # below the color bar, as the scan is below the map

# inches, for a printed page of two columns
_WIDTH, _HEIGHT, _LEAST_ROW, _LEAST_COLUMN = 7.2, 7.2, 0.55, 1.1
_LEFT, _GAP, _LINE, _NOTE, _FOOT = 0.34, 0.04, 0.16, 0.27, 0.42
_DPI = 250
_COMPRESSION = 2  # of 9: a quarter of the time of level 6, and files a few percent larger

# of the letters at the left, right, bottom and top of a picture: x, y, horizontal and vertical alignment
_PLACES: Sequence[tuple[float, float, str, str]] = (
    *((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")),
    *((0.5, 0.02, "center", "bottom"), (0.5, 0.98, "center", "top")),
)
_OUTLINED: dict[str, Any] = {"color": "white", "path_effects": [withStroke(linewidth=2, foreground="black")]}
_CONVENTION = "Patient's right is at the left. i, j, k: voxel index in the file, from 0."
_MARKS = "Marks at the edges: the other two planes. "
_CROPPED = "Cropped to the findings."


def save_overview(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write the figure of a case as PNG; an older file is replaced only by a complete one.

    Raises:
        UserError: when the file cannot be written.
    """
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=_DPI, pil_kwargs={"compress_level": _COMPRESSION})


def overview_figure(view: CaseView) -> Figure:
    """Draw a picture of a case: scan, segmentation, members and entropy in three planes.

    The planes are those of `informative_slices`, the shown part of the volume is that of `crop_box`. Axial and coronal
    pictures follow the radiological convention (the patient's right at the left); sagittal ones have anterior at the
    left. All pictures have the same scale. The scan is gray from the 1st to the 99th percentile of the shown part, NaN
    black; the colors of the entropy go from 0 to ln K. pyplot is not used, so any thread may draw.
    """
    highest, labels = math.log(len(view.labels) + 1), view.labels
    volumes = {"image": view.image, "seg": view.seg, "entropy": np.nan_to_num(view.entropy)}
    if view.members is not None:
        volumes["members"] = np.moveaxis(view.members, 0, -1)
    views, cropped = _views(volumes, view.affine, highest)
    found, colors = set(np.unique(view.seg)) - {0}, label_colors(labels)
    legend = [
        Line2D([], [], color=colors[value], linewidth=2, label=name if value in found else f"{name} (none)")
        for value, name in labels.items()
        if value in found or len(labels) <= len(PALETTE)
    ]
    note = _MARKS * (len(views) > 1) + _CROPPED * cropped
    return _draw(views, colors, legend, highest, view.title, note, bool(found))


@dataclass(frozen=True)
class _View:
    """A cut through a case; pictures are (rows, columns), members (rows, columns, N)."""

    plane: Plane
    name: str
    pictures: Mapping[str, Array]
    pixel: tuple[float, float]  # height and width in mm
    size: tuple[float, float]  # width and height in mm
    marks: tuple[float, float]  # of the other two planes, in mm from the left and from the top


def _views(volumes: Mapping[str, Array], affine: Array, highest: float) -> tuple[list[_View], bool]:
    """Cut the volumes in each plane; also return whether they were cropped."""
    orientation = io_orientation(affine)
    turned = {name: apply_orientation(volume, orientation) for name, volume in volumes.items()}
    shape, spacing = turned["image"].shape, voxel_sizes(affine)[np.argsort(orientation[:, 0])].tolist()
    slices = informative_slices(turned["seg"], turned["entropy"], highest)
    box = crop_box(turned["seg"], turned["entropy"], spacing, highest, slices)
    turned = {name: volume[box] for name, volume in turned.items()}
    size = turned["image"].shape
    # picture axes point against the RAS axes, so positions count from the far end
    marks = [(size[a] - (slices[a] - box[a].start) - 0.5) * spacing[a] for a in range(3)]
    views = [
        _View(
            plane,
            index_in_file(plane.axis, slices[plane.axis], shape, orientation),
            {name: cut(volume, plane, slices[plane.axis] - box[plane.axis].start) for name, volume in turned.items()},
            (spacing[plane.up], spacing[plane.across]),
            (size[plane.across] * spacing[plane.across], size[plane.up] * spacing[plane.up]),
            (marks[plane.across], marks[plane.up]),
        )
        for plane in planes_of(size)
    ]
    return views, size != shape


def _draw(
    views: Sequence[_View],
    colors: Mapping[int, str],
    legend: Sequence[Line2D],
    highest: float,
    title: str,
    note: str,
    found: bool,
) -> Figure:
    """Lay out a row per view and a column per kind of picture, and fill the panels."""
    members = views[0].pictures.get("members", np.zeros((1, 1, 0))).shape[-1]
    heads = {"image": "Image", "seg": "Segmentation", "members": f"{members} member{'s' * (members > 1)}"}
    heads = {name: head for name, head in heads.items() if name in views[0].pictures} | {"entropy": "Entropy (nats)"}
    widest, total = max(view.size[0] for view in views), sum(view.size[1] for view in views)
    scale = min(((_WIDTH - _LEFT) / len(heads) - _GAP) / widest, _HEIGHT / total)  # inches per mm
    column = max(widest * scale, _LEAST_COLUMN)
    rows = [max(view.size[1] * scale, _LEAST_ROW) for view in views]
    entry = 0.42 + 0.065 * max((len(str(line.get_label())) for line in legend), default=0)
    per_line = max(1, int((len(heads) - 1) * column / entry))
    rows.append(max(_FOOT, _LINE * math.ceil(len(legend) / per_line) + _NOTE))
    top = _LINE * (2.6 if title else 1.4)
    width, height = _LEFT + len(heads) * (column + _GAP), top + sum(rows) + _GAP * len(rows)
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    mosaic: list[Any] = [[f"{name} {row}" for name in heads] for row in range(len(views))]
    mosaic.append(["legend"] * (len(heads) - 1) + ["bar"])
    panels = figure.subplot_mosaic(
        mosaic,
        height_ratios=rows,
        gridspec_kw={
            "left": _LEFT / width,
            "right": 1 - _GAP / width,
            "top": 1 - top / height,
            "bottom": _GAP / height,
            "wspace": _GAP / column,
            "hspace": _GAP * len(rows) / sum(rows),
        },
    )
    limits = gray_window(np.concatenate([view.pictures["image"].ravel() for view in views]))
    for row, view in enumerate(views):
        for name in heads:
            axes = panels[f"{name} {row}"]
            # in mm from the upper left of the view, which is in the middle
            (width_mm, height_mm), (x, y) = view.size, (column / scale / 2, rows[row] / scale / 2)
            limits_mm = {"xlim": (width_mm / 2 - x, width_mm / 2 + x), "ylim": (height_mm / 2 + y, height_mm / 2 - y)}
            axes.set(facecolor="black", xticks=[], yticks=[], **limits_mm)
            axes.spines[:].set_visible(False)
            _show(axes, view.pictures["image"], view, colormaps["gray"], limits, "catrom")
        _captions(panels[f"image {row}"], view, column)
        _segmentation(panels[f"seg {row}"], view, colors, found, marks=len(views) > 1)
        for member in range(members):
            _contours(panels[f"members {row}"], view.pictures["members"][..., member], view, colors, 0.6)
        # linear between voxels, so that no color lies beyond those of the voxels
        shown = _show(panels[f"entropy {row}"], view.pictures["entropy"], view, _heat(), (0, highest), "bilinear")
    for name, head in heads.items():
        panels[f"{name} 0"].set_title(head, fontsize=8, weight="bold", pad=4)
    _scale_bar(panels["image 0"], column / scale, 1 / scale)
    bar = panels["bar"].inset_axes((0.07, 1 - 0.12 / rows[-1], 0.86, 0.08 / rows[-1]), facecolor=_GRAY)
    figure.colorbar(shown, cax=bar, orientation="horizontal", ticks=[0, highest / 2, highest], format="%.2f")
    bar.tick_params(labelsize=7, length=2, pad=1)
    panels["bar"].set_axis_off()
    panels["legend"].set_axis_off()
    spaces = {"borderpad": 0, "borderaxespad": 0.2, "handlelength": 1.6, "columnspacing": 1.2, "labelspacing": 0.3}
    names = panels["legend"].legend(
        handles=legend, loc="upper left", ncols=per_line, fontsize=8, frameon=False, **spaces
    )
    for text in names.get_texts():
        text.set_parse_math(False)  # a name may have two $
    panels["legend"].text(0, 0, f"{_CONVENTION}\n{note}", fontsize=6.5, color="#404040", va="bottom")
    if title:  # the end of a long name is the most specific part
        letters = int((width - _LEFT) / 0.09)
        short = title if len(title) <= letters else f"…{title[1 - letters :]}"
        figure.text(_LEFT / width, 1 - 0.05 / height, short, fontsize=9, weight="bold", va="top", parse_math=False)
    return figure


def _captions(axes: Axes, view: _View, width: float) -> None:
    """Write the sides of the patient into a picture, and plane and slice beside it; ``width`` in inches."""
    for side, (x, y, ha, va) in zip(view.plane.sides, _PLACES, strict=True):
        axes.text(x, y, side, ha=ha, va=va, fontsize=7, transform=axes.transAxes, **_OUTLINED)
    turned: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(-0.25 / width, 0.5, view.plane.name, fontsize=8, weight="bold", **turned)
    axes.text(-0.1 / width, 0.5, view.name, fontsize=7, **turned)


def _show(
    axes: Axes, picture: Array, view: _View, colors: Colormap, limits: tuple[float, float], interpolation: str
) -> AxesImage:
    """Show an array over the whole view; values that are not finite stay black."""
    return axes.imshow(
        np.ma.masked_invalid(picture.astype(np.float32)),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, view.size[0], view.size[1], 0),
        interpolation=interpolation,
        aspect="auto",
    )


def _segmentation(axes: Axes, view: _View, colors: Mapping[int, str], found: bool, marks: bool) -> None:
    """Draw the segmentation's borders, and marks at the edges where the other two planes lie."""
    _contours(axes, view.pictures["seg"], view, colors, 1.2)
    if not found:
        place: dict[str, Any] = {"ha": "center", "va": "bottom", "transform": axes.transAxes}
        axes.text(0.5, 0.02, "nothing segmented", fontsize=7, **place, **_OUTLINED)
    (width, height), (x, y) = view.size, view.marks
    length = 0.05 * max(width, height)
    ends = ((x, 0, x, length), (x, height, x, height - length), (0, y, length, y), (width, y, width - length, y))
    for x0, y0, x1, y1 in ends if marks else ():
        axes.plot([x0, x1], [y0, y1], linewidth=0.8, **_OUTLINED)


def _contours(axes: Axes, picture: Array, view: _View, colors: Mapping[int, str], linewidth: float) -> None:
    """Draw the border of each label, closed even at the picture's edge."""
    padded = np.pad(picture, 1)
    down, across = ((np.arange(size) - 0.5) * step for size, step in zip(padded.shape, view.pixel, strict=True))
    for value, color in colors.items():
        mask = padded == value
        if mask.any():
            lines = axes.contour(across, down, mask.astype(np.float32), [0.5], colors=[color], linewidths=linewidth)
            lines.set_path_effects([withStroke(linewidth=linewidth + 0.4, foreground="black", alpha=0.45)])


def _scale_bar(axes: Axes, width: float, inch: float) -> None:
    """Draw a bar of a round length, at most a third of the width, at the lower left; ``width`` and ``inch`` in mm."""
    power = 10.0 ** math.floor(math.log10(width / 3))
    length = max(step * power for step in (1, 2, 5) if step * power <= width / 3)
    x, y = axes.get_xlim()[0] + 0.04 * width, axes.get_ylim()[0] - 0.07 * inch
    axes.plot([x, x + length], [y, y], linewidth=1.5, solid_capstyle="butt", **_OUTLINED)
    axes.text(x, y - 0.04 * inch, f"{length:g} mm", ha="left", va="bottom", fontsize=7, **_OUTLINED)


def gray_window(values: Array) -> tuple[float, float]:
    """Return the values of black and white."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _WINDOW))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, low + 0.5)  # a constant image is gray


def _heat() -> Colormap:
    """Return magma, transparent at low entropy so that the scan is seen below."""
    colors = colormaps["magma"](np.linspace(0, 1, 256))
    colors[:, 3] = np.clip(np.linspace(0, 1 / _OPAQUE, 256), 0, 1)
    return ListedColormap(colors)
