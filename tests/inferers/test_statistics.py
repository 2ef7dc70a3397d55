"""Running sums give what numpy gives for the members kept in memory."""

import numpy as np
import pytest
import torch

from monai_pdddpm.inferers.statistics import EnsembleStatistics


def members(count, classes=3, size=(4, 5, 3), seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, classes, *size, generator=generator) * spread).softmax(dim=1)


def added(probabilities, weights=None):
    statistics = EnsembleStatistics()
    for i, p in enumerate(probabilities):
        if weights is None:
            statistics.add(p)
        else:
            statistics.add(p, weights[i])
    return statistics.result()


def expected(probabilities, weights=None):
    p = probabilities.double().numpy()
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=float)
    w = (w / w.sum()).reshape(-1, *[1] * (p.ndim - 1))
    mean = (w * p).sum(0)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    return mean, (w[:, 0] * entropy).sum(0)[None], (w * (p - mean) ** 2).sum(0)[1:]


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("spread", [0.1, 2.0, 200.0])
def test_as_numpy_has_it(count, spread):
    p = members(count, spread=spread)
    for found, wanted in zip(added(p), expected(p), strict=True):
        assert found.dtype == torch.float32
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=2e-7, rtol=1e-5)


def test_variance_is_the_population_s():
    p = members(5).double()
    np.testing.assert_allclose(added(p)[2], np.var(p.numpy(), axis=0)[1:], rtol=1e-4, atol=1e-8)


def test_by_hand():
    # two classes, one voxel, three members
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])[..., None, None]
    mean, entropy, variance = added(p)
    assert mean.flatten().tolist() == pytest.approx([0.5, 0.5])
    assert entropy.item() == pytest.approx(np.log(2) / 3)
    assert variance.item() == pytest.approx(1 / 6)


def test_weights():
    p, weights = members(4), [0.5, 3.0, 0.01, 1.0]
    for found, wanted in zip(added(p, weights), expected(p, weights), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-7, rtol=1e-4)
    for found, scaled in zip(added(p, weights), added(p, [w / 4.51 for w in weights]), strict=True):
        assert torch.allclose(found, scaled, atol=1e-6)  # only their ratios count


def test_a_whole_weight_is_a_member_that_comes_again():
    p = members(3)
    twice = added(p[[0, 1, 1, 1, 2]])
    for found, wanted in zip(added(p, [1, 3, 1]), twice, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_order_does_not_matter():
    p = members(9)
    for found, wanted in zip(added(p.flip(0)), added(p), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_one_member_has_no_variance_and_comes_back_as_it_is():
    p = members(1)
    mean, _, variance = added(p)
    assert torch.equal(mean, p[0])
    assert torch.equal(variance, torch.zeros_like(variance))


def test_equal_members_have_no_variance_at_all():
    p = members(1).expand(50, -1, -1, -1, -1)
    mean, _, variance = added(p, [1 / 50] * 50)
    assert torch.equal(mean, p[0])
    assert torch.equal(variance, torch.zeros_like(variance))


def test_members_that_nearly_agree_keep_their_digits():
    # the mean of squares minus the square of the mean would leave nothing of this in float32
    p = torch.stack([torch.full((1,), 0.5), torch.full((1,), 0.5)]).repeat(2, 1, 1)
    p[0, 1] += 1e-4
    p[1, 1] -= 1e-4
    variance = added(p)[2]
    assert variance.item() == pytest.approx(1e-8, rel=1e-3)


def test_memory_does_not_grow_with_the_number_of_members():
    statistics = EnsembleStatistics()
    sizes = set()
    for p in members(12):
        statistics.add(p)
        sizes.add(sum(v.numel() for v in vars(statistics).values() if isinstance(v, torch.Tensor)))
        assert not any(isinstance(v, (list, dict, tuple)) for v in vars(statistics).values())
    assert sizes == {(3 + 3 + 1) * 4 * 5 * 3}


def test_a_member_given_away_may_change():
    p = members(2)
    kept = p.clone()
    statistics = EnsembleStatistics()
    statistics.add(p[0])
    p[0] = 0
    statistics.add(p[1])
    for found, wanted in zip(statistics.result(), expected(kept), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-4)


def test_short_types_are_summed_in_float32():
    p = members(64).bfloat16()
    mean, _, variance = added(p)
    assert mean.dtype == variance.dtype == torch.float32
    np.testing.assert_allclose(mean, p.double().mean(0), atol=1e-6)


def test_no_member_at_all_is_an_error():
    with pytest.raises(ValueError, match="members: found none"):
        EnsembleStatistics().result()


def test_merged_parts_are_the_whole():
    members = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    weights = [0.1, 0.2, 0.05, 0.3, 0.15, 0.2]
    whole = EnsembleStatistics()
    parts = [EnsembleStatistics() for _ in range(3)]
    for i, (member, weight) in enumerate(zip(members, weights, strict=True)):
        whole.add(member, weight)
        parts[i // 4].add(member, weight)  # four, two, none
    total = EnsembleStatistics()
    for part in parts:
        total.merge(part)
    assert total.weight == pytest.approx(1)
    for merged, expected in zip(total.result(), whole.result(), strict=True):
        torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)
    mean = (members * torch.tensor(weights).view(-1, 1, 1, 1)).sum(0)
    variance = (torch.tensor(weights).view(-1, 1, 1, 1) * (members - mean) ** 2).sum(0)
    torch.testing.assert_close(total.result()[2], variance[1:], rtol=0, atol=1e-6)


def test_packed_and_unpacked():
    one = EnsembleStatistics()
    for member in torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(2)).softmax(dim=1):
        one.add(member)
    again = EnsembleStatistics.unpacked(one.packed(), one.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.result(), again.result(), strict=True))
    with pytest.raises(ValueError, match="expected at least one"):
        EnsembleStatistics().packed()
