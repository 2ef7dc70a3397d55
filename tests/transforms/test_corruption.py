"""Corrupted presegmentations are presegmentations still, and no worse than asked for."""

import pytest
import torch

from monai_pdddpm.transforms import PresegmentationCorruption
from monai_pdddpm.transforms.corruption import _blur
from monai_pdddpm.utils.errors import UserError


def one_hot(labels, k=2):
    return torch.nn.functional.one_hot(labels, k).movedim(-1, 1).float()


def cubes(batch=4, side=32, dims=3, margin=8, k=2):
    """A cube in the middle of each case."""
    labels = torch.zeros(batch, *[side] * dims, dtype=torch.long)
    inner = slice(margin, side - margin)
    labels[(slice(None), *[inner] * dims)] = 1
    return one_hot(labels, k)


def distance_to_border(side=32, dims=3, margin=8):
    """Voxels to the cube's border along the nearest axis, of each voxel's centre."""
    axis = torch.arange(side) + 0.5
    inside = torch.stack(torch.meshgrid(*[torch.minimum(axis - margin, side - margin - axis)] * dims, indexing="ij"))
    outside = inside.clamp(max=0).square().sum(0).sqrt()
    return torch.where(inside.amin(0) > 0, inside.amin(0), outside)


def severity(value, like):
    return torch.full((len(like), *[1] * (like.dim() - 1)), float(value))


def changed(before, after):
    return (before != after).any(dim=1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("k", [2, 4])
def test_result_is_one_hot_of_the_same_kind(dims, k):
    torch.manual_seed(0)
    presegmentation = cubes(dims=dims, k=k)
    before = presegmentation.clone()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        result = PresegmentationCorruption(probability=1.0)(presegmentation.to(dtype))
        assert result.dtype == dtype
        assert result.shape == presegmentation.shape
        assert set(result.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(result.sum(1), torch.ones_like(result[:, 0]))
    assert changed(presegmentation, result).any()
    assert torch.equal(presegmentation, before)


@pytest.mark.parametrize("dims", [2, 3])
def test_probability_0_changes_nothing(dims):
    torch.manual_seed(0)
    presegmentation = cubes(dims=dims)
    for _ in range(5):
        assert torch.equal(PresegmentationCorruption(probability=0.0)(presegmentation), presegmentation)


@pytest.mark.parametrize("dims", [2, 3])
def test_severity_0_changes_nothing_however_small_the_structure(dims):
    torch.manual_seed(0)
    labels = (torch.rand(3, *[16] * dims) < 0.1).long() + (torch.rand(3, *[16] * dims) < 0.1).long()
    presegmentation = one_hot(labels, 3)
    assert torch.equal(
        PresegmentationCorruption().corrupt(presegmentation, severity(0, presegmentation)), presegmentation
    )


def test_probability_is_a_share_of_the_cases():
    torch.manual_seed(0)
    presegmentation = cubes(batch=300, side=16, dims=2, margin=4)
    corruption = PresegmentationCorruption(probability=0.6, shift=3.0)
    share = changed(presegmentation, corruption(presegmentation)).flatten(1).any(1).float().mean()
    assert 0.45 < share < 0.68  # mild ones may change nothing


def test_severity_differs_between_cases_and_worse_is_worse():
    torch.manual_seed(0)
    presegmentation = cubes(batch=24)
    corruption = PresegmentationCorruption()
    mild, severe = (
        changed(presegmentation, corruption.corrupt(presegmentation, severity(s, presegmentation))) for s in (0.2, 1.0)
    )
    assert 0 < mild.float().mean() < 0.6 * severe.float().mean()
    each = changed(presegmentation, corruption(presegmentation)).flatten(1).float().mean(1)
    assert each.max() > 3 * each.min()


@pytest.mark.parametrize("dims", [2, 3])
def test_warp_moves_no_voxel_further_than_twice_the_shift(dims):
    torch.manual_seed(0)
    # a ramp along an axis turns into where each voxel came from
    axes = torch.meshgrid(*[torch.arange(40.0)] * dims, indexing="ij")
    ramps = torch.stack(axes).expand(6, *[-1] * (dims + 1))
    inner = (slice(None), slice(None), *[slice(5, -5)] * dims)
    for value in (0.5, 1.0):
        moved = (PresegmentationCorruption(shift=2.0)._warp(ramps, severity(value, ramps)) - ramps)[inner].abs()
        assert 3.9 * value < moved.max() <= 4.001 * value
        assert 0.2 * value < moved.square().mean().sqrt() < 2 * value  # nodes have 2, what lies between them less


@pytest.mark.parametrize("dims", [2, 3])
def test_borders_bend_and_the_inside_stays(dims):
    torch.manual_seed(0)
    presegmentation = cubes(batch=12, dims=dims)
    bent = changed(
        presegmentation,
        PresegmentationCorruption(shift=1.0, amplitude=0.0).corrupt(presegmentation, severity(1, presegmentation)),
    )
    depth = distance_to_border(dims=dims).abs()
    assert bent[:, depth < 1].float().mean() > 0.1
    assert not bent[:, depth > 2 * dims**0.5 + 1.5].any()  # the bound holds on each axis, and the blur adds one


def test_displacement_along_each_axis_is_in_voxels():
    # a grid that is longer than wide: a field of one voxel has to move both borders by one
    torch.manual_seed(0)
    labels = torch.zeros(1, 12, 40, dtype=torch.long)
    labels[:, 3:9, 10:30] = 1
    corruption = PresegmentationCorruption(shift=2.0, amplitude=0.0)
    for axis, expected in ((0, (1, 0)), (1, (0, 1))):

        def field(batch, channels, size, device, axis=axis):
            value = torch.zeros(batch, channels, *size)
            if channels == 2:
                value[:, axis] = 0.5  # of a shift of 2
            return value

        corruption._smooth_field = field
        warped = corruption._warp(one_hot(labels), severity(1, one_hot(labels)))
        assert torch.allclose(warped, one_hot(labels).roll([-e for e in expected], dims=(2, 3)), atol=1e-4)


def test_far_from_borders_next_to_nothing_changes():
    torch.manual_seed(0)
    corruption = PresegmentationCorruption()
    for k, share in ((2, 0.001), (4, 0.003)):
        empty = one_hot(torch.zeros(4, 40, 40, 40, dtype=torch.long), k)
        worst = [changed(empty, corruption.corrupt(empty, severity(1, empty))).float().mean() for _ in range(6)]
        assert share / 2.5 < sum(worst) / 6 < 2.5 * share
    presegmentation = cubes(batch=16)
    deep = distance_to_border().abs() > 6
    for _ in range(3):
        assert changed(presegmentation, corruption(presegmentation))[:, deep].float().mean() < 0.002


def test_autocast_around_it_changes_nothing():
    # bfloat16 counts the coordinates of 800 voxels in steps of up to one and a half voxels
    presegmentation = one_hot((torch.rand(2, 800, 8, generator=torch.Generator().manual_seed(0)) < 0.5).long())
    corruption = PresegmentationCorruption(probability=1.0)
    torch.manual_seed(1)
    expected = corruption(presegmentation)
    torch.manual_seed(1)
    assert torch.equal(corruption.corrupt(presegmentation, torch.rand(2, 1, 1, 1)), expected)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(corruption(presegmentation), expected)
        mild = severity(0, presegmentation)
        assert not torch.equal(corruption.corrupt(presegmentation, mild), presegmentation)  # what it is kept from


def test_small_and_flat_volumes():
    torch.manual_seed(0)
    for size in ((1, 1, 1), (16, 16, 1), (3, 40, 2)):
        presegmentation = one_hot(torch.randint(2, (2, *size)))
        assert PresegmentationCorruption()(presegmentation).sum(1).eq(1).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probability": 1.5}, "probability: found 1.5, expected a number from 0 to 1"),
        ({"probability": -0.1}, "probability: found -0.1"),
        ({"shift": -1}, "shift: found -1, expected a number of at least 0"),
        ({"amplitude": -1}, "amplitude: found -1"),
        ({"scale": 0}, "scale: found 0, expected a number of at least 1"),
    ],
)
def test_out_of_range_names_the_key(options, text):
    with pytest.raises(UserError, match=text):
        PresegmentationCorruption(**options)


