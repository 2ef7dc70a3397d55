"""A member's noise depends on seed, case, member and draw alone; smooth fields have the stated correlation."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from monai_pdddpm.inferers.noise import MemberNoise, lattice_filter
from monai_pdddpm.utils.seeds import hashed_seed


def member_noise(seed, member, draw, shape, box=None, case=""):
    return MemberNoise(seed, member, shape, box, case).white(draw)


def smooth_noise(seed, member, shape, length, box=None, case=""):
    return MemberNoise(seed, member, shape, box, case).smooth(length)


def start_noise(seed, member, shape, amplitude, length, box=None, case=""):
    return MemberNoise(seed, member, shape, box, case).start(amplitude, length)


def test_every_seed_member_and_draw_has_its_own_field():
    # a sum of the three would make many of these alike
    keys = list(itertools.product(range(4), range(4), range(4)))
    assert len({hashed_seed(*key) for key in keys}) == len(keys)
    fields = torch.stack([member_noise(*key, (2, 8, 8, 8)).flatten() for key in keys])
    correlation = torch.corrcoef(fields) - torch.eye(len(keys))
    assert correlation.abs().max() < 5.5 / 1024**0.5


def test_field_is_standard_normal():
    x = member_noise(0, 0, 0, (3, 40, 40, 40)).double().flatten()
    n = len(x)
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    grid = x.view(3, 40, 40, 40)
    for axis in range(4):  # white: neighbors are uncorrelated
        ahead, behind = grid.narrow(axis, 1, grid.shape[axis] - 1), grid.narrow(axis, 0, grid.shape[axis] - 1)
        assert abs((ahead * behind).mean()) < 5 / ahead.numel() ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 + 5])
def test_seeds_of_any_size(seed):
    field = member_noise(seed, 10**6, 1000, (1, 3))
    assert field.shape == (1, 3)
    assert field.dtype == torch.float32
    assert field.device.type == "cpu"


def test_numbers_of_this_version_stay():
    # a change here changes every published result
    assert hashed_seed(0, 0, 0) == 7896617691693857887
    assert hashed_seed(1, 2, 3) == 6498626229777268288  # the order of seed, member and draw counts
    assert torch.allclose(member_noise(0, 0, 0, (1, 3)), torch.tensor([[0.2560221, -1.3395411, 1.2663021]]), atol=1e-6)
    assert torch.allclose(member_noise(1, 2, 3, (1, 3)), torch.tensor([[-0.223257, -0.390017, -0.564953]]), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 37, 11, 7), (2, 16, 1, 1), (1, 33, 3, 1), (2, 35, 9), (1, 3), (4, 5, 3)])
def test_part_of_a_field_is_cut_from_it(shape):
    box = [slice(n // 3, n // 3 + (n + 1) // 2) for n in shape[1:]]
    whole = member_noise(1, 2, 3, shape)
    assert torch.equal(member_noise(1, 2, 3, shape, box), whole[(slice(None), *box)])


def test_each_cube_has_its_own_generator():
    field = member_noise(1, 2, 3, (2, 30, 24), case="a")
    name = int.from_bytes(hashlib.sha256(b"a").digest()[:8], "big")
    for i, rows in enumerate((slice(0, 24), slice(24, 30))):
        generator = torch.Generator().manual_seed(hashed_seed(1, 2, 3, name, i, 0))
        drawn = torch.randn(2, 24, 24, generator=generator)
        assert torch.equal(field[:, rows], drawn[:, : rows.stop - rows.start])


def test_cases_have_their_own_fields():
    fields = torch.stack([member_noise(0, 0, 0, (2, 8, 8, 8), case=name).flatten() for name in ("", "a", "b", "ab")])
    assert (torch.corrcoef(fields) - torch.eye(4)).abs().max() < 4.5 / 1024**0.5
    assert torch.equal(member_noise(0, 0, 0, (2, 8, 8, 8), case="a").flatten(), fields[1])
    smooth = [smooth_noise(0, 0, (2, 8, 8, 8), 2.0, case=name) for name in ("a", "b", "a")]
    assert torch.equal(smooth[0], smooth[2])
    assert not torch.allclose(smooth[0], smooth[1], atol=0.1)


class TestSmooth:
    @pytest.mark.parametrize("n", [1, 2, 40])
    @pytest.mark.parametrize("length", [1.0, 3.7, 6.0, 100.0])
    def test_variance_is_1_at_every_voxel(self, n, length):
        # the filter of white noise with the rows a_i has the variance |a_i|^2, borders included
        variance = lattice_filter(n, length).square().sum(1)
        assert (variance - 1).abs().max() < 1e-3

    @pytest.mark.parametrize("length", [3.0, 6.0])
    def test_drawn_fields_have_it_along_every_axis(self, length):
        # lines 4 / 3 lengths apart, which count as 400 x 4 independent ones at least: an SD of about 0.025
        size = 4 * int(length)
        draws = torch.stack([smooth_noise(0, member, (1, *[size + 1] * 3), length)[0] for member in range(400)])
        for axis in (1, 2, 3):
            lines = draws.movedim(axis, 1)[:, :, :: size // 3, :: size // 3].double()
            assert abs(lines.square().mean() - 1) < 0.05
            for distance in (int(length), 2 * int(length)):
                found = (lines[:, :-distance:distance] * lines[:, distance::distance]).mean()
                assert found == pytest.approx(np.exp(-((distance / length) ** 2) / 2), abs=0.09)

    @pytest.mark.parametrize("shape", [(3, 37, 11, 7), (2, 35, 9), (1, 3), (2, 40, 56, 40)])
    @pytest.mark.parametrize("length", [1.0, 6.0])
    def test_any_box_is_cut_from_it_byte_by_byte(self, shape, length):
        whole = smooth_noise(1, 2, shape, length)
        assert whole.dtype == torch.float32
        for box in (
            [slice(n // 3, n // 3 + (n + 1) // 2) for n in shape[1:]],
            [slice(0, 1) for _ in shape[1:]],
            [slice(n - 1, n) for n in shape[1:]],
        ):
            assert torch.equal(smooth_noise(1, 2, shape, length, box), whole[(slice(None), *box)])

    def test_order_of_summation_does_not_matter(self):
        field = smooth_noise(1, 2, (1, 30, 20), 3.0)
        first, second = lattice_filter(30, 3.0), lattice_filter(20, 3.0)
        nodes = member_noise(1, 2, 2**31, (1, first.shape[1], second.shape[1])).double()
        nodes = (nodes * 1024).round() / 1024
        order = torch.randperm(first.shape[1], generator=torch.Generator().manual_seed(0))
        backwards = first[:, order] @ (nodes[0, order].flip(1) @ second.flip(1).T)
        assert torch.equal(backwards.float()[None], field)


class TestStart:
    def test_mixed_by_hand(self):
        shape, box = (2, 9, 8), [slice(2, 7), slice(0, 5)]
        found = start_noise(1, 2, shape, 0.75, 3.0, box, "a")
        white, smooth = member_noise(1, 2, 0, shape, box, "a"), smooth_noise(1, 2, shape, 3.0, box, "a")
        torch.testing.assert_close(found, 0.8 * white + 0.6 * smooth)  # 1 / 1.25 and 0.75 / 1.25

    @pytest.mark.parametrize("amplitude", [0.04, 1.0, 30.0])
    def test_variance_is_1(self, amplitude):
        fields = torch.stack([start_noise(0, member, (3, 6, 6, 6), amplitude, 2.0) for member in range(800)])
        assert abs(fields.var() - 1) < 0.05
        assert (fields.var(0) - 1).abs().max() < 5.5 * (2 / 800) ** 0.5  # at each of the 648 voxels, borders included


def test_lattice_of_half_the_length_by_hand():
    found = lattice_filter(9, 4.0)
    assert found.shape == (9, 13)  # nodes at -8, -6, ..., 16
    assert lattice_filter(8, 4.0).shape == (8, 13)  # four nodes beyond the last voxel, which lies between two
    nodes, voxels = np.arange(-8.0, 17.0, 2.0), np.arange(9.0)
    weights = np.exp(-(((voxels[:, None] - nodes) / 4.0) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    assert np.abs(found.numpy() - weights).max() <= 2.0**-13
    assert np.array_equal(found.numpy() * 2**12, np.rint(found.numpy() * 2**12))
    distance = voxels[:, None] - voxels
    assert np.abs(found.numpy() @ found.numpy().T - np.exp(-(distance**2) / (2 * 4.0**2))).max() < 0.003
