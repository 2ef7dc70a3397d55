import pytest
from pdddpm_label.scoring import member_disagreement

from monai_pdddpm.utils.errors import UserError


def result(agreement, unlike=()):
    return {"features": {"agreement": agreement}, "unlike_usual": list(unlike)}


def test_doubt_is_what_agreement_lacks():
    assert member_disagreement(result(0.75)) == pytest.approx(0.25)
    assert member_disagreement(result(1.0)) == 0


def test_a_scan_unlike_the_usual_comes_before_all_usual_ones():
    assert member_disagreement(result(1.0, ["volume of core (mL): found 0"])) >= member_disagreement(result(0.0))


def test_the_worst_frame_counts():
    assert member_disagreement(
        {"frames": [result(0.9), result(0.6), result(0.8)], "unlike_usual": []}
    ) == pytest.approx(0.4)


def test_an_answer_without_members_has_no_doubt():
    with pytest.raises(UserError, match="write_members"):
        member_disagreement({"features": {}, "unlike_usual": []})
