"""Any grid in space: what is at a place in the world is found there after each step of the way through a bundle.

The voxels of a scan hold their own place in mm, so that any voxel tells whether it lies where its affine says; linear
interpolation leaves such voxels as they are.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, Orientationd
from scipy.spatial.transform import Rotation

from monai_pdddpm.data import LoadImageScand
from monai_pdddpm.data.dataset import case_collate
from monai_pdddpm.data.geometry import check_affine, coverage, is_sheared, largest_shift
from monai_pdddpm.data.writer import find_grid, write_nifti
from monai_pdddpm.transforms import Spacingd
from monai_pdddpm.utils.errors import UserError

FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha")
HEADER = ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
MM = 5e-3  # what float32 makes of a place 1 m away, and of a quaternion


@dataclass(frozen=True)
class Grid:
    """Voxels along each axis, voxel to mm, whether the axes stand at right angles, and the edges of a voxel."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    sheared: bool
    edges: tuple[float, float, float]


@st.composite
def grids(draw, shears=True):
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    edges = tuple(draw(st.floats(0.4, 5)) for _ in range(3))
    turn = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    if draw(st.booleans()) or np.linalg.norm(turn) < 0.1:
        turn = np.array([0.0, 0, 0, 1])
    axes = Rotation.from_quat(turn).as_matrix()
    _, second, first = np.sort(np.abs(axes), axis=0)
    assume((first - second > 1e-3).all())  # otherwise two axes of the patient are equally near
    axes = axes[:, draw(st.permutations(range(3)))] * [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    sheared = shears and draw(st.booleans())
    if sheared:  # a tilted gantry: the third axis leans towards the second
        lean = np.eye(3)
        lean[1, 2] = draw(st.floats(0.05, 0.4))
        axes = axes @ (lean / np.linalg.norm(lean, axis=0))
    origin = [draw(st.floats(-500, 500)) for _ in range(3)]
    return Grid(shape, nib.affines.from_matvec(axes * edges, origin), sheared, edges)


def places(shape, affine):
    """Return the place of each voxel in mm, (X, Y, Z, 3)."""
    return nib.affines.apply_affine(np.asarray(affine), np.moveaxis(np.indices(shape), 0, -1))


def clamped(points, shape, affine):
    """Return the points, those beyond the centres of a grid's outermost voxels moved to its border."""
    index = nib.affines.apply_affine(np.linalg.inv(affine), points)
    return nib.affines.apply_affine(affine, index.clip(0, np.array(shape) - 1))


def write(path, grid, codes):
    """Write a scan whose three channels are the place of each voxel."""
    voxels = places(grid.shape, grid.affine).astype(np.float32)
    if path.suffix in (".nrrd", ".mha"):
        image = itk.image_from_array(np.ascontiguousarray(voxels.transpose(2, 1, 0, 3)), is_vector=True)
        lps = np.diag([-1.0, -1, 1]) @ grid.affine[:3]
        image.SetSpacing([float(edge) for edge in grid.edges])
        image.SetOrigin([float(value) for value in lps[:, 3]])
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:, :3] / grid.edges)))
        itk.imwrite(image, str(path))
        return
    image = nib.Nifti1Image(voxels, None)
    image.header.set_sform(grid.affine, codes[0])
    image.header.set_qform(grid.affine, codes[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def assert_in_place(image, grid):
    """Check that the voxels of (3, X, Y, Z), taken from another grid of places, hold theirs or the nearest there was.

    Returns how far in mm the farthest lies outside of that grid.
    """
    here = places(image.shape[1:], image.affine)
    nearest = clamped(here, grid.shape, grid.affine)
    assert np.abs(np.moveaxis(image.numpy(), 0, -1) - nearest).max() < MM
    return np.linalg.norm(nearest - here, axis=-1).max()


class TestTheWayThroughABundle:
    @given(grids(), st.data())
    def test_there_and_back(self, grid, data):
        codes = data.draw(st.sampled_from([(2, 0)] if grid.sheared else [(1, 1), (2, 0), (0, 1), (2, 1)]))
        ending = data.draw(st.sampled_from(FORMATS[:2] if grid.sheared else FORMATS))
        spacing = tuple(data.draw(st.floats(0.7, 4)) for _ in range(3))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"scan{ending}"
            write(path, grid, codes)
            there = Compose(
                [
                    LoadImageScand("image", channels=3),
                    Orientationd("image", "RAS", labels=None),
                    Spacingd("image", pixdim=spacing),
                ]
            )
            loaded = there.transforms[0]({"image": str(path)})["image"]
            assert loaded.shape == (3, *grid.shape)
            np.testing.assert_allclose(loaded.affine, grid.affine, atol=MM)
            assert assert_in_place(loaded, grid) < MM

            # half a voxel of either grid at most: they begin at one corner, or have one middle
            most = np.inf if grid.sheared else (np.linalg.norm(grid.edges) + np.linalg.norm(spacing)) / 2 + MM
            (item,) = decollate_batch(case_collate([there({"image": str(path)})]))
            image = item["image"]
            assert np.allclose(nib.affines.voxel_sizes(np.asarray(image.affine)), spacing, atol=1e-3)
            assert grid.sheared or nib.aff2axcodes(np.asarray(image.affine)) == ("R", "A", "S")
            assert assert_in_place(image, grid) <= most

            # a network that answers with the place of each of its voxels
            answer = np.moveaxis(places(image.shape[1:], image.affine), -1, 0)
            item["pred"] = MetaTensor(torch.tensor(answer.astype(np.float32)), meta=image.meta)
            item["pred"].applied_operations = image.applied_operations
            seen = Grid(tuple(image.shape[1:]), np.asarray(image.affine), False, spacing)
            item = Invertd("pred", there, orig_keys="image", nearest_interp=False, to_tensor=True)(item)
            assert item["pred"].shape == (3, *grid.shape)
            assert assert_in_place(item["pred"], seen) <= most

            pred, target = item["pred"], Path(folder) / "scan_x.nii.gz"
            write_nifti(target, pred, find_grid(pred.meta, tuple(pred.shape[1:4])))
            written = nib.load(target)
            np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), np.moveaxis(item["pred"].numpy(), 0, -1))
            if path.suffix in (".nrrd", ".mha"):
                np.testing.assert_allclose(written.affine, grid.affine, atol=MM)
            else:
                source = nib.load(path)
                assert np.array_equal(written.affine, source.affine)
                for field in HEADER if codes[1] else HEADER[:5]:  # without a code the qform is made from the sform
                    # the qform is computed again, so its quaternion may differ in the last digit of float32
                    assert np.allclose(written.header[field], source.header[field], rtol=0, atol=1e-6), field


