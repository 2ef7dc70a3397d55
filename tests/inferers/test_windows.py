"""Windows cover a volume evenly, and blending takes nothing away and adds nothing."""

import itertools
import math
import random
from itertools import pairwise

import pytest
import torch

from monai_pdddpm.inferers.active_voxels import _highest_around
from monai_pdddpm.inferers.windows import (
    WindowPlan,
    content_box,
    covering_windows,
    crop,
    margin_of,
    pad_to,
    window_starts,
)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (10, 4, 0.5, [0, 2, 4, 6]),
        (6, 4, 0.5, [0, 2]),
        (7, 4, 0.5, [0, 2, 3]),  # 1.5 lies half-way, and Python rounds to the even one
        (9, 4, 0.25, [0, 2, 5]),
        (9, 4, 0.0, [0, 2, 5]),
        (8, 4, 0.0, [0, 4]),
        (100, 30, 0.5, [0, 14, 28, 42, 56, 70]),
        (5, 4, 0.9, [0, 1]),
        (4, 4, 0.5, [0]),
        (3, 4, 0.5, [0]),
        (1, 1, 0.5, [0]),
        (3, 1, 0.0, [0, 1, 2]),
        (30, 10, 0.9, list(range(21))),  # in binary 10 * (1 - 0.9) falls short of 1
        (60, 20, 0.9, list(range(0, 41, 2))),
    ],
)
def test_starts_by_hand(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts


def test_starts_for_many_sizes():
    chance = random.Random(0)
    for _ in range(3000):
        window = chance.randint(1, 40)
        size = window + chance.randint(0, 120)
        overlap = chance.choice([0, 0.1, 0.25, 0.5, 0.625, 0.75, 0.9, chance.random() * 0.99])
        starts = window_starts(size, window, overlap)
        case = (size, window, overlap, starts)
        assert starts[0] == 0, case
        assert starts[-1] == size - window, case
        gaps = [b - a for a, b in pairwise(starts)]
        assert all(0 < gap <= window for gap in gaps), case  # every voxel is covered, no window comes twice
        widest = max(1, window * (1 - overlap))  # whatever the share, neighbors are at least a voxel apart
        assert all(gap <= widest + 1e-4 for gap in gaps), case
        assert not gaps or max(gaps) - min(gaps) <= 1, case
        # one window fewer could not keep the overlap
        assert len(starts) == 1 or (len(starts) - 2) * math.floor(widest + 1e-4) < size - window, case


def test_every_voxel_is_covered():
    chance = random.Random(1)
    for _ in range(150):
        dims = chance.choice([1, 2, 3])
        roi = [chance.randint(1, 6) for _ in range(dims)]
        size = [r + chance.randint(0, 9) for r in roi]
        plan = WindowPlan(size, roi, chance.choice([0.0, 0.25, 0.5, 0.8]))
        covered = torch.zeros(size)
        for window in plan.windows:
            assert covered[window].shape == tuple(roi)
            covered[window] += 1
        assert covered.min() >= 1
        assert len(plan) == len(set(map(str, plan.windows)))
        assert plan.total.shape == tuple(size)
        assert plan.total.min() >= 1e-3


def blend(plan, pictures):
    """Blend one picture for each window."""
    accumulator = torch.zeros(1, *plan.size)
    for window, picture in zip(plan.windows, pictures, strict=True):
        plan.add(accumulator, window, torch.as_tensor(picture, dtype=torch.float32))
    return plan.finish(accumulator)[0]


def test_gaussian_blending_by_hand_on_a_line():
    # a standard deviation of an eighth of the window, 1/2: the weights at -1.5 and 0.5 are as 1 to e^4
    blended = blend(WindowPlan([6], [4], 0.5), [1, 3])
    near = 1 + 2 / (1 + math.e**4)
    assert blended.tolist() == pytest.approx([1, 1, near, 4 - near, 3, 3], abs=1e-5)


def test_weights_are_never_so_small_that_a_corner_is_lost():
    plan = WindowPlan([64, 64, 64], [64, 64, 64], 0.5)
    assert plan.weight.min() >= 1e-3
    assert plan.weight.max() <= 1
    assert blend(plan, [5.0]).allclose(torch.tensor(5.0))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("size", "roi"), [((13,), (5,)), ((11, 17), (6, 5)), ((9, 14, 11), (8, 6, 11))])
def test_a_volume_cut_into_windows_is_blended_back(size, roi, overlap):
    volume = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    plan = WindowPlan(size, roi, overlap)
    accumulator = torch.zeros_like(volume)
    for window in plan.windows:
        plan.add(accumulator, window, crop(volume, window))
    assert torch.allclose(plan.finish(accumulator), volume, rtol=1e-5, atol=1e-6)


