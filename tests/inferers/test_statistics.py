"""Streamed statistics equal those that numpy computes from all members at once."""

import numpy as np
import pytest
import torch

from monai_pdddpm.inferers.statistics import EnsembleStatistics


def members(count, classes=3, size=(4, 5, 3), seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, classes, *size, generator=generator) * spread).softmax(dim=1)


def streamed(first, drawn):
    statistics = EnsembleStatistics()
    for one, other in zip(first, drawn, strict=True):
        statistics.add(one, other)
    return statistics


def added(first, drawn=None):
    return streamed(first, first if drawn is None else drawn).result()


def expected(first, drawn):
    q, p = first.double().numpy(), drawn.double().numpy()
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    parts = (q.mean(0), p.mean(0), entropy.mean(0)[None], p.var(0)[1:])
    return dict(zip(("pred", "member_mean", "member_entropy", "variance"), parts, strict=True))


def assert_close(found, wanted, rtol=1e-4, atol=1e-6):
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("spread", [0.1, 2.0, 200.0])
def test_equal_to_numpy(count, spread):
    first, drawn = members(count, spread=spread), members(count, spread=spread, seed=1)
    found = added(first, drawn)
    assert all(part.dtype == torch.float32 for part in found.values())
    assert_close(found, expected(first, drawn), atol=2e-7, rtol=1e-5)


def test_one_member_has_no_variance_and_is_returned_unchanged():
    first, drawn = members(1), members(1, seed=1)
    found = added(first, drawn)
    assert torch.equal(found["pred"], first[0])
    assert torch.equal(found["member_mean"], drawn[0])
    assert not found["variance"].any()


def test_members_that_nearly_agree_keep_their_digits():
    # the mean of squares minus the square of the mean would leave nothing of this in float32
    p = torch.full((4, 2, 1), 0.5)
    p[0::2, 1] += 1e-4
    p[1::2, 1] -= 1e-4
    assert added(p)["variance"].item() == pytest.approx(1e-8, rel=1e-3)


def test_added_tensors_may_change_afterwards():
    first, drawn = members(2), members(2, seed=1)
    wanted = expected(first, drawn)
    statistics = EnsembleStatistics()
    for one, other in zip(first, drawn, strict=True):
        statistics.add(one, other)
        one.zero_()
        other.zero_()
    assert_close(statistics.result(), wanted)


def test_no_member_is_an_error():
    with pytest.raises(ValueError, match="members: found none, expected at least one"):
        EnsembleStatistics().result()


def test_merged_parts_equal_the_whole():
    first, drawn = members(6), members(6, seed=1)
    total = EnsembleStatistics()
    for part in (slice(0, 4), slice(4, 6), slice(6, 6)):  # four, two, none
        total.merge(streamed(first[part], drawn[part]))
    assert total.count == 6
    assert_close(total.result(), expected(first, drawn))
