"""A member's noise follows from seed, member and draw alone."""

import itertools

import pytest
import torch

from monai_pdddpm.inferers.noise import member_noise
from monai_pdddpm.utils.seeds import hashed_seed


def test_field_does_not_depend_on_what_was_drawn_before():
    first = member_noise(7, 3, 0, (2, 5, 6, 4))
    for member in (9, 0, 3, 1):
        member_noise(7, member, 0, (2, 5, 6, 4))
    torch.manual_seed(99)
    torch.randn(100)
    assert torch.equal(member_noise(7, 3, 0, (2, 5, 6, 4)), first)


def test_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    member_noise(0, 0, 0, (2, 8, 8))
    assert torch.equal(torch.randn(3), expected)


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
    assert torch.allclose(member_noise(0, 0, 0, (1, 3)), torch.tensor([[0.9956191, 0.2642377, 1.5361660]]), atol=1e-6)
    assert torch.allclose(member_noise(1, 2, 3, (1, 3)), torch.tensor([[-0.212895, 0.405027, 0.375257]]), atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(3, 37, 11, 7), (2, 16, 1, 1), (2, 17, 1, 1), (1, 33, 3, 1), (2, 35, 9), (1, 3), (4, 5, 3)]
)
def test_part_of_a_field_is_cut_from_it(shape):
    box = [slice(n // 3, n // 3 + (n + 1) // 2) for n in shape[1:]]
    whole = torch.randn(*shape, generator=torch.Generator().manual_seed(hashed_seed(1, 2, 3)))
    assert torch.equal(member_noise(1, 2, 3, shape), whole)
    assert torch.equal(member_noise(1, 2, 3, shape, box), whole[(slice(None), *box)])
