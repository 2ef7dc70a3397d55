"""A case counts as finished when its report is there and was made with the settings that are asked for."""

import json

import pytest

from monai_pdddpm.data import pending_cases
from monai_pdddpm.data.case import Case
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import report_path

SETTINGS = {"members": 8, "seed": 0, "steps": [899, 0], "presegmentation_weight": 0.25}
CASES = [{"image": f"/data/{name}.nii.gz"} for name in ("a", "b", "c")]


def record(settings=SETTINGS):
    parts = {part: {"sha256": part[0]} for part in ("code", "bundle", "weights")}
    return {"id": "1", "settings": settings, "calibration": None, **parts}


def finish(folder, case, settings=SETTINGS):
    path = report_path(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"case": case, "settings": settings}))
    return path


def test_report_path(tmp_path):
    assert report_path(tmp_path, "scan.1") == tmp_path / "scan.1" / "scan.1_report.json"
    assert report_path(str(tmp_path), "a") == tmp_path / "a" / "a_report.json"


def test_nothing_there_yet(tmp_path, capsys):
    assert pending_cases(CASES, tmp_path / "none", record()) == CASES
    assert capsys.readouterr().out == ""


def test_finished_cases_are_left_out_in_order(tmp_path, capsys):
    finish(tmp_path, "b")
    assert pending_cases(CASES, str(tmp_path), record()) == [CASES[0], CASES[2]]
    assert capsys.readouterr().out == f"1 of 3 cases are finished in {tmp_path}; --overwrite True repeats them\n"
    finish(tmp_path, "a")
    finish(tmp_path, "c")
    assert pending_cases(CASES, tmp_path, record()) == []


def test_a_folder_without_a_report_is_not_finished(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a_seg.nii.gz").write_text("x")
    assert pending_cases(CASES, tmp_path, record()) == CASES


def test_overwrite_redoes_all(tmp_path):
    finish(tmp_path, "a", {"members": 1})
    report_path(tmp_path, "b").parent.mkdir()
    report_path(tmp_path, "b").write_text("{")
    assert pending_cases(CASES, tmp_path, record(), overwrite=True) == CASES


def test_settings_that_this_run_does_not_name_do_not_matter(tmp_path):
    finish(tmp_path, "a", SETTINGS | {"older": 1})
    assert pending_cases(CASES[:1], tmp_path, record()) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 1}, "found results made with seed=0, expected seed=1"),
        ({"steps": [1]}, r"found results made with steps=\[899, 0\], expected steps=\[1\]"),
        ({"new": 3}, "found results made with new=None, expected new=3"),
    ],
)
def test_other_settings_are_an_error_that_names_the_first(tmp_path, change, text):
    finish(tmp_path, "b")
    with pytest.raises(UserError, match=text) as caught:
        pending_cases(CASES, tmp_path, record(SETTINGS | change))
    assert str(caught.value).startswith(f"{tmp_path / 'b'}: ")
    assert str(caught.value).endswith("give another --output_dir, or replace them with --overwrite True")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"settings": 3}', '{"settings": null}', "\x00\xff"])
def test_a_file_that_is_no_report(tmp_path, content):
    path = finish(tmp_path, "a")
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="found another file, expected a report of this package") as caught:
        pending_cases(CASES, tmp_path, record())
    assert str(caught.value).startswith(str(path))


def test_list_of_files_is_finished_under_the_name_of_the_first_that_is_there(tmp_path):
    (tmp_path / "t1.nii.gz").touch()
    case = {"image": [None, "gone.nii.gz", str(tmp_path / "t1.nii.gz")]}
    assert pending_cases([case], tmp_path, record()) == [case]
    finish(tmp_path, "t1")
    assert pending_cases([case], tmp_path, record()) == []


def test_other_weights_or_another_calibration_are_told(tmp_path):
    path = finish(tmp_path, "a")
    made = {"run": "1", "code": "another version", "bundle": "b", "weights": "w", "calibration": None}
    path.write_text(json.dumps({"settings": SETTINGS, "made_by": made}))
    assert pending_cases(CASES, tmp_path, record()) == CASES[1:]
    for part, words in (("weights", "other weights"), ("calibration", "another calibration")):
        path.write_text(json.dumps({"settings": SETTINGS, "made_by": made | {part: "x"}}))
        with pytest.raises(UserError, match=f"found results made with {words}; give another --output_dir"):
            pending_cases(CASES, tmp_path, record())
        assert pending_cases(CASES, tmp_path, record(), overwrite=True) == CASES
    finish(tmp_path, "a")  # by an earlier version, which did not say
    assert pending_cases(CASES, tmp_path, record()) == CASES[1:]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("key", ["image", "label"])
