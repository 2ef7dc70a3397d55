"""The table of all cases, as a spreadsheet reads it."""

import csv
import io
import json

import pytest

from monai_pdddpm.visualize.cases import as_csv, read_cases

from .test_report import ODD, cases, fail, report, write  # noqa: F401


def table(folder):
    text = as_csv(read_cases(folder))
    assert text[0] == "\ufeff"
    return {row["case"]: row for row in csv.DictReader(io.StringIO(text[1:], newline=""))}


def test_a_row_per_case(cases):  # noqa: F811
    found = table(cases)
    assert list(found) == sorted(["case_10", "case_2", "gone", ODD])
    row = found["case_2"]
    assert row["status"] == "finished"
    assert row["lung volume (mL)"] == "9.0"
    assert row["lung volume, 90 % interval, low (mL)"] == "8.5"
    assert row["lung volume, 90 % interval, high (mL)"] == "9.75"
    assert row["lung volume, smallest member (mL)"] == "8.0"
    assert row["predicted Dice"] == "0.8"
    assert row["mean entropy inside (nats)"] == "0.25"
    assert row["seconds"] == "91.5"
    assert found["case_10"]["status"] == "check"
    assert found["case_10"]["outside the usual range"] == "volume of lung <big>"
    assert found["gone"]["failure"] == "gone.nii.gz: <cut short>"
    assert found["gone"]["lung volume (mL)"] == ""


def test_numbers_of_each_structure(tmp_path):
    content = report(1.0)
    content["result"]["structures"] = {
        "lung": {"expected_dice": 0.75, "agreement": 0.5, "mean_entropy_inside_nats": 0.125}
    }
    write(tmp_path, "a", content)
    row = table(tmp_path)["a"]
    assert row["lung expected Dice"] == "0.75"
    assert row["lung agreement of the members (Dice)"] == "0.5"
    assert row["lung mean entropy inside (nats)"] == "0.125"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_texts_are_not_formulas(tmp_path, start):
    write(tmp_path, "a", report(1.0) | {"notes": [f"{start}cmd|' /C calc'!A0"]})
    fail(tmp_path, "-b", f"{start}2+5")
    found = table(tmp_path)
    start = start.replace("\r", "\n")
    assert found["a"]["notes"] == f"'{start}cmd|' /C calc'!A0"
    assert found["'-b"]["failure"] == f"'{start}2+5"


def test_negative_numbers_and_letters_stay(tmp_path):
    write(tmp_path, 'ä,"b"', report(1.0) | {"seconds": {"all": -1.0}, "notes": ["Größe", "a\nb"]})
    row = table(tmp_path)['ä,"b"']
    assert row["seconds"] == "-1.0"
    assert row["notes"] == "Größe; a\nb"


def test_frames_have_rows(tmp_path):
    series = report(1.0)
    series["result"] = {"frames": [report(ml)["result"] for ml in (1.0, 3.0)], "unlike_usual": []}
    write(tmp_path, "cine", series)
    rows = list(csv.DictReader(io.StringIO(as_csv(read_cases(tmp_path))[1:])))
    assert [(row["case"], row["frame"], row["lung volume (mL)"]) for row in rows] == [
        ("cine", "0", "1.0"),
        ("cine", "1", "3.0"),
    ]


def test_a_scan_of_several_files(tmp_path):
    write(tmp_path, "a", report(1.0) | {"image": ["t1.nii", None]})
    assert table(tmp_path)["a"]["scan"] == "t1.nii; None"
    assert json.loads((tmp_path / "a" / "a_report.json").read_text())["image"] == ["t1.nii", None]
