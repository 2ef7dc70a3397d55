"""One picture of a case: the scan, what was segmented, and where not to trust it, at the slices where it matters."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from monai_pdddpm.errors import UserError

__all__ = ["COLOURS", "crop_box", "overview_figure", "pick_slices", "save_figure", "save_overview"]

Array = NDArray[Any]

# Okabe and Ito's colours, told apart by the colour-blind; those that stand out from grey come first
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
_TRUTH = "#FFFFFF"
_BELOW = "#4D4D4D"  # grey behind the colour bar, as the scan is behind the map

_MARGIN_MM = 20.0
_WINDOW = (1.0, 99.0)  # percentiles
_OPAQUE = 0.3  # share of the highest entropy from which on the map hides the scan

# inches, as of a page with two columns
_WIDTH, _HEIGHT, _SMALLEST = 7.2, 8.4, 0.5
_LEFT, _GAP, _LINE = 0.36, 0.04, 0.16
_POINTS = 8.0
_DPI = 250


@dataclass(frozen=True)
class _Plane:
    """A way to cut an RAS array, and what lies at the left, right, bottom and top of the picture."""

    name: str
    axis: int
    across: int
    up: int
    ends: str


_PLANES = (_Plane("Axial", 2, 0, 1, "RLPA"), _Plane("Coronal", 1, 0, 2, "RLIS"), _Plane("Sagittal", 0, 1, 2, "APIS"))


@dataclass(frozen=True)
class _Scene:
    """All volumes of a case on one RAS grid; ``members`` has its index last."""

    image: Array
    label_map: Array
    uncertainty: Array
    members: Array | None
    truth: Array | None
    spacing: tuple[float, ...]

    def each(self, change: Callable[[Array], Array]) -> _Scene:
        """Do the same to every volume."""
        names = ("image", "label_map", "uncertainty", "members", "truth")
        volumes = {name: getattr(self, name) for name in names}
        return replace(self, **{name: change(volume) for name, volume in volumes.items() if volume is not None})


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

    The slices are those of `pick_slices`. Axial and coronal pictures follow the radiological convention, the patient's
    right at the left; sagittal ones have anterior at the left. All pictures have one scale.

    Args:
        image: (X, Y, Z) scan; grey from the 1st to the 99th percentile of what is shown, NaN black.
        label_map: (X, Y, Z) whole numbers, 0 for the background.
        uncertainty: (X, Y, Z) entropy in nats; the colours go from 0 to ln K, the most that K classes allow.
        labels: names by label value, ``{1: "lesion"}``; a name for 0 is not used, K counts the background anyway.
        spacing: voxel size in mm along the axes of the arrays.
        title: name of the case.
        members: (N, X, Y, Z) label map of each member of the ensemble; without it the column is left out.
        truth: (X, Y, Z) reference, drawn dashed.
        affine: voxel to RAS+ in mm, as nibabel has it, by which the arrays are turned for display to the nearest
            axes; None when they lie as RAS already.

    Returns:
        The figure, with a canvas of its own: pyplot is not used, so any thread may draw.

    Raises:
        ValueError: when the arrays do not fit each other, or there is no label.
    """
    names = {int(value): str(name) for value, name in labels.items() if int(value) != 0}
    if not names:
        raise ValueError(f"labels: found {dict(labels)}, expected a name for at least one label other than 0")
    scene = _Scene(
        *(np.asarray(volume) for volume in (image, label_map, uncertainty)),
        members=None if members is None or not len(members) else np.asarray(members),
        truth=None if truth is None else np.asarray(truth),
        spacing=tuple(float(step) for step in spacing),
    )
    _check(scene)
    highest = math.log(len(names) + 1)
    scene = replace(scene, uncertainty=np.nan_to_num(scene.uncertainty.astype(np.float32, copy=False)))
    if scene.members is not None:
        scene = replace(scene, members=np.moveaxis(scene.members, 0, -1))
    orientation = _orientation(affine)
    scene = _turned(scene, orientation)
    slices = pick_slices(scene.label_map, scene.uncertainty, highest)
    cuts = [(plane, slices[plane.axis]) for plane in _shown(scene.image.shape)]
    where = [_in_file(plane.axis, index, scene.image.shape, orientation) for plane, index in cuts]
    box = crop_box(scene.label_map, scene.uncertainty, highest, scene.spacing, scene.truth)
    scene = scene.each(lambda volume: volume[box])
    cuts = [(plane, index - box[plane.axis].start) for plane, index in cuts]
    return _draw(scene, cuts, where, names, highest, title)


