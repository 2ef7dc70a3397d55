import pytest
from pdddpm_label.scoring import member_disagreement

from monai_pdddpm.utils.errors import UserError


def result(agreement, unlike=()):
    return {"features": {"agreement": agreement}, "unlike_usual": list(unlike)}


def test_score_is_one_minus_agreement():
    assert member_disagreement(result(0.75)) == pytest.approx(0.25)
    assert member_disagreement(result(1.0)) == 0


def test_scans_outside_the_usual_range_come_first():
    assert member_disagreement(result(1.0, ["volume of core (mL): found 0"])) >= member_disagreement(result(0.0))


def test_the_frame_with_the_highest_score_counts():
    assert member_disagreement(
        {"frames": [result(0.9), result(0.6), result(0.8)], "unlike_usual": []}
    ) == pytest.approx(0.4)


def test_a_result_without_members_has_no_score():
    with pytest.raises(UserError, match="return_members"):
        member_disagreement({"features": {}, "unlike_usual": []})
