"""How trainings went: loss and validation from TensorBoard's event files, as one picture.

``python -m monai_pdddpm.visualize.curves RUN_DIR [RUN_DIR ...] -o picture.png``
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from monai_pdddpm.utils.errors import UserError, friendly_errors
from monai_pdddpm.visualize.overview import save_figure

__all__ = ["curves_figure", "main", "read_series", "run_folders", "smoothed"]

Array = NDArray[Any]
Series = tuple[Array, Array]

EVENTS = "events.out.tfevents.*"
# Okabe and Ito's colours, which the colour-blind tell apart; those that stand out most from white come first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_LINES = ("-", "--", ":")
_WIDTH, _ALONE, _HEIGHT = 7.2, 4.5, 2.2  # inches: of the page, of a panel alone, of a row
_SIGMA = 0.01  # of the length of a long series, by which it is smoothed
_MANY = 100  # values from which on a series is smoothed


def run_folders(folders: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Find the runs in folders: each folder that holds event files itself, at any depth.

    Args:
        folders: run folders, or folders of run folders.

    Returns:
        The runs by a short name that tells them apart, in the order given.

    Raises:
        UserError: when a folder does not exist, or there are no event files in it.
    """
    runs: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the output folder of a training")
        found = sorted({file.parent for file in folder.rglob(EVENTS)})
        if not found:
            raise UserError(
                f"{folder}: found no TensorBoard events ({EVENTS}); name the output folder of a training that has begun"
            )
        runs += [run for run in found if run not in runs]
    return dict(zip(_short_names(runs), runs, strict=True))


def read_series(run_dir: str | os.PathLike[str]) -> dict[str, Series]:
    """Read all scalars of a run, whose training may have been broken and resumed.

    Of several values for one step the one written last counts, whichever event file it is in.

    Args:
        run_dir: folder with event files.

    Returns:
        Steps, ascending, and values by tag.

    Raises:
        UserError: when the folder holds no event file, or none with a scalar.
    """
    files = sorted(Path(run_dir).glob(EVENTS))
    if not files:
        raise UserError(f"{run_dir}: found no TensorBoard events ({EVENTS}); name the output folder of a training")
    events: dict[str, list[tuple[float, int, float]]] = {}
    for file in files:
        log = EventAccumulator(str(file), size_guidance={SCALARS: 0}, purge_orphaned_data=False)
        log.Reload()
        for tag in log.Tags()[SCALARS]:
            events.setdefault(tag, []).extend((event.wall_time, event.step, event.value) for event in log.Scalars(tag))
    if not events:
        raise UserError(f"{run_dir}: found event files without a single value; wait until the training has begun")
    return {tag: _merged(found) for tag, found in sorted(events.items())}


def smoothed(values: Array, sigma: float) -> Array:
    """Average each value with its neighbours on both sides, so that the curve does not lag behind.

    Args:
        values: numbers; those that are not finite are passed over.
        sigma: width of the Gaussian weights, in values; 0 leaves the values alone.

    Returns:
        As many numbers, NaN where no value around is finite.
    """
    if sigma <= 0:
        return np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    total = gaussian_filter1d(np.where(finite, values, 0.0), sigma, mode="constant", output=np.float64)
    weight = gaussian_filter1d(finite.astype(np.float64), sigma, mode="constant")
    return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 1e-9)


def curves_figure(runs: Mapping[str, Mapping[str, Series]]) -> Figure:
    """Draw a panel per tag, losses first, then what most runs have, and in it a line per run that has the tag.

    Long series are smoothed, with the raw values pale behind; a scale is logarithmic where losses span a factor of
    20 or more. The legend gives the last (smoothed) value.

    Args:
        runs: series by tag, by name of the run, as of `read_series`.

    Returns:
        The figure, with a canvas of its own.
    """
    often = Counter(tag for series in runs.values() for tag in series)
    tags = sorted(often, key=lambda tag: ("loss" not in tag.lower(), -often[tag], tag))
    across = min(len(tags), 2 if len(tags) in (2, 4) else 3)
    down = math.ceil(len(tags) / across)
    size = (_WIDTH if across > 1 else _ALONE, _HEIGHT * down)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for number, tag in enumerate(tags):
        axes = figure.add_subplot(down, across, number + 1)
        for rank, (name, series) in enumerate(runs.items()):
            if tag in series:
                style = {"color": COLOURS[rank % len(COLOURS)], "linestyle": _LINES[rank // len(COLOURS) % len(_LINES)]}
                _line(axes, name, *series[tag], style)
        _finish(axes, tag)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the curves of runs from the command line."""
    friendly_errors()
    parser = argparse.ArgumentParser(
        prog="python -m monai_pdddpm.visualize.curves",
        description="Draw loss and validation of trainings from their TensorBoard event files.",
    )
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", help="output folder of a training, or a folder of them")
    parser.add_argument("-o", "--output", metavar="PICTURE", required=True, help="file to write: .png, .pdf, .svg")
    arguments = parser.parse_args(argv)
    runs = {name: read_series(folder) for name, folder in run_folders(arguments.runs).items()}
    save_figure(curves_figure(runs), arguments.output)
    print(arguments.output)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Take as many last parts of each path as tell them all apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts), default=0)):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _merged(events: Sequence[tuple[float, int, float]]) -> Series:
    last = {step: value for _, step, value in sorted(events, key=lambda event: event[0])}
    steps = sorted(last)
    return np.array(steps), np.array([last[step] for step in steps])


def _line(axes: Axes, name: str, steps: Array, values: Array, style: Mapping[str, Any]) -> None:
    line = values
    if len(values) >= _MANY:
        line = smoothed(values, _SIGMA * len(values))
        axes.plot(steps, values, color=style["color"], alpha=0.2, linewidth=0.5, rasterized=True)
    marker = "o" if len(values) <= 30 else None
    finite = line[np.isfinite(line)]
    last = f"{finite[-1]:.3g}" if finite.size else "not finite"
    axes.plot(steps, line, linewidth=1.3, marker=marker, markersize=2.5, label=f"{name} (last {last})", **style)


def _finish(axes: Axes, tag: str) -> None:
    """Name the axes, and choose their scale."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    values = values[np.isfinite(values)]
    if "loss" in tag.lower() and values.size and values.min() > 0 and values.max() >= 20 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(tag.replace("_", " "), fontsize=9, weight="bold", loc="left")
    axes.set_xlabel("epoch" if tag.startswith("val") else "iteration", fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="best")


if __name__ == "__main__":
    main()
