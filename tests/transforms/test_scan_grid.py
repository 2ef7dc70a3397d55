"""Boxes of one grid on another, by hand; turned grids are copied and not interpolated."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import scan_grid
from monai_pdddpm.transforms.scan_grid import ScanGrid, _whole_numbers

SIZE = (6, 5, 4)


def grid(affine, box, shape=SIZE, original=None):
    """A network's grid with an affine, for a scan of 1 mm or ``original``, and a box of it."""
    meta = {"original_affine": torch.eye(4) if original is None else original, "spatial_shape": np.array(shape)}
    return ScanGrid(MetaTensor(torch.zeros(1, 6, 5, 4), affine=torch.as_tensor(affine).double(), meta=meta), box)


def moved(*by, scale=(1.0, 1.0, 1.0)):
    affine = np.diag([*scale, 1.0])
    affine[:3, 3] = by
    return affine


BOX = (slice(1, 4), slice(0, 2), slice(2, 3))


def test_turned_relations_are_whole_numbers():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            relation = np.zeros((3, 4))
            relation[range(3), order] = signs
            relation[:, 3] = (2, -1, 7)
            found = _whole_numbers(relation + 1e-5, SIZE)
            assert found.dtype.kind == "i"
            assert np.array_equal(found, relation)


@pytest.mark.parametrize(
    "relation",
    [
        [[2, 0, 0], [0, 1, 0]],  # coarser
        [[1, 0, 0], [1, 0, 0]],  # two axes along one
        [[1, 1, 0], [0, 1, 0]],  # sheared
        [[1, 0, 0.4], [0, 1, 0]],  # between voxels
        [[1, 0, 0.0015], [0, 1, 0]],  # off by more than a thousandth
        [[1, 0.001, 0], [0, 1, 0]],  # at the far end off by more than a thousandth
        [[0.9998, 0, 0.0011], [0, 1, 0]],  # at the near end
        [[0.8, -0.6, 0], [0.6, 0.8, 0]],  # oblique
    ],
)
def test_other_relations_are_not(relation):
    assert _whole_numbers(np.array(relation, dtype=float), (6, 5)) is None


def test_a_thousandth_of_a_voxel_is_no_difference(monkeypatch):
    relation = np.array([[1, 0, 5e-4], [0, 1, 0]])
    assert np.array_equal(_whole_numbers(relation, (6, 5)), [[1, 0, 0], [0, 1, 0]])
    monkeypatch.setattr(scan_grid, "_SAME", 2.0**-10)
    assert _whole_numbers(np.array([[1, 0, 2.0**-10], [0, 1, 0]]), (6, 5)) is None


@pytest.mark.parametrize(
    ("by", "target"),
    [
        ((0, 0, 0), ((1, 4), (0, 2), (2, 3))),
        ((1, 0, -1), ((2, 5), (0, 2), (1, 2))),
        ((-2, 0, 0), ((0, 2), (0, 2), (2, 3))),  # a part of the box lies before the scan
        ((4, 0, 0), ((5, 6), (0, 2), (2, 3))),  # and behind it
        ((9, 0, 0), ((6, 6), (0, 2), (2, 3))),  # all of it
        ((-9, 0, 0), ((0, 0), (0, 2), (2, 3))),
    ],
)
def test_a_moved_box_by_hand(by, target):
    found = grid(moved(*by), BOX)
    assert tuple((s.start, s.stop) for s in found.target) == target
    values = torch.arange(2.0 * 6 * 5 * 4).reshape(2, 6, 5, 4)
    (x0, x1), _, _ = target
    part = found.resample(values)
    assert part.shape == (2, *(stop - start for start, stop in target))
    assert torch.equal(part, values[:, x0 - by[0] : x1 - by[0], 0:2, 2:3])


def test_interpolation_reaches_almost_a_voxel_beyond_the_box():
    # the network's voxels have 2 mm along x: its voxels 1 to 3 lie at 2, 4 and 6 mm
    found = grid(moved(0, 0, 0, scale=(2.0, 1.0, 1.0)), BOX, shape=(12, 5, 4))
    assert found.target[0] == slice(1, 8)  # 0 and 8 mm are the next voxels' places
    ramp = torch.arange(6.0)[:, None, None].expand(1, 6, 5, 4)
    assert found.resample(ramp)[0, :, 0, 0].tolist() == pytest.approx([1, 1, 1.5, 2, 2.5, 3, 3])


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_flipped_grids_are_copied_exactly(signs):
    affine = np.diag([*map(float, signs), 1.0])
    affine[:3, 3] = [0 if sign > 0 else n - 1 for sign, n in zip(signs, SIZE, strict=True)]
    found = grid(affine, tuple(slice(0, n) for n in SIZE))
    values = torch.rand(2, *SIZE)
    assert torch.equal(found.resample(values), values.flip([1 + axis for axis in range(3) if signs[axis] < 0]))


def test_values_on_the_whole_grid():
    found = grid(moved(0, 0, 0), BOX)
    part = torch.full((2, 3, 2, 1), 0.25)
    whole = found.paste(part, background=1.0)
    assert whole.shape == (2, *SIZE)
    expected = torch.zeros(2, *SIZE)
    expected[0] = 1
    expected[:, 1:4, 0:2, 2:3] = 0.25
    assert torch.equal(whole, expected)
    assert found.paste(part).sum() == 12 * 0.25
    frames = torch.zeros(2, *SIZE, 3)
    assert found.paste(part[..., None].expand(-1, -1, -1, -1, 3), out=frames) is frames
    assert frames.sum() == 3 * 12 * 0.25
    everything = torch.rand(1, *SIZE)
    all_of_it = grid(moved(0, 0, 0), tuple(slice(0, n) for n in SIZE))
    assert all_of_it.paste(everything, background=1.0) is everything
    out = torch.zeros(1, *SIZE)
    assert all_of_it.paste(everything, out=out) is out
    assert torch.equal(out, everything)


def test_an_image_that_was_not_preprocessed_is_the_scan():
    found = ScanGrid(MetaTensor(torch.zeros(1, *SIZE), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])), meta={}), BOX)
    assert found.shape == SIZE
    assert found.affine.diagonal().tolist() == [2, 3, 4, 1]
    assert found.target == BOX