def test_nodes_of_the_random_fields_by_hand(monkeypatch):
    # a node for each 6 voxels, and at least 2 along an axis
    nodes = []

    def drawn(*shape, device):
        nodes.append(shape)
        return torch.arange(float(torch.Size(shape).numel())).reshape(shape)

    monkeypatch.setattr(torch, "randn", drawn)
    corruption = PresegmentationCorruption(scale=6)
    assert corruption._smooth_field(1, 3, [3, 12, 40], torch.device("cpu")).shape == (1, 3, 3, 12, 40)
    plane = corruption._smooth_field(2, 1, [4, 16], torch.device("cpu"))
    assert nodes == [(1, 3, 2, 2, 7), (2, 1, 2, 3)]
    # nodes 0 1 2 above and 3 4 5 below lie at the quarters of 4 voxels: rows at 0, 1/4, 3/4 and 1 of the way
    assert plane[0, 0, :, 0].tolist() == pytest.approx([0, 0.75, 2.25, 3])
    assert plane[0, 0, 0, [0, -1]].tolist() == [0, 2]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_image_goes_on_beyond_its_border(dims):
    whole = one_hot(torch.ones(1, *[9] * dims, dtype=torch.long))
    assert torch.allclose(_blur(whole, dims), whole)
    torch.manual_seed(0)
    assert torch.allclose(PresegmentationCorruption()._warp(whole, severity(1, whole)), whole)


def test_defaults():
    assert vars(PresegmentationCorruption()) == {"probability": 0.9, "shift": 2.0, "amplitude": 0.35, "scale": 6}