def test_an_input_that_a_result_would_replace_is_an_error(tmp_path, key, overwrite):
    file = tmp_path / "real" / "a" / "a_seg.nii.gz"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "out").symlink_to("real")
    cases = [CASES[0], {"image": "/data/b.nii.gz"} | {key: str(file)}]
    with pytest.raises(UserError, match="found an input where a result of case a is to be written") as caught:
        pending_cases(cases, tmp_path / "out", record(), overwrite)
    assert str(caught.value).startswith(f"{file}: ")
    assert pending_cases(cases, tmp_path / "elsewhere", record(), overwrite) == cases
    assert pending_cases(cases[1:], tmp_path / "out", record(), overwrite) == cases[1:]


def test_a_pre_segmentation_that_a_result_would_replace_is_an_error(tmp_path):
    prob = tmp_path / "a" / "a_prob.nii.gz"
    prob.parent.mkdir()
    prob.touch()
    given = record(SETTINGS | {"presegmentation_dir": str(tmp_path)})
    with pytest.raises(UserError, match="found an input where a result of case a is to be written"):
        pending_cases(CASES, tmp_path, given, overwrite=True)
    (tmp_path / "a.nii.gz").touch()  # is taken first
    assert pending_cases(CASES, tmp_path, given, overwrite=True) == CASES


def finish_scan(folder, scan, **changes):
    """Leave the report of a case that was made of a scan."""
    made = Case.of(str(scan))
    content = {"settings": SETTINGS, "image": str(scan), "inputs": made.checksums()} | changes
    path = report_path(folder, made.name)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path.parent


def test_another_scan_of_the_same_name_is_an_error_and_a_moved_one_is_finished(tmp_path):
    first, same, other = (tmp_path / folder / "scan.nii.gz" for folder in "ABC")
    for scan, content in ((first, "one"), (same, "one"), (other, "other")):
        scan.parent.mkdir()
        scan.write_text(content)
    done = finish_scan(tmp_path / "out", first)
    for scan in (first, same):
        assert pending_cases([{"image": str(scan)}], tmp_path / "out", record()) == []
    with pytest.raises(UserError) as caught:
        pending_cases([{"image": str(other)}], tmp_path / "out", record())
    assert str(caught.value) == (
        f"{done}: found results of {first}, expected those of {other}; give another --output_dir, or replace them with "
        "--overwrite True"
    )
    other.unlink()  # fails on its own
    assert pending_cases([{"image": str(other)}], tmp_path / "out", record()) == [{"image": str(other)}]


NEW = {"spacing": [1, 1, 1], "label_range": [-1.0, 1.0], "labels": {str(n): f"structure {n}" for n in range(99)}}


def test_what_reports_of_earlier_versions_lack_is_unknown_and_passes(tmp_path):
    finish(tmp_path, "a")
    assert pending_cases(CASES[:1], tmp_path, record(SETTINGS | NEW)) == []
    finish(tmp_path, "a", SETTINGS | NEW)
    assert pending_cases(CASES[:1], tmp_path, record(SETTINGS | NEW)) == []
    for change, text in (
        ({"spacing": [2, 1, 1]}, r"spacing=\[1, 1, 1\], expected spacing=\[2, 1, 1\]; give"),
        ({"label_range": [-0.25, 0.25]}, r"label_range=\[-1.0, 1.0\], expected label_range=\[-0.25, 0.25\]; give"),
        ({"labels": NEW["labels"] | {"5": "other"}}, "other labels; give"),
    ):
        with pytest.raises(UserError, match=f"found results made with {text}"):
            pending_cases(CASES[:1], tmp_path, record(SETTINGS | NEW | change))


def test_outputs_that_finished_cases_lack_are_named(tmp_path, capsys):
    for case, outputs in (("a", ["prob", "seg"]), ("b", ["seg"])):
        finish_scan(tmp_path, f"/data/{case}.nii.gz", outputs=outputs)
    assert pending_cases(CASES, tmp_path, record(), outputs="prob,slices,page") == CASES[2:]
    assert capsys.readouterr().out == (
        f"2 of 3 cases are finished in {tmp_path}, 2 of them without all of the outputs (prob, slices); --overwrite "
        "True repeats them\n"
    )
    assert pending_cases(CASES, tmp_path, record(), outputs="seg,page") == CASES[2:]
    assert "without" not in capsys.readouterr().out
