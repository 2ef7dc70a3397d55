"""A folder's runs are written down once each, and nobody else's file is replaced."""

import json
from types import SimpleNamespace

import pytest

from monai_pdddpm.handlers import ProvenanceHandler


def engine(cases=2):
    return SimpleNamespace(state=SimpleNamespace(epoch_length=cases))


def runs(folder):
    return json.loads((folder / "run.json").read_text())["runs"]


def test_runs_are_added_in_their_order_and_once(tmp_path):
    for name in ("a", "b", "a"):
        ProvenanceHandler(tmp_path / "out", {"id": name, "settings": {"seed": 0}})(engine())
    found = runs(tmp_path / "out")
    assert [run["id"] for run in found] == ["a", "b"]
    assert found[0]["settings"] == {"seed": 0}
    assert found[0]["begun"].endswith("+00:00")


def test_a_run_without_cases_leaves_no_word(tmp_path):
    ProvenanceHandler(tmp_path, {"id": "a"})(engine(0))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_is_left_alone(tmp_path, caplog):
    (tmp_path / "run.json").write_text("mine")
    ProvenanceHandler(tmp_path, {"id": "a"})(engine())
    assert (tmp_path / "run.json").read_text() == "mine"
    assert "run.json: not of this program" in caplog.text


@pytest.mark.parametrize("name", ["a", "b"])
def test_only_the_first_process_writes(tmp_path, monkeypatch, name):
    monkeypatch.setattr("monai_pdddpm.handlers.provenance.is_first_rank", lambda: name == "a")
    ProvenanceHandler(tmp_path, {"id": name})(engine())
    assert (tmp_path / "run.json").is_file() == (name == "a")
