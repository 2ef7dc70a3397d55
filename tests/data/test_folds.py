"""Subjects, and folds of neighboring subjects, known beforehand."""

import pytest

from monai_pdddpm.data import fold_cases
from monai_pdddpm.data.folds import subject_of
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


def test_a_subject_is_in_one_fold():
    visits = [{"image": f"sub{subject}_{visit}.nii.gz"} for subject in (1, 2, 3, 4) for visit in (1, 2, 3)]
    assert [case["fold"] for case in fold_cases(visits, 3, scans_per_subject=3)] == [0] * 6 + [1] * 3 + [2] * 3
    by_visit = sorted(visits, key=lambda case: case["image"][5:])
    assert [case["fold"] for case in fold_cases(by_visit, 3, scans_per_subject=3)] == [0, 0, 1, 2] * 3
    assert fold_cases(visits, 3, 2, scans_per_subject=3) == fold_cases(visits, 3, scans_per_subject=3)[:9]
    with pytest.raises(UserError, match=r"training subjects \(4\)"):
        fold_cases(visits, 5, scans_per_subject=3)


def test_the_key_subject_comes_before_names():
    cases = [{"image": name, "subject": name[0]} for name in ("a_1", "a_2", "b_1")] + [
        {"image": "c_1"},
        {"image": "c_2"},
    ]
    assert fold_cases(cases) == cases
    assert [case["fold"] for case in fold_cases(cases, 4)] == [0, 0, 1, 2, 3]
    assert [case["fold"] for case in fold_cases(cases, 3, scans_per_subject=2)] == [0, 0, 1, 2, 2]


def test_subjects_of_numbered_scans():
    names = ["hippocampus_001", "hippocampus_002", "hippocampus_003", "scan"]
    assert [subject_of(name, 2) for name in names] == [
        "hippocampus_subject 1",
        "hippocampus_subject 1",
        "hippocampus_subject 2",
        "scan",
    ]
    assert [subject_of(name) for name in names] == names
    assert subject_of("hippocampus_001", 2, "Ann") == "Ann"