class TestGeometry:
    @given(grids())
    def test_grids_of_scanners_pass(self, grid):
        check_affine("a.nii", grid.affine)
        assert is_sheared(grid.affine) is grid.sheared

    @pytest.mark.filterwarnings("ignore:divide by zero")
    @given(grids(), st.integers(0, 2), st.floats(-2, 2), st.floats(-2, 2))
    def test_axes_in_a_plane_do_not(self, grid, axis, first, second):
        assume(abs(first) + abs(second) > 0.1)
        flat = grid.affine.copy()
        one, two = (grid.affine[:3, other] / grid.edges[other] for other in range(3) if other != axis)
        flat[:3, axis] = first * one + second * two
        with pytest.raises(UserError):
            check_affine("a.nii", flat)

    @given(grids(), grids())
    def test_the_corners_are_shifted_farthest(self, grid, other):
        all_voxels = places(grid.shape, grid.affine) - places(grid.shape, other.affine)
        expected = np.linalg.norm(all_voxels, axis=-1).max() / min(grid.edges)
        assert largest_shift(grid.affine, other.affine, grid.shape) == pytest.approx(expected, rel=1e-6)

    @given(grids(), st.lists(st.floats(-9, 9), min_size=3, max_size=3))
    def test_a_move_shifts_by_its_length(self, grid, move):
        moved = nib.affines.from_matvec(np.eye(3), move) @ grid.affine
        expected = np.linalg.norm(move) / min(grid.edges)
        assert largest_shift(grid.affine, moved, grid.shape) == pytest.approx(expected, rel=1e-6, abs=1e-6)

    @given(grids(), grids(), grids())
    def test_coverage_is_of_the_grids_and_not_of_the_world(self, grid, other, world):
        near = nib.affines.from_matvec(other.affine[:3, :3], grid.affine[:3, 3] + 0.3)
        share = coverage(grid.affine, grid.shape, near, other.shape)
        assert 0 <= share <= 1
        index = places(grid.shape, np.linalg.solve(near, grid.affine))
        at_the_edge = np.abs(np.abs(index - (np.array(other.shape) - 1) / 2) - np.array(other.shape) / 2) < 0.01
        assume(not at_the_edge.any())
        moved = coverage(world.affine @ grid.affine, grid.shape, world.affine @ near, other.shape)
        assert moved == share == ((index > -0.5) & (index < np.array(other.shape) - 0.5)).all(-1).mean()

    @given(grids(), st.lists(st.integers(0, 4), min_size=6, max_size=6))
    def test_a_grid_lies_within_a_larger_one_and_not_beside_itself(self, grid, more):
        before, after = np.array(more[:3]), np.array(more[3:])
        larger = grid.affine @ nib.affines.from_matvec(np.eye(3), -before)
        assert coverage(grid.affine, grid.shape, larger, np.array(grid.shape) + before + after) == 1
        beside = grid.affine @ nib.affines.from_matvec(np.eye(3), (grid.shape[0], 0, 0))
        assert coverage(grid.affine, grid.shape, beside, grid.shape) == 0
