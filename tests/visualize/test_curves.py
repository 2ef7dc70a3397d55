"""Curves of a run are read as it went, however often it was broken and resumed."""

import subprocess
import sys

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize.curves import curves_figure, main, read_series, run_folders, smoothed


def write(folder, tag, points, start=1000.0):
    """Write one event file; ``points`` are (step, value), a second apart."""
    with SummaryWriter(str(folder)) as writer:
        for number, (step, value) in enumerate(points):
            writer.add_scalar(tag, value, step, walltime=start + number)


def test_series_of_one_file(tmp_path):
    write(tmp_path, "train_loss", [(1, 2.0), (2, 1.5), (3, 1.0)])
    write(tmp_path, "val_mean_dice", [(5, 0.5), (10, 0.75)])

    series = read_series(tmp_path)

    assert set(series) == {"train_loss", "val_mean_dice"}
    np.testing.assert_array_equal(series["train_loss"], [[1, 2, 3], [2.0, 1.5, 1.0]])
    np.testing.assert_array_equal(series["val_mean_dice"], [[5, 10], [0.5, 0.75]])


def test_resumed_run_takes_the_place_of_the_broken_one(tmp_path):
    write(tmp_path, "train_loss", [(step, 1.0) for step in range(1, 6)], start=1000)
    write(tmp_path, "train_loss", [(step, 2.0) for step in range(4, 8)], start=2000)
    write(tmp_path, "train_loss", [(step, 3.0) for step in range(7, 9)], start=3000)

    steps, values = read_series(tmp_path)["train_loss"]

    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(values, [1, 1, 1, 2, 2, 2, 3, 3])


def test_what_was_written_last_wins_whatever_the_names_of_the_files(tmp_path):
    write(tmp_path, "train_loss", [(1, 2.0), (2, 2.0)], start=2000)  # the first file by name is the later one
    write(tmp_path, "train_loss", [(2, 1.0), (3, 1.0)], start=1000)

    np.testing.assert_array_equal(read_series(tmp_path)["train_loss"], [[1, 2, 3], [2.0, 2.0, 1.0]])


def test_long_series_are_read_whole(tmp_path):
    write(tmp_path, "train_loss", [(step, 1 / step) for step in range(1, 12001)])  # more than TensorBoard keeps

    steps, values = read_series(tmp_path)["train_loss"]

    np.testing.assert_array_equal(steps, np.arange(1, 12001))
    np.testing.assert_allclose(values, 1 / steps, rtol=1e-6)


def test_file_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path):
    write(tmp_path, "train_loss", [(1, 2.0), (2, 1.0)])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])

    np.testing.assert_array_equal(read_series(tmp_path)["train_loss"], [[1], [2.0]])


def test_runs_are_found_in_folders_of_runs_and_named_shortly(tmp_path):
    for run in ("a/runs/segmenter", "a/runs/denoiser", "b/runs/segmenter"):
        write(tmp_path / run, "train_loss", [(1, 1.0)])

    assert list(run_folders([tmp_path / "a" / "runs"])) == ["denoiser", "segmenter"]
    assert list(run_folders([tmp_path / "a/runs/segmenter", tmp_path / "a" / "runs"])) == ["segmenter", "denoiser"]
    both = run_folders([tmp_path / "a/runs/segmenter", tmp_path / "b"])
    assert both == {
        "a/runs/segmenter": tmp_path / "a/runs/segmenter",
        "b/runs/segmenter": tmp_path / "b/runs/segmenter",
    }


def test_folder_without_events_is_told_in_one_line(tmp_path):
    (tmp_path / "checkpoint.pt").touch()

    for read in (lambda folder: run_folders([folder]), read_series):
        with pytest.raises(UserError, match=r"no TensorBoard events"):
            read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        run_folders([tmp_path / "runs"])


def test_events_without_values_are_told_in_one_line(tmp_path):
    SummaryWriter(str(tmp_path)).close()

    with pytest.raises(UserError, match="without a single value"):
        read_series(tmp_path)


def test_smoothing_does_not_move_a_line_nor_pass_on_what_is_not_finite():
    line = np.linspace(3, 1, 200)
    noise = np.random.default_rng(0).normal(size=2000)
    broken = np.where(np.arange(200) == 100, np.nan, 2.0)

    np.testing.assert_allclose(smoothed(line, 5)[25:-25], line[25:-25])
    # white noise under Gaussian weights: its deviation falls by sqrt(2 sqrt(pi) sigma)
    assert smoothed(noise, 10).std() == pytest.approx(1 / np.sqrt(2 * np.sqrt(np.pi) * 10), rel=0.25)
    np.testing.assert_allclose(smoothed(broken, 5), 2.0)
    assert np.isnan(smoothed(np.full(50, np.nan), 5)).all()
    np.testing.assert_array_equal(smoothed(line, 0), line)


def test_figure_has_a_panel_per_tag_and_a_line_per_run():
    steps = np.arange(1, 301)
    segmenter = {"val_mean_dice": (steps[:5], np.linspace(0.5, 0.875, 5)), "train_loss": (steps, 30.0 / steps)}
    denoiser = segmenter | {"val_ece": (steps[:5], np.full(5, np.nan))}

    figure = curves_figure({"segmenter": segmenter, "denoiser": denoiser})

    assert [axes.get_title(loc="left") for axes in figure.axes] == ["train loss", "val mean dice", "val ece"]
    loss, dice, ece = figure.axes
    assert loss.get_xlabel() == "iteration"
    assert dice.get_xlabel() == "epoch"
    assert len(loss.lines) == 4  # raw and smoothed
    assert loss.get_yscale() == "log"
    np.testing.assert_array_equal(dice.lines[0].get_xydata(), np.column_stack(segmenter["val_mean_dice"]))
    assert dice.get_yscale() == "linear"
    assert [text.get_text() for text in dice.get_legend().get_texts()] == [
        "segmenter (last 0.875)",
        "denoiser (last 0.875)",
    ]
    assert [text.get_text() for text in ece.get_legend().get_texts()] == ["denoiser (last not finite)"]
    figure.canvas.draw()


def test_command_writes_the_picture_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    write(tmp_path / "segmenter", "train_loss", [(1, 2.0), (2, 1.0)])
    (tmp_path / "out").mkdir()

    main([str(tmp_path / "segmenter"), "-o", str(tmp_path / "out" / "curves.svg")])

    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "curves.svg")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["curves.svg"]


@pytest.mark.slow
def test_command_line_tells_a_mistake_in_one_line(tmp_path):
    command = [sys.executable, "-m", "monai_pdddpm.visualize.curves", str(tmp_path), "-o", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: found no TensorBoard events")
    assert len(done.stderr.splitlines()) == 1
