"""Slices go through what matters, and stand the right way up whatever way the file lies."""

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from monai_pdddpm.visualize.cuts import (
    PLANES,
    Case,
    crop_box,
    cut,
    index_in_file,
    orientation_of,
    pick_slices,
    planes_of,
)

SHAPE = (12, 9, 7)
SPACING = (1.0, 1.5, 4.0)
LN2 = float(np.log(2))


def stored_as(volume, codes, degrees=0.0):
    """Give a RAS volume and its affine as a file has them whose axes run as ``codes`` says, a little oblique."""
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    affine[:3, :3] = turn @ np.diag(SPACING)
    orientation = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(codes))
    return apply_orientation(volume, orientation), affine @ inv_ornt_aff(orientation, volume.shape)


def blob(shape=(20, 20, 20), low=(4, 8, 3), high=(10, 12, 6)):
    volume = np.zeros(shape, dtype=np.uint8)
    volume[tuple(slice(first, last) for first, last in zip(low, high, strict=True))] = 1
    return volume


def case(label_map, uncertainty=None, spacing=(1.0, 1.0, 1.0), truth=None):
    uncertainty = np.zeros(label_map.shape, np.float32) if uncertainty is None else uncertainty
    return Case(label_map.astype(np.float32), label_map, uncertainty, spacing, truth=truth)


def test_slices_go_through_the_largest_area():
    label_map = blob()
    label_map[7, 3:17, 3:6] = 1  # a disc, the largest slice across the first axis
    none = np.zeros(label_map.shape)

    # across the others, the middle of those that are alike
    assert pick_slices(label_map, none, LN2) == (7, 10, 4)


def test_doubt_decides_between_slices_of_one_area():
    label_map = blob()
    doubt = np.zeros(label_map.shape)
    doubt[5, 9, 3] = 0.2 * LN2

    assert pick_slices(label_map, doubt, LN2) == (5, 9, 3)


@pytest.mark.parametrize(("doubt", "expected"), [(0.9, (2, 15, 17)), (0.1, (7, 10, 4))])
def test_doubt_outside_the_segmentation_counts_when_it_is_great(doubt, expected):
    label_map = blob()
    uncertainty = np.zeros(label_map.shape)
    uncertainty[2, 12:19, 14:20] = doubt * LN2  # 42 voxels; segmented are at most 24 in a slice
    uncertainty[0:5, 15, 14:20] = doubt * LN2
    uncertainty[0:5, 12:19, 17] = doubt * LN2

    assert pick_slices(label_map, uncertainty, LN2) == expected


@pytest.mark.parametrize("doubt", [0.0, 0.05])
def test_middle_slices_when_nothing_matters(doubt):
    nothing = np.zeros((10, 11, 1))

    assert pick_slices(nothing, nothing + doubt, LN2) == (5, 5, 0)


def test_a_structure_nearly_found_is_shown():
    uncertainty = np.zeros((10, 10, 10))
    uncertainty[2, 3, 8] = 0.6

    assert pick_slices(np.zeros((10, 10, 10)), uncertainty, LN2) == (2, 3, 8)


def test_crop_keeps_a_margin_in_mm():
    label_map = np.zeros((200, 200, 50), np.uint8)
    label_map[100:110, 60:70, 20:24] = 1  # 10 x 10 x 20 mm

    box = crop_box(case(label_map, spacing=(1.0, 1.0, 5.0)), LN2, (105, 65, 22))

    assert box == (slice(80, 130), slice(40, 90), slice(16, 28))


def test_crop_margin_grows_with_the_structure_and_stops_at_the_edge():
    label_map = np.zeros((400, 400, 100), np.uint8)
    label_map[100:200, 10:70, 0:100] = 1

    box = crop_box(case(label_map), LN2, (150, 40, 50))

    assert box == (slice(50, 250), slice(0, 200), slice(0, 100))  # X and Y alike, Y moved inside the volume


def test_crop_looks_only_at_the_slices_that_are_shown():
    label_map = np.zeros((200, 200, 200), np.uint8)
    label_map[100, 100, 100] = label_map[10, 10, 10] = 1

    box = crop_box(case(label_map), LN2, (100, 100, 100))

    assert box == (slice(80, 121),) * 3


def test_crop_holds_the_reference_and_great_doubt():
    truth, doubt = np.zeros((2, 200, 200, 200))
    truth[100, 100, 100] = 1
    doubt[110, 100, 100] = 0.5 * LN2
    doubt[150, 100, 100] = 0.4 * LN2

    box = crop_box(case(np.zeros((200, 200, 200)), doubt, truth=truth), LN2, (100, 100, 100))

    assert box[0] == slice(80, 131)


def test_crop_leaves_all_when_there_is_nothing():
    assert crop_box(case(np.zeros(SHAPE)), LN2, (0, 0, 0)) == tuple(slice(0, size) for size in SHAPE)


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIL", "SAR", "IPR", "ALS"])
def test_a_mark_lands_where_radiologists_look_for_it(codes, degrees):
    mark = np.zeros(SHAPE)
    mark[-1, -2, 1] = 1  # at the very right, one from the front, one from the bottom
    volume, affine = stored_as(mark, codes, degrees)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    orientation = orientation_of(affine)

    turned = case(volume, spacing=tuple(steps)).turned(orientation)
    places = {}
    for plane in PLANES:
        index = int(np.argwhere(turned.image)[0][plane.axis])
        view = turned.view(plane, index, "")
        places[plane.name] = tuple(np.argwhere(view.image)[0])
        assert view.size == pytest.approx(
            (SHAPE[plane.across] * SPACING[plane.across], SHAPE[plane.up] * SPACING[plane.up])
        )

    assert turned.spacing == pytest.approx(SPACING)
    assert places == {"Axial": (1, 0), "Coronal": (SHAPE[2] - 2, 0), "Sagittal": (SHAPE[2] - 2, 1)}  # (down, across)


@pytest.mark.parametrize("codes", ["RAS", "PIL", "SAR"])
def test_slices_are_named_as_in_the_file(codes):
    mark = np.zeros(SHAPE)
    mark[8, 2, 5] = 1
    volume, affine = stored_as(mark, codes)

    names = {index_in_file(axis, index, SHAPE, orientation_of(affine)) for axis, index in enumerate((8, 2, 5))}

    assert names == {f"{letter} = {index}" for letter, index in zip("ijk", np.argwhere(volume)[0], strict=True)}


def test_members_are_cut_like_the_scan():
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    members = np.stack([volume, -volume], axis=-1)

    for plane in PLANES:
        picture = cut(members, plane, 3)
        np.testing.assert_array_equal(picture[..., 0], cut(volume, plane, 3))
        np.testing.assert_array_equal(picture[..., 1], -cut(volume, plane, 3))


def test_planes_that_are_lines_are_left_out():
    assert [plane.name for plane in planes_of(SHAPE)] == ["Axial", "Coronal", "Sagittal"]
    assert [plane.name for plane in planes_of((30, 40, 1))] == ["Axial"]
    assert [plane.name for plane in planes_of((1, 40, 30))] == ["Sagittal"]
    assert [plane.name for plane in planes_of((1, 1, 1))] == ["Axial"]


def test_affine_with_an_axis_missing_is_refused():
    with pytest.raises(ValueError, match="three axes"):
        orientation_of(np.diag([1.0, 1.0, 0.0, 1.0]))
