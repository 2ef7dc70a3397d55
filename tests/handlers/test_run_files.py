"""A run writes its record once, a page for all cases, and a note of each failed case until it succeeds."""

import json
from types import SimpleNamespace

import pytest
import torch
from monai.engines.utils import IterationEvents

from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.handlers import RunFiles
from monai_pdddpm.utils.atomic_write import write_json
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import report_path


class Reporting:
    """Write a minimal report."""

    def __init__(self, folder):
        self.folder = folder

    def attach(self, engine):
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine):
        for item in engine.state.output:
            case = item["image"].meta["filename_or_obj"].removesuffix(".nii.gz")
            report = {"case": case, "result": {}, "seconds": {"chain": 1.0}, "versions": {"monai_pdddpm": "0"}}
            write_json(report_path(self.folder, case), report)


def run(folder, good, bad=(), **options):
    """Run over good cases and cases that cannot be read."""
    images = [SimpleNamespace(meta={"filename_or_obj": f"{name}.nii.gz"}) for name in good]
    failures = [{"failure": {"case": name, "file": f"{name}.nii.gz", "error": f"{name} is <bad>"}} for name in bad]

    class Evaluator(CaseEvaluator):
        def _iteration(self, engine, batchdata):
            if "failure" in batchdata:
                return self._fail(engine, batchdata["failure"])
            if batchdata["image"].meta["filename_or_obj"].startswith("stop"):
                raise KeyboardInterrupt
            engine.state.output = [batchdata]
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
            return engine.state.output

    Evaluator(
        device=torch.device("cpu"),
        val_data_loader=[*failures, *({"image": image} for image in images)],
        network=torch.nn.Identity(),
        decollate=False,
        val_handlers=[Reporting(folder), RunFiles(folder, {"id": "a"}, **options)],
    ).run()


def test_page_and_notes(tmp_path, capsys):
    with pytest.raises(UserError, match="1 of 3 cases failed"):
        run(tmp_path, ["a", "b"], ["c"])

    assert json.loads((tmp_path / "failures" / "c.json").read_text())["error"] == "c is <bad>"
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "c is &lt;bad&gt;" in page
    assert "2 cases finished" in page
    assert f"overview of all cases: {tmp_path / 'index.html'}" in capsys.readouterr().out


def test_a_note_is_removed_when_its_case_succeeds(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path, [], ["c", "d"])
    run(tmp_path, ["c"])
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["d.json"]
    assert "d is &lt;bad&gt;" in (tmp_path / "index.html").read_text(encoding="utf-8")
    run(tmp_path, ["d"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "cases.csv", "d", "index.html", "run.json"]
    assert "0 failed" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_page_of_another_program_is_kept_with_a_warning(tmp_path, caplog):
    (tmp_path / "index.html").write_text("mine")
    run(tmp_path, ["a"])
    assert (tmp_path / "index.html").read_text() == "mine"
    assert "the page of all cases is not written" in caplog.text


def test_page_of_a_killed_run_is_written_by_the_next(tmp_path):
    run(tmp_path, ["a"])
    (tmp_path / "index.html").unlink()
    (tmp_path / f".{'a' * 32}.part.html").write_text("half")
    run(tmp_path, [])  # the case is finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "cases.csv", "index.html", "run.json"]
    assert "1 case finished" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_stopped_run_has_a_page_of_the_cases_so_far(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["a", "stop", "b"], ["c"])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 case finished" in page
    assert "c is &lt;bad&gt;" in page
    expected = ["a", "cases.csv", "failures", "index.html", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    run(tmp_path, ["b"])  # the next run completes it
    assert (tmp_path / "cases.csv").read_text(encoding="utf-8-sig").count("finished") == 2


def test_a_stopped_run_leaves_what_other_processes_still_write(tmp_path):
    (tmp_path / "failures").mkdir()
    part = tmp_path / "failures" / f".{'b' * 32}.part.json"
    part.write_text("half")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["stop"])
    assert part.is_file()
    run(tmp_path, [])  # no process writes at the end of a run
    assert not part.parent.exists()


def test_it_can_be_turned_off(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path, ["a"], ["b"], outputs="seg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "run.json"]


def engine(cases=2):
    return SimpleNamespace(state=SimpleNamespace(epoch_length=cases))


def runs(folder):
    return json.loads((folder / "run.json").read_text())["runs"]


def test_runs_are_added_in_their_order_and_once(tmp_path):
    for name in ("a", "b", "a"):
        RunFiles(tmp_path / "out", {"id": name, "settings": {"seed": 0}})._add_run(engine())
    found = runs(tmp_path / "out")
    assert [run["id"] for run in found] == ["a", "b"]
    assert found[0]["settings"] == {"seed": 0}
    assert found[0]["begun"].endswith("+00:00")


def test_a_run_without_cases_is_not_recorded(tmp_path):
    RunFiles(tmp_path, {"id": "a"})._add_run(engine(0))
    assert list(tmp_path.iterdir()) == []


def test_a_run_json_of_another_program_is_kept(tmp_path, caplog):
    (tmp_path / "run.json").write_text("mine")
    RunFiles(tmp_path, {"id": "a"})._add_run(engine())
    assert (tmp_path / "run.json").read_text() == "mine"
    assert "run.json: not written by monai_pdddpm" in caplog.text


@pytest.mark.parametrize("name", ["a", "b"])
def test_only_the_first_process_writes(tmp_path, monkeypatch, name):
    monkeypatch.setattr("monai_pdddpm.handlers.run_files.is_first_rank", lambda: name == "a")
    RunFiles(tmp_path, {"id": name})._add_run(engine())
    assert (tmp_path / "run.json").is_file() == (name == "a")


def test_what_was_given_and_what_became_of_it(tmp_path, capsys):
    with pytest.raises(UserError, match="1 of 2 cases failed"):
        run(tmp_path, ["a"], ["b"], given={"cases": 3, "unused": ["x.txt"]})
    out = capsys.readouterr().out
    assert "3 cases were given; not used: x.txt: 1 file\n" in out
    assert "3 cases: 1 done, 1 failed, 1 finished before\n" in out
    recorded = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert [entry["input"] for entry in recorded] == [{"cases": 3, "unused": ["x.txt"]}]
    assert "Not used: x.txt: 1 file (see run.json)." in (tmp_path / "index.html").read_text(encoding="utf-8")
    run(tmp_path, ["b"], given={"cases": 3, "unused": []})
    recorded = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert [entry["input"] for entry in recorded] == [{"cases": 3, "unused": []}]
    assert "Not used" not in (tmp_path / "index.html").read_text(encoding="utf-8")
