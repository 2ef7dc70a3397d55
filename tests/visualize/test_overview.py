"""The overview of a case shows every volume, in any orientation and shape, and is written completely or not at all."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from monai_pdddpm.visualize import overview_figure, save_overview
from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.colors import PALETTE

SHAPE = (40, 50, 30)
IDENTITY = np.eye(4)
LABELS = {1: "anterior", 2: "posterior"}


def volumes(shape=SHAPE):
    """Return a scan with two labels, uncertainty at their border, and two members."""
    image = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    seg = np.zeros(shape, np.uint8)
    seg[15:25, 20:30, 10:20] = 1
    seg[15:25, 30:36, 10:20] = 2
    entropy = np.zeros(shape, np.float32)
    entropy[15:25, 29:31, 10:20] = 0.6
    return image, seg, entropy


def draw(*arrays, labels=LABELS, affine=IDENTITY, members=None, title=""):
    image, seg, entropy = arrays or volumes()
    maps = {"image": image, "seg": seg, "entropy": entropy, "members": members}
    return overview_figure(CaseView(title=title, labels=labels, affine=affine, **maps))


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


def texts(figure):
    """Return all texts of a figure."""
    found = [*figure.texts, *panel(figure, "legend").get_legend().get_texts()]
    return [text.get_text() for text in found + [t for axes in figure.axes for t in (axes.title, *axes.texts)]]


def contour_colors(axes):
    return {to_hex(color).upper() for lines in axes.collections for color in lines.get_edgecolor()}


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)


def panel_pixels(figure, axes):
    picture = pixels(figure)
    x0, y0, x1, y1 = (round(value) for value in axes.get_window_extent().extents)
    return picture[picture.shape[0] - y1 : picture.shape[0] - y0, x0:x1].mean(axis=-1)


def test_three_rows_and_a_column_for_each_thing_to_see():
    _, seg, _ = volumes()
    members = np.stack([seg, np.roll(seg, 2, 0)])

    with_members = draw(members=members, title="scan_1")
    without = draw()

    assert len(with_members.axes) == 3 * 4 + 2  # and legend and color bar
    assert len(without.axes) == 3 * 3 + 2
    written = texts(with_members)
    for text in ("scan_1", "Image", "Segmentation", "2 members", "Entropy (nats)", "Axial", "k = 15", "Sagittal"):
        assert text in written
    assert any("Patient's right is at the left" in text.replace("\n", " ") for text in written)
    assert not any("member" in text for text in texts(without))
    assert "1 member" in texts(draw(members=members[:1]))


def test_labels_and_members_have_the_same_colors():
    _, seg, _ = volumes()
    figure = draw(members=np.stack([seg] * 3))

    axial = figure.axes[:4]

    assert contour_colors(axial[0]) == set()
    assert contour_colors(axial[1]) == set(PALETTE[:2])
    assert len(axial[1].collections) == 2
    assert contour_colors(axial[2]) == set(PALETTE[:2])
    assert len(axial[2].collections) == 6
    legend = panel(figure, "legend").get_legend()
    assert [line.get_color() for line in legend.get_lines()] == list(PALETTE[:2])


def test_outline_lies_on_the_border_of_the_structure_in_mm():
    figure = draw(affine=np.diag([0.5, 1.0, 2.0, 1.0]))

    corners = np.concatenate([path.vertices for path in figure.axes[1].collections[0].get_paths()])  # label 1

    # right at the left, anterior up: x from (40 - 25) / 2 on, y from 50 - 30 on
    np.testing.assert_allclose(corners.min(0), [7.5, 20.0], atol=1e-6)
    np.testing.assert_allclose(corners.max(0), [12.5, 30.0], atol=1e-6)


def test_entropy_has_one_scale_for_all_cases():
    figure = draw()

    overlay = figure.axes[2].images[1]
    bar = panel(figure, "bar").child_axes[0]

    assert overlay.get_clim() == pytest.approx((0, np.log(3)))
    assert bar.get_xticks()[-1] == pytest.approx(np.log(3))
    assert overlay.get_array().max() == pytest.approx(0.6)
    assert overlay.cmap(0.0)[3] == 0  # no entropy, nothing over the scan
    assert overlay.cmap(0.5)[3] == 1


def test_marks_show_the_other_planes():
    image, seg, entropy = volumes()
    figure = draw(image, seg, entropy, affine=np.diag([0.5, 1.0, 2.0, 1.0]))
    assert {"i = 20", "j = 30", "k = 15"} <= set(texts(figure))

    panels = figure.axes[1:9:3]  # axial, coronal, sagittal
    marks = [{tuple(point) for line in panel.lines for point in line.get_xydata()} for panel in panels]

    # right at the left, anterior and superior up: from the middle of a voxel to the far end of its axis
    right, front, top = 0.5 * (40 - 20.5), 1.0 * (50 - 30.5), 2.0 * (30 - 15.5)
    across_and_down = [(right, front, 20.0, 50.0), (right, top, 20.0, 60.0), (front, top, 50.0, 60.0)]
    for seen, (across, down, width, height) in zip(marks, across_and_down, strict=True):
        assert {(across, 0.0), (across, height), (0.0, down), (width, down)} <= seen
        assert len(seen) == 8
    assert not figure.axes[2].lines  # only in this column


def test_legend_names_labels_without_voxels():
    image, seg, entropy = volumes()
    written = texts(draw(image, np.where(seg == 2, 0, seg), entropy))

    assert "anterior" in written
    assert "posterior (none)" in written
    assert "nothing segmented" not in written


def test_names_with_dollars_are_drawn_as_they_are():
    figure = draw(labels={1: "$b__c$", 2: "posterior"}, title="$a__b$")
    pixels(figure)  # mathematics with two subscripts would be an error
    assert {"$a__b$", "$b__c$"} <= set(texts(figure))


def test_legend_of_many_labels_names_only_those_found():
    written = texts(draw(labels={value: f"organ {value}" for value in range(1, 101)}))

    assert {text for text in written if "organ" in text} == {"organ 1", "organ 2"}


def test_empty_segmentation_shows_the_middle_slices():
    image, seg, entropy = volumes()
    written = texts(draw(image, seg * 0, entropy * 0, members=seg[None] * 0))

    assert written.count("nothing segmented") == 3
    assert {"i = 20", "j = 25", "k = 15"} <= set(written)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slice_gives_a_single_row(axis):
    arrays = (np.take(volume, [20], axis=axis) for volume in volumes((40, 40, 40)))
    figure = draw(*arrays)

    assert len(figure.axes) == 3 + 2
    assert {"Sagittal", "Coronal", "Axial"} & set(texts(figure)) == {("Sagittal", "Coronal", "Axial")[axis]}


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 90, 3), (300, 4, 4), (6, 6, 200)])
def test_any_shape_can_be_drawn(shape):
    image = np.zeros(shape)
    figure = draw(image, image.astype(int), image, members=image[None])
    pixels(figure)

    assert max(figure.get_size_inches()) < 12


@pytest.mark.parametrize("value", [0.0, 1e6, np.nan, np.inf])
def test_constant_image_is_drawn(value):
    image, seg, entropy = volumes()
    figure = draw(np.full_like(image, value), seg, entropy)
    shown = panel_pixels(figure, figure.axes[0])

    assert np.median(shown) == pytest.approx(127 if np.isfinite(value) else 0, abs=2)


def test_voxels_that_are_not_finite_are_black_and_do_not_change_the_gray_window():
    image, seg, entropy = volumes()
    whole = draw(image, seg, entropy).axes[0].images[0].get_clim()
    image[:20] = np.nan
    image[0, 0] = np.inf
    entropy[0] = np.nan
    figure = draw(image, seg, entropy)
    shown = panel_pixels(figure, figure.axes[0])

    assert figure.axes[0].images[0].get_clim() == pytest.approx(whole, abs=2)
    # the first half along X is the patient's left, which is at the right
    assert np.median(shown[:, -shown.shape[1] // 4 :]) == 0
    assert np.median(shown[:, : shown.shape[1] // 2]) > 60


@pytest.mark.parametrize("sign", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_right_front_and_top_are_at_the_upper_left_of_the_printed_picture(order, sign):
    image = np.zeros((30, 30, 30), np.float32)
    image[20:, 20:, 20:] = 1  # towards R, A, S
    mark = np.zeros_like(image)
    mark[25, 25, 25] = 1
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, source in enumerate(order):  # axis of the file that RAS axis `source` lies along
        affine[source, axis] = sign[source]
    flips = tuple(slice(None, None, step) for step in sign)
    image, mark = (volume[flips].transpose(order) for volume in (image, mark))

    figure = draw(image, mark.astype(int), mark * 0, affine=affine)

    for panel in figure.axes[0:9:3]:
        shown = panel_pixels(figure, panel)
        rows, columns = shown.shape[0] // 3, shown.shape[1] // 3
        corners = {
            "upper left": shown[:rows, :columns],
            "upper right": shown[:rows, -columns:],
            "lower left": shown[-rows:, :columns],
            "lower right": shown[-rows:, -columns:],
        }
        means = {name: part.mean() for name, part in corners.items()}
        assert max(means, key=means.get) == "upper left"
        assert means["upper left"] > 200


def test_large_scan_is_cropped_with_a_note():
    shape = (200, 200, 100)
    image, seg = np.zeros(shape), np.zeros(shape, np.uint8)
    seg[100:104, 100:104, 50:54] = 1

    figure = draw(image, seg, image)

    assert figure.axes[0].images[0].get_array().shape == (44, 44)
    assert any("Cropped" in text for text in texts(figure))
    assert "k = 52" in texts(figure)  # as in the file, not as in the crop
    assert not any("Cropped" in text for text in texts(draw()))


def test_threads_draw_the_same_picture_without_pyplot(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    paths[0].write_bytes(b"old")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: save_overview(path, draw()), paths))

    assert len({path.read_bytes() for path in paths}) == 1
    assert sorted(tmp_path.iterdir()) == paths
    assert plt.imread(paths[0]).shape[2] == 4
    assert plt.get_fignums() == []