def save_overview(path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
    """Write the picture of `overview_figure`, which takes all further arguments; see `save_figure`."""
    save_figure(overview_figure(*args, **kwargs), path)


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: float = _DPI) -> None:
    """Write a figure under a hidden name, then rename: a reader sees the whole picture or none.

    Args:
        figure: what to write.
        path: name that ends in .png, .pdf, .svg or what else matplotlib writes.
        dpi: pixels per inch.

    Raises:
        UserError: when the format is not known, or the disk does not take the file.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: expected a name that ends in one of .{', .'.join(sorted(known))}")
    trial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        figure.savefig(trial, format=kind, dpi=dpi)
        os.replace(trial, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space on the disk, or name a folder that "
            "you may write to"
        ) from error
    finally:
        trial.unlink(missing_ok=True)  # there only when something failed, an interrupt included


def pick_slices(label_map: Array, uncertainty: Array, highest: float) -> tuple[int, int, int]:
    """Find the slice across each axis that shows most of what matters.

    A voxel weighs 1 when it is segmented, and its entropy over ``highest`` when it is segmented or at least half as
    uncertain as can be: a faint doubt all over the background has no say, a structure nearly found has.

    Args:
        label_map: (X, Y, Z) label map.
        uncertainty: (X, Y, Z) entropy.
        highest: the most that the entropy can be.

    Returns:
        An index along each axis; the middle one of several that are alike, so the middle slice when nothing matters.
    """
    weight = (label_map != 0) + np.where(_matters(label_map, uncertainty, highest), uncertainty / highest, 0)
    totals = (weight.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3))
    best = [np.flatnonzero(np.isclose(total, total.max())) for total in totals]
    return tuple(int(alike[len(alike) // 2]) for alike in best)  # type: ignore[return-value]


def crop_box(
    label_map: Array, uncertainty: Array, highest: float, spacing: Sequence[float], truth: Array | None = None
) -> tuple[slice, slice, slice]:
    """Find the part of the volume to show: what is segmented, true, or greatly uncertain, with a generous margin.

    Args:
        label_map: (X, Y, Z) label map.
        uncertainty: (X, Y, Z) entropy; voxels from half of ``highest`` on belong to the box.
        highest: the most that the entropy can be.
        spacing: voxel size in mm.
        truth: (X, Y, Z) reference.

    Returns:
        A slice per axis: the bounding box and, on all sides, half its largest side or 20 mm, whichever is more;
        everything when there is nothing to bound.
    """
    found = _matters(label_map, uncertainty, highest)
    if truth is not None:
        found |= truth != 0
    if not found.any():
        return tuple(slice(0, size) for size in found.shape)  # type: ignore[return-value]
    ends = [np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    sides = [(last - first + 1) * step for (first, last), step in zip(ends, spacing, strict=True)]
    margin = max(_MARGIN_MM, max(sides) / 2)
    around = [math.ceil(margin / step) for step in spacing]
    return tuple(  # type: ignore[return-value]
        slice(max(0, int(first) - more), min(size, int(last) + 1 + more))
        for (first, last), more, size in zip(ends, around, found.shape, strict=True)
    )


def _check(scene: _Scene) -> None:
    shape = scene.image.shape
    shapes = {"label_map": scene.label_map.shape, "uncertainty": scene.uncertainty.shape}
    if scene.truth is not None:
        shapes["truth"] = scene.truth.shape
    if scene.members is not None:
        shapes["members' last axes"] = scene.members.shape[1:]
    if len(shape) != 3 or not all(shape):
        raise ValueError(f"image: found shape {shape}, expected (X, Y, Z), each at least 1")
    for name, found in shapes.items():
        if found != shape:
            raise ValueError(f"{name}: found shape {found}, expected {shape} as of the image")
    if len(scene.spacing) != 3 or not all(0 < step < math.inf for step in scene.spacing):
        raise ValueError(f"spacing: found {scene.spacing}, expected three positive numbers of mm")


def _matters(label_map: Array, uncertainty: Array, highest: float) -> Array:
    return (label_map != 0) | (uncertainty >= highest / 2)


def _orientation(affine: Array | None) -> Array:
    """Tell for each axis of the arrays which RAS axis it is nearest to, and whether it runs against it (-1)."""
    orientation = io_orientation(np.eye(4) if affine is None else affine)
    if np.isnan(orientation).any():
        raise ValueError(f"affine: found {np.asarray(affine).tolist()}, expected three axes that differ")
    return orientation.astype(int)


def _turned(scene: _Scene, orientation: Array) -> _Scene:
    """Flip and swap the axes so that they run to the patient's right, front and head."""
    spacing = [scene.spacing[int(axis)] for axis in np.argsort(orientation[:, 0])]
    return replace(scene.each(lambda volume: apply_orientation(volume, orientation)), spacing=tuple(spacing))


