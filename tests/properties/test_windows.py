"""Any volume, window and overlap."""

import itertools
from itertools import pairwise

import hypothesis.extra.numpy as arrays
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.inferers.windows import WindowPlan, WindowRegion, covering_windows, margin_of, pad_to, window_starts

OVERLAPS = st.floats(0, 0.9)


@st.composite
def volumes(draw, longest=16):
    """Shape of a volume and of a window that fits into it."""
    dims = draw(st.integers(1, 3))
    size = draw(st.lists(st.integers(1, longest), min_size=dims, max_size=dims))
    return size, [draw(st.integers(max(1, n // 4), n)) for n in size]


@st.composite
def plans(draw):
    return WindowPlan(*draw(volumes()), draw(OVERLAPS), draw(st.sampled_from(["gaussian", "constant"])))


@st.composite
def covers(draw):
    """Active voxels, a window and an overlap."""
    size, roi = draw(volumes(12))
    active = arrays.arrays(bool, size, elements=st.booleans(), fill=st.just(False))
    return torch.tensor(draw(active)), roi, draw(OVERLAPS)


def blended(plan, value_of):
    accumulator = torch.zeros(plan.size)
    for window in plan.windows:
        plan.add(accumulator, window, value_of(window))
    return plan.finish(accumulator)


def assert_same(found, wanted):
    torch.testing.assert_close(found, torch.as_tensor(wanted).expand_as(found), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 500), st.integers(1, 200), OVERLAPS)
def test_starts(size, window, overlap):
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window >= size
    assert starts[-1] == max(0, size - window)
    most = max(1, window * (1 - overlap) + 1e-6)  # that neighbours may lie apart
    gaps = [b - a for a, b in pairwise(starts)]
    assert all(1 <= gap <= most for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert len(starts) <= 2 or (size - window) / (len(starts) - 2) > int(most)  # one fewer would leave a gap


@given(plans())
def test_a_plan_covers_the_volume_and_nothing_else(plan):
    covered = torch.zeros(plan.size)
    for window in plan.windows:
        assert covered[window].shape == plan.roi_size  # a slice beyond the end would be shorter
        covered[window] += 1
    assert covered.min() >= 1
    assert len({str(window) for window in plan.windows}) == len(plan)


@given(plans(), st.integers(0, 99))
def test_weights_sum_to_one(plan, seed):
    """What the windows were cut from comes back, whatever it is."""
    volume = torch.randn(plan.size, generator=torch.Generator().manual_seed(seed))
    assert_same(blended(plan, lambda window: plan.cut(volume, window)), volume)
    assert_same(blended(plan, lambda window: torch.ones(plan.roi_size)), 1.0)


@given(plans(), st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4))
def test_a_blend_lies_between_what_is_blended(plan, values):
    value = dict(zip(map(str, plan.windows), itertools.cycle(values), strict=False))
    found = blended(plan, lambda window: torch.full(plan.roi_size, value[str(window)]))
    assert min(values) - 1e-4 <= found.min() <= found.max() <= max(values) + 1e-4


@given(plans(), st.data())
def test_a_region_of_some_windows_is_a_mean_with_what_is_known_otherwise(plan, data):
    numbers = st.integers(0, len(plan) - 1)
    chosen = data.draw(st.lists(numbers, min_size=1, max_size=min(6, len(plan)), unique=True))
    check_region(plan, [plan.windows[i] for i in chosen], ())


@given(covers())
def test_a_region_of_covering_windows_is_one_too(cover):
    active, roi, overlap = cover
    rim = margin_of(roi, overlap)
    windows = covering_windows(active, roi, rim)
    if windows:
        check_region(WindowPlan(active.shape, roi, overlap), windows, rim)


def check_region(plan, windows, rim):
    region = WindowRegion(plan, windows, rim)
    ones = torch.ones(plan.roi_size)
    assert_same(region_blend(region, ones, torch.ones(region.size)), 1.0)
    say = region_blend(region, ones, torch.zeros(region.size))  # what share the windows have
    assert -1e-5 <= say.min() <= say.max() <= 1 + 1e-5
    reached = torch.zeros(plan.size, dtype=torch.bool)
    for window in windows:
        reached[window] = True
    outside = ~region.cut(reached)
    assert_same(say[outside], 0.0)
    assert (say[~outside] > 0).all()
    assert reached.sum() == region.cut(reached).sum()  # the box has all of them


def region_blend(region, values, otherwise):
    accumulator = torch.zeros(region.size)
    for _, inside in region.windows:
        region.add(accumulator, inside, values)
    return region.finish(accumulator, otherwise)


@given(plans())
def test_a_region_of_all_windows_knows_nothing_otherwise(plan):
    region = WindowRegion(plan, plan.windows)
    assert region.size == plan.size
    unknown = torch.full(region.size, 1e3)
    found = region_blend(region, torch.ones(plan.roi_size), unknown)
    torch.testing.assert_close(found, torch.ones(region.size), rtol=0, atol=1e-3)


@given(covers())
def test_covering_windows(cover):
    active, roi, overlap = cover
    rim = margin_of(roi, overlap)
    windows = covering_windows(active, roi, rim)
    inside = torch.zeros_like(active)
    for window in windows:
        for span, n, r in zip(window, active.shape, roi, strict=True):
            assert 0 <= span.start <= span.stop <= n
            assert span.stop - span.start == r
        behind_rim = tuple(
            slice(span.start + (w if span.start else 0), span.stop - (w if span.stop < n else 0))
            for span, n, w in zip(window, active.shape, rim, strict=True)
        )
        inside[behind_rim] = True
        assert active[window].any()
    assert inside[active].all()
    assert len(windows) <= len(WindowPlan(active.shape, roi, overlap))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.integers(1, 3),
)
def test_padding_is_undone_and_no_longer_than_needed(size, roi, channels):
    roi = roi[: len(size)]
    volume = torch.rand(channels, *size) + 1
    padded, inner = pad_to(volume, roi)
    assert list(padded.shape) == [channels, *(max(n, r) for n, r in zip(size, roi, strict=True))]
    assert torch.equal(padded[(..., *inner)], volume)
    assert int((padded != 0).sum()) == volume.numel()
    assert all(abs(s.start - (n - s.stop)) <= 1 for s, n in zip(inner, padded.shape[1:], strict=True))
