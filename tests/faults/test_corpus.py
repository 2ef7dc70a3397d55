"""Whatever lies among the scans: the right result or one line that says why not, soon, and the good scan is done."""

import pytest
from kinds import KINDS
from make_corpus import in_docs, outcomes, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    return list(outcomes())


def name(number):
    return f"{KINDS[number].group}: {KINDS[number].name}"


@pytest.mark.parametrize("number", range(len(KINDS)), ids=name)
def test_kind(found, number):
    outcome = found[number]
    expected = KINDS[number].outcome, KINDS[number].says
    assert outcome.right, f"{outcome.what}: {outcome.line} ({outcome.seconds:.1f} s), expected {expected}"


def test_names_are_distinct():
    assert len({(kind.group, kind.name) for kind in KINDS}) == len(KINDS) >= 100


def test_docs_have_the_table(found):
    assert in_docs() == table(found), "run python tests/faults/make_corpus.py --write"
