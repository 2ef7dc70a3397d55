"""The mutation run changes one expression at a time, and tells which changes its tests notice."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "mutation.py"


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import mutation

    yield mutation
    sys.modules.pop("mutation")


def made(mutation, monkeypatch, tmp_path, source):
    """Return the sources with one change each."""
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (tmp_path / "monai_pdddpm").mkdir()
    (tmp_path / "monai_pdddpm" / "a.py").write_text(source, encoding="utf-8")
    text = source.encode()
    found = [(text[: m.start] + m.after.encode() + text[m.end :]).decode() for m in mutation.mutants("a.py")]
    for each in found:
        ast.parse(each)
    return found


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("a + b", ["(a - b)"]),
        ("a / b", ["(a * b)"]),
        ("a <= b < c", ["(a < b < c)", "(a <= b <= c)"]),
        ("not a", ["(a)"]),
        ("a and b", ["(a or b)"]),
        ("3", ["4"]),
        ("0.5", ["1.0"]),
        ("0.0", ["1.0"]),
        ("True", ["False"]),
        ("min(a, b)", ["(max(a, b))"]),
        ("a.clamp(min=b)", ["(a)", "(a.clamp())"]),
        ("'Ä' + a.sum()", ["('Ä' - a.sum())"]),
    ],
)
def test_changes_of_an_expression(mutation, monkeypatch, tmp_path, line, changed):
    head = '"""Ä."""\n\n\ndef f(a: int | None = None, b=b"", c=""):\n    return '
    found = made(mutation, monkeypatch, tmp_path, f"{head}{line}\n")
    assert sorted(found) == sorted(f"{head}{each}\n" for each in changed)


def test_calls_and_conditions_are_changed_and_messages_are_not(mutation, monkeypatch, tmp_path):
    source = "def f(a):\n    if a:\n        a.pop()\n    if a is None:\n        raise ValueError(1 + 1)\n"
    found = made(mutation, monkeypatch, tmp_path, source)
    changed = {"if a:": "if (not a):", "a.pop()": "pass", "a is None": "(a is not None)"}
    assert sorted(found) == sorted(source.replace(*each) for each in changed.items())


def test_tests_of_a_mutant_are_those_that_run_its_line_and_those_of_its_module(mutation):
    mutant = mutation.Mutant("metrics/held_out.py", "f", 7, "", "", "", 0, 0)
    own = "tests/metrics/test_held_out.py::in_a_fork"
    seconds = {own: 3.0, "a.py::slow": 2.0, "a.py::quick": 1.0, "b.py::c": 1.0, "d.py::e": 1.0}
    lines = {"metrics/held_out.py": {"a.py::slow": [7], "a.py::quick": [7], "b.py::c": [8]}, "x.py": {"d.py::e": [7]}}
    covered = mutation.Covered(seconds, lines)
    assert mutation.tests_of(mutant, covered) == [own, "a.py::quick", "a.py::slow"]
    constant = mutant._replace(line=9)
    assert set(mutation.tests_of(constant, covered)) == {own, "a.py::quick", "a.py::slow", "b.py::c"}
    mutation.BUDGET = 4.5
    assert mutation.tests_of(mutant, covered) == [own, "a.py::quick"]


@pytest.mark.slow
def test_a_sample_is_killed():
    command = [sys.executable, str(TOOL), "metrics/lesions.py", "--sample", "4", "--least", "0.95"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| metrics | 4 | 4 | 0 | 0 |" in done.stdout
