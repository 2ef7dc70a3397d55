"""The documentation site: pages that are made from the repository, and a build without warnings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra docs")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks():
    sys.path.insert(0, str(ROOT / "docs"))
    import hooks

    sys.path.remove(str(ROOT / "docs"))
    return hooks


def test_every_key_has_a_meaning(hooks):
    keys = set()
    for path in ROOT.glob("bundles/*/configs/*.json"):
        if path.stem in hooks.PROGRAMS:
            keys |= set(hooks.plain_keys(path))
    meant = set(hooks.MEANINGS)
    assert keys - meant - set(hooks.NOT_SET) == set()
    assert meant - keys == set()  # no meaning is left of a key that is gone


def test_page_of_keys_shows_the_values_of_each_bundle(hooks):
    row = next(line for line in hooks.keys_page().splitlines() if line.startswith("| `num_steps` |"))
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["`3`", "`5`", "`5`"]


def test_parts_of_the_pipeline_are_no_keys(hooks, tmp_path):
    path = tmp_path / "inference.json"
    path.write_text(
        json.dumps({"members": 8, "network": {"_target_": "X"}, "run": ["$@evaluator.run()"], "size": [1, 2]})
    )
    assert hooks.plain_keys(path) == {"members": 8, "size": [1, 2]}


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "keys.html").is_file()
