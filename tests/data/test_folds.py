"""Folds of neighboring cases, known beforehand."""

import pytest

from monai_pdddpm.data import fold_cases
from monai_pdddpm.utils.errors import UserError

CASES = [{"image": str(number)} for number in range(5)]


def test_all_cases_tagged():
    assert [case["fold"] for case in fold_cases(CASES, 2)] == [0, 0, 0, 1, 1]
    assert [case["fold"] for case in fold_cases(CASES, 5)] == [0, 1, 2, 3, 4]


def test_one_fold_left_out():
    assert [case["image"] for case in fold_cases(CASES, 2, 0)] == ["3", "4"]
    assert [case["image"] for case in fold_cases(CASES, 2, 1)] == ["0", "1", "2"]


def test_no_folds():
    assert fold_cases(CASES) == CASES


@pytest.mark.parametrize(("folds", "fold"), [(1, -1), (6, -1), (-1, -1), (0, 0), (2, 2), (2, -2)])
def test_folds_that_do_not_exist(folds, fold):
    with pytest.raises(UserError, match=r"^folds?: found"):
        fold_cases(CASES, folds, fold)
