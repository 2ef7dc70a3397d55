"""Grids whose places and faults are known."""

import numpy as np
import pytest

from monai_pdddpm.data.geometry import check_affine, coverage, is_sheared, largest_shift
from monai_pdddpm.utils.errors import UserError

SHAPE = (10, 20, 5)


def moved(affine, **entries):
    affine = np.array(affine, dtype=float)
    for name, value in entries.items():
        affine[int(name[1]), int(name[2])] = value
    return affine


class TestAffine:
    @pytest.mark.parametrize("sizes", [(1, 1, 1), (0.001, 1, 1), (1, 1, 100), (-0.5, 0.5, 2)])
    def test_usual_voxels_pass(self, sizes):
        check_affine("a.nii", np.diag([*sizes, 1.0]))

    @pytest.mark.parametrize(("sizes", "found"), [((0, 1, 1), "0 x 1 x 1"), ((1, 1, 101), "1 x 1 x 101")])
    def test_absurd_voxels(self, sizes, found):
        with pytest.raises(
            UserError, match=rf"a\.nii: found voxels of {found} mm in its affine, expected 0.001 to 100"
        ):
            check_affine("a.nii", np.diag([*sizes, 1.0]))

    @pytest.mark.parametrize("affine", [np.full((4, 4), np.nan), np.ones((4, 4)), moved(np.eye(4), a03=np.inf)])
    def test_no_inverse(self, affine):
        with pytest.raises(UserError, match=r"a\.nii: its affine cannot be inverted"):
            check_affine("a.nii", affine)


@pytest.mark.parametrize(("shear", "expected"), [(0.0, False), (0.009, False), (0.011, True), (0.5, True)])
def test_shear(shear, expected):
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) @ moved(np.eye(4), a01=shear)
    assert is_sheared(affine) is expected


def test_shift_is_in_shortest_edges():
    affine = np.diag([2.0, 0.5, 3.0, 1.0])
    assert largest_shift(affine, affine, SHAPE) == 0
    # 3 mm and 4 mm along two axes are 5 mm, of 0.5 mm each
    assert largest_shift(affine, moved(affine, a03=3, a23=4), SHAPE) == pytest.approx(10)
    # a slice distance that is 0.1 mm off adds up over the 4 slices after the first
    assert largest_shift(affine, moved(affine, a22=3.1), SHAPE) == pytest.approx(0.8)
    assert largest_shift(affine, np.full((4, 4), np.nan), SHAPE) == np.inf


@pytest.mark.parametrize(("offset", "expected"), [(0, 1.0), (5, 0.5), (10, 0.0), (-5, 0.5), (0.4, 1.0)])
def test_coverage_along_one_axis(offset, expected):
    assert coverage(np.eye(4), SHAPE, moved(np.eye(4), a03=offset), SHAPE) == pytest.approx(expected)


def test_coverage_of_one_slice():
    assert coverage(np.eye(4), (10, 20, 1), np.eye(4), SHAPE) == 1
    assert coverage(np.eye(4), SHAPE, np.eye(4), (10, 20, 1)) == pytest.approx(1 / 5)
