"""Any members, in any order and in any parts."""

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr

from monai_pdddpm.inferers.statistics import EnsembleStatistics
from monai_pdddpm.metrics.uncertainty import mutual_information, predictive_entropy


@st.composite
def ensembles(draw):
    """Probabilities (members, K, voxels), and a weight for each member."""
    shape = draw(st.integers(1, 9)), draw(st.integers(2, 4)), draw(st.integers(1, 5))
    logits = draw(arrays.arrays("f4", shape, elements=st.floats(-40, 40, width=32)))
    weights = draw(st.lists(st.floats(0.01, 10), min_size=shape[0], max_size=shape[0]))
    return torch.tensor(logits).softmax(dim=1), weights


def added(members, weights):
    statistics = EnsembleStatistics()
    for member, weight in zip(members, weights, strict=True):
        statistics.add(member, weight)
    return statistics


def in_two_passes(members, weights):
    p = members.double().numpy()
    share = np.array(weights)[:, None, None] / sum(weights)
    mean = (share * p).sum(0)
    return mean, (share[:, 0] * entr(p).sum(1)).sum(0)[None], (share * (p - mean) ** 2).sum(0)[1:]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


@given(ensembles())
def test_streamed_is_what_two_passes_give(ensemble):
    assert_same(added(*ensemble).result(), in_two_passes(*ensemble))


@given(ensembles(), st.data())
def test_order_does_not_matter(ensemble, data):
    members, weights = ensemble
    order = data.draw(st.permutations(range(len(weights))))
    assert_same(added(members[order], [weights[i] for i in order]).result(), added(*ensemble).result())


@given(ensembles(), st.data())
def test_parts_do_not_matter(ensemble, data):
    """Of any number, empty ones among them, merged in any order, packed for the way or not."""
    members, weights = ensemble
    part_of = data.draw(st.lists(st.integers(0, 3), min_size=len(weights), max_size=len(weights)))
    total = EnsembleStatistics()
    for part in data.draw(st.permutations(range(4))):
        chosen = [i for i, owner in enumerate(part_of) if owner == part]
        statistics = added(members[chosen], [weights[i] for i in chosen])
        if chosen and data.draw(st.booleans()):
            statistics = EnsembleStatistics.unpacked(statistics.packed(), statistics.weight)
        total.merge(statistics)
    assert math.isclose(total.weight, sum(weights), rel_tol=1e-9)
    assert_same(total.result(), in_two_passes(*ensemble))


@given(ensembles())
def test_bounds(ensemble):
    members, _ = ensemble
    mean, entropy, variance = added(*ensemble).result()
    most = math.log(members.shape[1]) + 1e-6
    np.testing.assert_allclose(mean.sum(0), 1, atol=1e-5)
    assert ((entropy >= 0) & (entropy <= most)).all()
    of_mean = predictive_entropy(mean, dim=0)
    assert ((of_mean >= 0) & (of_mean <= most)).all()
    assert (of_mean - entropy[0] >= -2e-6).all()  # Jensen: members together are no surer than one by one
    assert ((variance >= 0) & (variance <= 0.25 + 1e-6)).all()  # Popoviciu, for what lies between 0 and 1
    information = mutual_information(mean, entropy[0])
    assert ((information >= 0) & (information <= most)).all()


@given(ensembles(), st.integers(2, 9))
def test_members_that_agree_tell_nothing_more(ensemble, count):
    members, _ = ensemble
    mean, entropy, variance = added(members[:1].expand(count, -1, -1), [1.0] * count).result()
    assert torch.equal(mean, members[0])
    assert not variance.any()
    assert (mutual_information(mean, entropy[0]) <= 2e-6).all()
