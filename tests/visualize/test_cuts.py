"""Slices show segmented and part voxels, and are upright for any orientation of the file."""

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from monai_pdddpm.visualize.cuts import (
    PLANES,
    crop_box,
    cut,
    index_in_file,
    informative_slices,
    planes_of,
)

SHAPE = (12, 9, 7)
SPACING = (1.0, 1.5, 4.0)
LN2 = float(np.log(2))


def stored_as(volume, codes, degrees=0.0):
    """Return a RAS volume and its affine as stored with axes of the given codes, turned by some degrees."""
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    affine[:3, :3] = turn @ np.diag(SPACING)
    orientation = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(codes))
    return apply_orientation(volume, orientation), affine @ inv_ornt_aff(orientation, volume.shape)


def blob(shape=(20, 20, 20), low=(4, 8, 3), high=(10, 12, 6)):
    volume = np.zeros(shape, dtype=np.uint8)
    volume[tuple(slice(first, last) for first, last in zip(low, high, strict=True))] = 1
    return volume


def crop(seg, slices, entropy=None, spacing=(1.0, 1.0, 1.0)):
    return crop_box(seg, np.zeros(seg.shape) if entropy is None else entropy, spacing, LN2, slices)


def test_slices_go_through_the_largest_area():
    seg = blob()
    seg[7, 3:17, 3:6] = 1  # a disc, the largest slice across the first axis
    none = np.zeros(seg.shape)

    # across the other axes, the middle of equal slices
    assert informative_slices(seg, none, LN2) == (7, 10, 4)


def test_entropy_decides_between_slices_of_equal_area():
    seg = blob()
    part = np.zeros(seg.shape)
    part[5, 9, 3] = 0.2 * LN2

    assert informative_slices(seg, part, LN2) == (5, 9, 3)


@pytest.mark.parametrize(("part", "expected"), [(0.9, (2, 15, 17)), (0.1, (7, 10, 4))])
def test_high_entropy_outside_the_segmentation_counts(part, expected):
    seg = blob()
    entropy = np.zeros(seg.shape)
    entropy[2, 12:19, 14:20] = part * LN2  # 42 voxels; segmented are at most 24 in a slice
    entropy[0:5, 15, 14:20] = part * LN2
    entropy[0:5, 12:19, 17] = part * LN2

    assert informative_slices(seg, entropy, LN2) == expected


@pytest.mark.parametrize("part", [0.0, 0.05])
def test_middle_slices_of_an_empty_case(part):
    nothing = np.zeros((10, 11, 1))

    assert informative_slices(nothing, nothing + part, LN2) == (5, 5, 0)


def test_crop_keeps_a_margin_in_mm():
    seg = np.zeros((200, 200, 50), np.uint8)
    seg[100:110, 60:70, 20:24] = 1  # 10 x 10 x 20 mm

    box = crop(seg, (105, 65, 22), spacing=(1.0, 1.0, 5.0))

    assert box == (slice(80, 130), slice(40, 90), slice(16, 28))


def test_crop_margin_grows_with_the_structure_and_stops_at_the_edge():
    seg = np.zeros((400, 400, 100), np.uint8)
    seg[100:200, 10:70, 0:100] = 1

    box = crop(seg, (150, 40, 50))

    assert box == (slice(50, 250), slice(0, 200), slice(0, 100))  # X and Y alike, Y moved inside the volume


def test_crop_depends_only_on_the_shown_slices():
    seg = np.zeros((200, 200, 200), np.uint8)
    seg[100, 100, 100] = seg[10, 10, 10] = 1

    box = crop(seg, (100, 100, 100))

    assert box == (slice(80, 121),) * 3


def test_crop_contains_voxels_of_at_least_half_the_highest_entropy():
    seg, entropy = np.zeros((2, 200, 200, 200))
    seg[100, 100, 100] = 1
    entropy[110, 100, 100] = 0.5 * LN2
    entropy[150, 100, 100] = 0.4 * LN2

    assert crop(seg, (100, 100, 100), entropy)[0] == slice(80, 131)


def test_crop_of_an_empty_case_is_the_whole_volume():
    assert crop(np.zeros(SHAPE), (0, 0, 0)) == tuple(slice(0, size) for size in SHAPE)


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIL", "SAR", "IPR", "ALS"])
def test_mark_is_where_radiologists_expect_it(codes, degrees):
    mark = np.zeros(SHAPE)
    mark[-1, -2, 1] = 1  # at the very right, one from the front, one from the bottom
    volume, affine = stored_as(mark, codes, degrees)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    orientation = io_orientation(affine)

    turned = apply_orientation(volume, orientation)
    places = {}
    for plane in PLANES:
        index = int(np.argwhere(turned)[0][plane.axis])
        picture = cut(turned, plane, index)
        places[plane.name] = tuple(np.argwhere(picture)[0])
        assert picture.shape == (SHAPE[plane.up], SHAPE[plane.across])

    assert steps[np.argsort(orientation[:, 0])] == pytest.approx(SPACING)
    assert places == {"Axial": (1, 0), "Coronal": (SHAPE[2] - 2, 0), "Sagittal": (SHAPE[2] - 2, 1)}  # (down, across)


@pytest.mark.parametrize("codes", ["RAS", "PIL", "SAR"])
def test_slices_are_named_as_in_the_file(codes):
    mark = np.zeros(SHAPE)
    mark[8, 2, 5] = 1
    volume, affine = stored_as(mark, codes)

    names = {index_in_file(axis, index, SHAPE, io_orientation(affine)) for axis, index in enumerate((8, 2, 5))}

    assert names == {f"{letter} = {index}" for letter, index in zip("ijk", np.argwhere(volume)[0], strict=True)}


def test_planes_that_are_lines_are_left_out():
    assert [plane.name for plane in planes_of(SHAPE)] == ["Axial", "Coronal", "Sagittal"]
    assert [plane.name for plane in planes_of((30, 40, 1))] == ["Axial"]
    assert [plane.name for plane in planes_of((1, 40, 30))] == ["Sagittal"]
    assert [plane.name for plane in planes_of((1, 1, 1))] == ["Axial"]
