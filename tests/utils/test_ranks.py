"""Cases of several processes are the cases of one, none twice and none left out."""

import pytest
import torch
from torch.utils.data import RandomSampler

from monai_pdddpm.utils import ranks
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.ranks import RankSampler, cases_of_rank


@pytest.fixture
def as_rank(monkeypatch):
    def pretend(number, of):
        monkeypatch.setattr(ranks, "rank", lambda: number)
        monkeypatch.setattr(ranks, "world_size", lambda: of)
        monkeypatch.setattr(ranks, "gathered", lambda value: [value] * of)

    return pretend


@pytest.mark.parametrize(
    ("count", "of", "parts"),
    [
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (4, 2, [[0, 1], [2, 3]]),
        (1, 3, [[0], [], []]),
        (0, 2, [[], []]),
    ],
)
def test_shares_by_hand(count, of, parts):
    assert [list(ranks.share(count, number, of)) for number in range(of)] == parts


def test_one_process_has_all():
    assert (ranks.rank(), ranks.world_size(), ranks.is_first_rank()) == (0, 1, True)
    assert ranks.gathered("a") == ["a"]
    assert cases_of_rank(["a", "b"]) == cases_of_rank(["a", "b"], "members") == ["a", "b"]


def test_cases_follow_each_other(as_rank):
    found = []
    for number in range(2):
        as_rank(number, 2)
        found.append(cases_of_rank(list("abcde")))
    assert found == [list("abc"), list("de")]


def test_first_process_decides(in_processes):
    def work():
        return cases_of_rank([f"seen by {ranks.rank()}", "b"])

    assert in_processes(2, work) == [["seen by 0"], ["b"]]


def test_few_cases(as_rank):
    as_rank(1, 3)
    assert cases_of_rank(["a", "b"], repeat_few=True) == ["a", "b"]
    assert cases_of_rank(["a", "b", "c"], repeat_few=True) == ["b"]
    assert cases_of_rank(["a"]) == []


def test_members_are_spread_over_processes_that_have_no_cases(as_rank):
    as_rank(1, 2)
    assert cases_of_rank(["a", "b"], "members") == []
    as_rank(0, 2)
    assert cases_of_rank(["a", "b"], "members") == ["a", "b"]
    with pytest.raises(UserError, match="spread: found 'voxels', expected 'cases' or 'members'"):
        cases_of_rank([], "voxels")


@pytest.mark.parametrize("of", [1, 2, 3])
@pytest.mark.parametrize("drawn", [RandomSampler(range(13)), RandomSampler(range(2), replacement=True, num_samples=13)])
def test_batches_are_together_those_of_one_process(as_rank, of, drawn):
    batch = 2

    def order(number, size):
        as_rank(number, size)
        torch.manual_seed(7)
        sampler = RankSampler(drawn)
        assert len(list(sampler)) == len(sampler)
        torch.manual_seed(7)
        return list(sampler)

    torch.manual_seed(7)
    one = list(drawn)
    parts = [order(number, of) for number in range(of)]
    for i in range(13 // (of * batch)):
        together = [case for part in parts for case in part[i * batch : (i + 1) * batch]]
        assert sorted(together) == sorted(one[i * of * batch : (i + 1) * of * batch])


def test_fewer_cases_than_processes(as_rank):
    as_rank(0, 3)
    with pytest.raises(UserError, match="found an epoch of 2 windows for 3 processes"):
        RankSampler(RandomSampler([1, 2]))
    assert len(RankSampler(RandomSampler([1, 2], replacement=True, num_samples=100))) == 33