def test_margins_by_hand():
    assert margin_of([16, 10, 3], 0.5) == (4, 2, 0)
    assert margin_of([10], 0.6) == (3,)  # in binary 10 * 0.6 / 2 may fall short of 3
    assert margin_of([4, 5], 1 - 1e-9) == (1, 2)  # below half a window
    assert margin_of([7], 0.0) == (0,)


@pytest.mark.parametrize(("size", "roi"), itertools.product([(5, 8, 3), (1, 1, 1), (9, 9, 9)], [(8, 8, 8), (9, 4, 3)]))
def test_padding_is_undone_by_its_slices(size, roi):
    volume = torch.rand(2, 1, *size) + 1
    padded, inner = pad_to(volume, roi)
    assert padded.shape[2:] == tuple(max(n, r) for n, r in zip(size, roi, strict=True))
    assert torch.equal(padded[(..., *inner)], volume)
    assert padded.sum() == pytest.approx(volume.sum().item())  # the rest is zero
    for axis, (n, r) in enumerate(zip(size, roi, strict=True)):
        before, after = inner[axis].start, padded.shape[2 + axis] - inner[axis].stop
        assert after - before in (0, 1)
        assert before + after == max(0, r - n)


class TestCoveringWindows:
    def test_hand_drawn(self):
        # two rows of windows; the first has one column, the second two
        active = torch.zeros(20, 20, dtype=torch.bool)
        active[2, 9] = active[4, 11] = True
        active[12, 1] = active[15, 17] = True
        spans = [(w[0].start, w[1].start) for w in covering_windows(active, (8, 8), (1, 1))]
        # rows 2 to 4 lie in the middle of 0:8, columns 9 to 11 in that of 6:14; the last column is at the border
        assert spans == [(0, 6), (10, 0), (10, 12)]
        # the window at the border has no margin there
        active = torch.zeros(20, dtype=torch.bool)
        active[15] = active[19] = True
        assert covering_windows(active, (8,), (2,)) == [(slice(12, 20),)]

    def test_nothing_active_needs_no_window(self):
        assert covering_windows(torch.zeros(9, 9, dtype=torch.bool), (4, 4), (1, 1)) == []

    @pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
    @pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
    def test_each_active_voxel_is_inside_or_at_the_volume_s_border(self, overlap, share):
        size, roi = (40, 33, 9), (12, 10, 9)
        active = torch.rand(size, generator=torch.Generator().manual_seed(3)) < share
        active[-1, -1, -1] = active[0, 17, 4] = True
        margin, inside = margin_of(roi, overlap), torch.zeros(size, dtype=torch.bool)
        for window in covering_windows(active, roi, margin):
            assert all(
                s.start >= 0 and s.stop <= n and s.stop - s.start == r
                for s, n, r in zip(window, size, roi, strict=True)
            )
            inside[
                tuple(
                    slice(s.start + (r if s.start else 0), s.stop - (r if s.stop < n else 0))
                    for s, n, r in zip(window, size, margin, strict=True)
                )
            ] = True
        assert inside[active].all()

    @pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
    def test_even_windows_have_every_voxel_inside_the_same_margin(self, overlap):
        (width,), covered = margin_of((16,), overlap), torch.zeros(77, dtype=torch.bool)
        for start in window_starts(77, 16, overlap):
            covered[start + (width if start else 0) : start + 16 - (width if start + 16 < 77 else 0)] = True
        assert covered.all()


def test_the_box_is_the_content_or_a_window_with_the_content_in_its_middle():
    chance = random.Random(2)
    for _ in range(300):
        roi = chance.randint(1, 9)
        size, before, after = chance.randint(3, 20), chance.randint(0, 4), chance.randint(0, 4)
        after += max(0, roi - size - before - after)
        low = chance.randrange(size - 1) + 1
        high = chance.randint(low + 1, size)
        frames = torch.zeros(1, 2, size, 2)
        frames[:, 1, low:high] = 1
        padded, low, high = before + size + after, low + before, high + before
        span, _ = content_box(frames, (slice(before, before + size), slice(0, 2)), (padded, 2), (roi, 2))
        if high - low >= roi:
            assert (span.start, span.stop) == (low, high)
            continue
        assert len(range(padded)[span]) == roi
        assert 0 <= span.start <= low
        assert high <= span.stop <= padded
        left, right = low - span.start, span.stop - high
        assert right - left in (0, 1) or (span.start == 0 and left < right) or (span.stop == padded and right < left)


def test_the_box_of_an_image_without_content_is_the_whole_volume():
    assert content_box(torch.ones(1, 1, 5, 4), (slice(1, 6), slice(0, 4)), (7, 4), (3, 3)) == (slice(0, 7), slice(0, 4))


@pytest.mark.parametrize("radius", [1, 5])
def test_a_thin_volume_is_searched_to_its_end(radius):
    assert _highest_around(torch.tensor([[0, 0, 0], [0, 5, 0]]), radius).tolist() == [[5, 5, 5], [5, 5, 5]]
