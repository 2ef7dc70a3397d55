"""Cases are cached as by MONAI, but read in the thread that asks for them."""

import threading

import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, Lambda, Randomizable, Transform
from torch.utils.data import RandomSampler

from monai_pdddpm.data import CachedDataset, WindowSampler
from monai_pdddpm.utils.errors import UserError


class Later(Randomizable, Transform):
    """Stands for a random transform: it and what follows it are not cached."""

    def __call__(self, value):
        return value + 1


def test_items_are_those_of_monai_and_computed_once():
    read = []

    def double(case):
        read.append(case)
        return 2 * case

    steps, cases = Compose([Lambda(double), Later()]), [1, 2, 3]
    data = CachedDataset(cases, steps)
    assert [data[i] for i in range(3)] == [data[i] for i in range(3)] == [3, 5, 7]
    assert read == cases
    theirs = CacheDataset(cases, steps, progress=False)
    assert [theirs[i] for i in range(3)] == [3, 5, 7]


def test_part_of_the_cases_and_new_cases():
    data = CachedDataset([1, 2, 3, 4], Compose([Lambda(lambda case: 2 * case)]), cache_num=2)
    assert [data[i] for i in range(4)] == [2, 4, 6, 8]
    data.set_data([5, 6])
    assert [data[i] for i in range(2)] == [10, 12]


def test_nothing_is_at_work_after_a_case_that_cannot_be_read():
    threads, read = set(), []

    def fail(case):
        threads.add(threading.current_thread())
        read.append(case["image"])
        if case["image"] == "1":
            raise ValueError("broken")
        return case

    before = threading.active_count()
    with pytest.raises(UserError, match="unexpected ValueError: broken"):
        CachedDataset([{"image": str(number)} for number in range(4)], Compose([Lambda(fail)]))
    assert threads == {threading.current_thread()}
    assert read[0] == "0"
    assert not {"2", "3"} & set(read)
    assert threading.active_count() <= before


class Draw(Randomizable, Transform):
    """Record the drawn number."""

    def __call__(self, case):
        return case | {"drawn": self.R.random()}


class Two(Randomizable, Transform):
    """Two crops of a case."""

    def __call__(self, case):
        return [case, case]


def seeded(transforms, seed=3):
    data = CachedDataset([{"name": name} for name in "abc"], Compose(transforms))
    data.seed_epoch(seed)
    return data


def test_a_case_depends_on_its_seed_and_place_alone():
    data = seeded([Draw()])
    forward = [data[i] for i in range(3)]
    assert [data[i] for i in (2, 1, 0)] == forward[::-1]
    assert len({item["drawn"] for item in forward}) == len({item["seed"] for item in forward}) == 3
    data.seed_epoch(4)
    assert not {item["drawn"] for item in forward} & {data[i]["drawn"] for i in range(3)}
    data.seed_epoch(3)
    assert data[1] == forward[1]


def test_every_crop_of_a_case_has_a_seed_of_its_own():
    first, second = seeded([Two()])[0]
    assert first["seed"] != second["seed"]
    assert "seed" not in CachedDataset([{"name": "a"}], Compose([Draw()]))[0]


class Drawn(Randomizable, Transform):
    """Adds a random number to a case."""

    def __call__(self, case):
        return case | {"drawn": self.R.random()}


def test_repeated_draws_of_a_case_differ_and_can_be_made_again():
    data = CachedDataset([{"image": "a"}, {"image": "b"}], Compose([Drawn()]))
    data.seed_epoch(3)
    torch.manual_seed(0)
    indices = list(WindowSampler(data, replacement=True, num_samples=50))
    windows = [data[i] for i in indices]
    assert len({window["drawn"] for window in windows}) == len({window["seed"] for window in windows}) == 50
    assert [data[i] for i in reversed(indices)] == windows[::-1]
    torch.manual_seed(0)
    assert [i % 2 for i in indices] == list(RandomSampler(data, replacement=True, num_samples=50))
    assert [window["image"] for window in windows] == ["ab"[i % 2] for i in indices]


def test_without_replacement_the_indices_are_those_of_the_cases():
    assert sorted(WindowSampler(range(5))) == [0, 1, 2, 3, 4]
