"""``verify`` finds each change of results, and nothing in unchanged results."""

import json

import pytest

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.verify import verify
from monai_pdddpm.inferers.config import EnsembleConfig
from monai_pdddpm.utils.atomic_write import write_json
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import checksum, made_by, provenance_record, report_path


@pytest.fixture
def output(tmp_path):
    """Two cases as inference leaves them."""
    for name in ("configs/inference.json", "models/model.pt"):
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_text("{}")
    model_file = tmp_path / "bundle" / "models" / "model.pt"
    config = EnsembleConfig(roi_size=[8, 8, 8], time_steps=[9, 0], members=2)
    record = provenance_record(tmp_path / "bundle", model_file, "", False, config, "error")
    settings = record["settings"]
    folder = tmp_path / "output"
    write_json(folder / "run.json", {"runs": [{"begun": "2026-01-01T00:00:00+00:00", **record}]})
    (folder / "index.html").write_text("<html>")
    (folder / "failures").mkdir()
    for case in ("a", "b"):
        scan = tmp_path / f"{case}.nii.gz"
        scan.write_text(f"scan {case}")
        (folder / case).mkdir()
        for what in ("seg.nii.gz", "prob.nii.gz"):
            (folder / case / f"{case}_{what}").write_text(f"{case} {what}")
        files = {path.name: checksum(path) for path in (folder / case).iterdir()}
        inputs = {str(scan): checksum(scan)}
        report = {"settings": settings, "made_by": made_by(record), "files": files, "inputs": inputs}
        write_json(report_path(folder, case), report)
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unchanged_results(output):
    assert verify(output).content == {"cases": 2, "files": 4, "findings": [], "notes": []}


def test_moved_results_are_unchanged(output, tmp_path):
    assert verify(output.rename(tmp_path / "moved")).problems == []


def _truncate(output):
    path = output / "a" / "a_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_truncate, "a: a_seg.nii.gz was changed"),
        (lambda output: (output / "b" / "b_prob.nii.gz").unlink(), "b: b_prob.nii.gz is missing"),
        (
            lambda output: (output / "a" / "a_report.json").unlink(),
            "a: no report; the case is unfinished or of another program",
        ),
        (
            lambda output: (output / "a" / "a_report.json").write_text("{"),
            "a: a_report.json was changed; it is not a report with checksums",
        ),
        (
            lambda output: edit(output / "a" / "a_report.json", files=["a_seg.nii.gz"]),
            "a: a_report.json was changed; it is not a report with checksums",
        ),
        (
            lambda output: edit(output / "a" / "a_report.json", settings={"members": 8}),
            "a: a_report.json was changed; it does not agree with run.json",
        ),
        (
            lambda output: edit(output / "a" / "a_report.json", made_by=None),
            "a: run.json does not list the run that made it",
        ),
        (
            lambda output: (output.parent / "b.nii.gz").write_text("another scan"),
            "b: its scan {parent}/b.nii.gz was changed after it was read",
        ),
    ],
)
def test_one_change_is_one_problem(output, change, finding):
    change(output)
    assert verify(output).problems == [finding.format(parent=output.parent)]


def test_a_changed_run_concerns_all_its_cases(output):
    runs = json.loads((output / "run.json").read_text())["runs"]
    name, runs[0]["weights"]["sha256"] = runs[0]["id"], "0" * 64
    edit(output / "run.json", runs=runs)
    unknown = [f"{case}: run.json does not list the run that made it" for case in "ab"]
    assert verify(output).problems == [f"run.json: the entry of run {name} was changed", *unknown]
    del runs[0]["weights"]
    edit(output / "run.json", runs=runs)
    assert len(verify(output).problems) == 3
    (output / "run.json").write_text("")
    assert verify(output).problems == ["run.json: cannot be read; the runs are not verified", *unknown]


def test_missing_scans_and_other_files_are_notes(output):
    (output.parent / "a.nii.gz").unlink()
    for number in range(5):
        (output / "b" / f"IM{number}").write_text("a slice")
    found = verify(output)
    assert found.problems == []
    assert found.content["notes"] == [
        f"a: its scan {output.parent}/a.nii.gz does not exist and is not compared",
        "b: not written by the run: IM0, IM1, IM2, ...: 5 files",
    ]


def test_no_results(tmp_path):
    with pytest.raises(UserError, match="found no case"):
        verify(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json: found a file, expected the output_dir of a run; fix the path"):
        verify(tmp_path / "run.json")


def test_on_the_command_line(output, capsys):
    assert main(["verify", str(output)]) == 0
    assert capsys.readouterr().out == "2 cases, 4 files: unchanged\n"
    assert main(["verify", str(output), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    _truncate(output)
    assert main(["verify", str(output)]) == 1
    lines = ["a: a_seg.nii.gz was changed", "2 cases, 4 files: 1 problems"]
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["verify", str(output), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"] == lines[:1]
    assert main(["verify", str(output), "--quiet"]) == 1
    assert capsys.readouterr().out == "a: a_seg.nii.gz was changed\n"
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(output / "none")])