def _in_file(axis: int, index: int, shape: Sequence[int], orientation: Array) -> str:
    """Name a slice by its index in the arrays as they were given."""
    source = int(np.flatnonzero(orientation[:, 0] == axis)[0])
    number = index if orientation[source, 1] > 0 else shape[axis] - 1 - index
    return f"{'ijk'[source]} = {number}"


def _shown(shape: Sequence[int]) -> list[_Plane]:
    """Planes that are more than a line."""
    return [plane for plane in _PLANES if shape[plane.across] > 1 and shape[plane.up] > 1] or [_PLANES[0]]


def _picture(volume: Array, plane: _Plane, index: int) -> Array:
    """Cut an RAS volume: rows from the top down, columns from the left."""
    return np.take(volume, index, axis=plane.axis)[::-1, ::-1].swapaxes(0, 1)


def _window(image: Array) -> tuple[float, float]:
    """Black and white of the scan."""
    step = max(1, round((image.size / 2e6) ** (1 / 3)))  # millions of voxels tell as much as all
    values = image[::step, ::step, ::step]
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _WINDOW))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)  # a constant image is grey


def _heat() -> Colormap:
    """Magma, transparent where there is next to no entropy, so that the scan is seen below."""
    colours = colormaps["magma"](np.linspace(0, 1, 256))
    colours[:, 3] = np.clip(np.linspace(0, 1 / _OPAQUE, 256), 0, 1)
    return ListedColormap(colours)


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches, and ``scale`` in inches per mm."""

    scale: float
    column: float
    rows: tuple[float, ...]
    top: float
    bottom: float
    columns: int

    @property
    def size(self) -> tuple[float, float]:
        width = _LEFT + self.columns * (self.column + _GAP)
        return width, self.top + sum(self.rows) + _GAP * (len(self.rows) - 1) + self.bottom

    def left(self, column: int) -> float:
        return _LEFT + column * (self.column + _GAP)

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Place a picture, in inches from the lower left."""
        above = self.top + sum(self.rows[: row + 1]) + _GAP * row
        return self.left(column), self.size[1] - above, self.column, self.rows[row]

    def share(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Turn inches into parts of the figure."""
        whole = self.size
        return left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]


def _lay_out(sizes: Sequence[tuple[float, float]], columns: int, top: float, bottom: float) -> _Layout:
    """Give every picture, ``sizes`` in mm, as much room as the page has, all at one scale."""
    widest = max(width for width, _ in sizes)
    room = (_WIDTH - _LEFT) / columns - _GAP
    scale = min(room / widest, (_HEIGHT - top - bottom) / sum(height for _, height in sizes))
    rows = tuple(max(_SMALLEST, height * scale) for _, height in sizes)
    return _Layout(scale, max(widest * scale, 0.7 * room), rows, top, bottom, columns)


def _draw(
    scene: _Scene,
    cuts: Sequence[tuple[_Plane, int]],
    where: Sequence[str],
    names: Mapping[int, str],
    highest: float,
    title: str,
) -> Figure:
    """Put the picture together: a row for each cut, a column for each thing to see."""
    colours = _colours(scene, names)
    heat = _heat()
    low, high = _window(scene.image)

    def segmentation(axes: Axes, plane: _Plane, index: int) -> None:
        _contours(axes, scene.label_map, plane, index, scene.spacing, colours, linewidths=1.1)
        if scene.truth is not None:
            white = dict.fromkeys(colours, _TRUTH)
            _contours(axes, scene.truth, plane, index, scene.spacing, white, linewidths=0.8, linestyles=(0, (2, 1.5)))

    def members(axes: Axes, plane: _Plane, index: int) -> None:
        assert scene.members is not None
        for member in np.moveaxis(scene.members, -1, 0):
            _contours(axes, member, plane, index, scene.spacing, colours, linewidths=0.5, alpha=0.8)

    def entropy(axes: Axes, plane: _Plane, index: int) -> None:
        _show(axes, _picture(scene.uncertainty, plane, index), _size(scene, plane), heat, (0, highest))

    columns: list[tuple[str, Callable[[Axes, _Plane, int], None] | None]] = [("Image", None)]
    columns.append(("Segmentation", segmentation))
    if scene.members is not None:
        count = scene.members.shape[-1]
        columns.append((f"{count} member{'s' if count > 1 else ''}", members))
    columns.append(("Entropy", entropy))

    legend = _legend(scene, names, colours)
    top = _LINE * (2.5 if title else 1.3)
    sizes = [_size(scene, plane) for plane, _ in cuts]
    layout = _lay_out(sizes, len(columns), top, bottom=0)
    room = layout.left(len(columns) - 1) - _LEFT
    across = _fitting(legend, room)
    layout = _lay_out(sizes, len(columns), top, bottom=_LINE * (math.ceil(len(legend) / across) + 2.3))

    figure = Figure(figsize=layout.size, facecolor="white")
    FigureCanvasAgg(figure)
    for row, (plane, index) in enumerate(cuts):
        for column, (_, paint) in enumerate(columns):
            axes = _panel(figure, layout, row, column, sizes[row])
            _show(axes, _picture(scene.image, plane, index), sizes[row], colormaps["gray"], (low, high))
            if paint is not None:
                paint(axes, plane, index)
            if column == 0:
                _sides(axes, plane.ends)
        _text(figure, layout, 0.13, layout.box(row, 0)[1] + layout.rows[row] / 2, plane.name, weight="bold")
        _text(figure, layout, 0.27, layout.box(row, 0)[1] + layout.rows[row] / 2, where[row], size=_POINTS - 1)
    _scale_bar(figure.axes[0], layout)
    _heads(figure, layout, [head for head, _ in columns], title)
    _colour_bar(figure, layout, heat, highest)
    _captions(figure, layout, legend, across, not (scene.label_map != 0).any())
    return figure


def _size(scene: _Scene, plane: _Plane) -> tuple[float, float]:
    """Width and height of a cut in mm."""
    return tuple(scene.image.shape[axis] * scene.spacing[axis] for axis in (plane.across, plane.up))  # type: ignore


def _panel(figure: Figure, layout: _Layout, row: int, column: int, size: tuple[float, float]) -> Axes:
    """Make a black field with the cut in its middle; its units are mm, from the upper left of the cut."""
    box = layout.box(row, column)
    axes = figure.add_axes(layout.share(*box), facecolor="black", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    width, height = box[2] / layout.scale, box[3] / layout.scale
    axes.set_xlim((size[0] - width) / 2, (size[0] + width) / 2)
    axes.set_ylim((size[1] + height) / 2, (size[1] - height) / 2)
    axes.set_autoscale_on(False)
    return axes


def _show(
    axes: Axes, picture: Array, size: tuple[float, float], colours: Colormap, limits: tuple[float, float]
) -> None:
    """Show an array over the whole cut, smooth between voxels; what is not finite is left out."""
    axes.imshow(
        np.ma.masked_invalid(picture.astype(np.float32)),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, size[0], size[1], 0),
        interpolation="hanning",
        aspect="auto",
    )


def _contours(
    axes: Axes,
    volume: Array,
    plane: _Plane,
    index: int,
    spacing: Sequence[float],
    colours: Mapping[int, str],
    **style: Any,
) -> None:
    """Draw the border of each label that the cut meets, closed even at the edge of the volume."""
    picture = np.pad(_picture(volume, plane, index), 1)
    down, right = ((np.arange(size) - 0.5) * step for size, step in zip(picture.shape, _steps(plane, spacing)))
    for value, colour in colours.items():
        mask = picture == value
        if mask.any():
            axes.contour(right, down, mask.astype(np.float32), levels=[0.5], colors=[colour], **style)


def _steps(plane: _Plane, spacing: Sequence[float]) -> tuple[float, float]:
    """Height and width of a pixel."""
    return spacing[plane.up], spacing[plane.across]


def _colours(scene: _Scene, names: Mapping[int, str]) -> dict[int, str]:
    """Give each label that has a name or a voxel its colour: by its rank, so that all cases of a task look alike."""
    volumes = [volume for volume in (scene.label_map, scene.members, scene.truth) if volume is not None]
    found = {int(value) for volume in volumes for value in np.unique(volume)} - {0}
    values = sorted(names) + sorted(found - set(names))
    return {value: COLOURS[rank % len(COLOURS)] for rank, value in enumerate(values)}


def _legend(scene: _Scene, names: Mapping[int, str], colours: Mapping[int, str]) -> list[tuple[str, dict[str, Any]]]:
    """List labels with the style of their line; of many, only those that were found."""
    found = {int(value) for value in np.unique(scene.label_map)}
    entries = []
    for value, colour in colours.items():
        if value in found or len(colours) <= len(COLOURS):
            name = names.get(value, f"label {value}")
            entries.append((name if value in found else f"{name} (none)", {"color": colour, "linewidth": 2}))
    if scene.truth is not None:
        entries.append(("reference", {"color": "black", "linewidth": 1, "linestyle": (0, (2, 1.5))}))
    return entries
