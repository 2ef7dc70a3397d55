from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'


def test_readme_and_ci_run_the_same_tests():
    assert COMMAND in (ROOT / "README.md").read_text(encoding="utf-8")
    assert COMMAND in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
