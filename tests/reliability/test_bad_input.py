import logging

import pytest
from bad_input import KINDS, outcomes


@pytest.mark.slow
def test_every_kind_of_input_has_the_expected_outcome():
    logging.disable(logging.CRITICAL)
    try:
        found = list(outcomes(KINDS))
    finally:
        logging.disable(logging.NOTSET)
    wrong = [(one.kind.name, one.kind.outcome, one.what, one.line, one.seconds) for one in found if not one.right]
    assert wrong == []


def test_names_of_kinds_are_distinct():
    assert len({(kind.group, kind.name) for kind in KINDS}) == len(KINDS) > 300
