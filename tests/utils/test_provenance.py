"""Checksums name content, not places, and a run's record changes with whatever its answers depend on."""

import hashlib
import json

import numpy as np
import pytest

from monai_pdddpm.inferers.config import EnsembleConfig
from monai_pdddpm.utils.provenance import (
    checksum,
    code_checksum,
    made_by,
    provenance_record,
    read_runs,
    record_id,
    versions,
)


@pytest.fixture
def bundle(tmp_path):
    for name, text in (
        ("configs/metadata.json", '{"name": "liver", "version": "0.2.0"}'),
        ("configs/inference.json", "{}"),
        ("models/model.pt", "weights"),
        ("models/calibration.json", "{}"),
    ):
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "bundle"


def record(bundle, calibrated=True, **settings):
    models = bundle / "models"
    config = EnsembleConfig(roi_size=(8, 8, 8), **{"time_steps": (999, 600), **settings})
    return provenance_record(bundle, models / "model.pt", models / "calibration.json", calibrated, config, "zero")


def test_checksum_of_a_file_is_sha256(tmp_path):
    content = b"0123456789" * 300_000  # more than is read at once
    (tmp_path / "scan").write_bytes(content)
    assert checksum(tmp_path / "scan") == hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path / "none") is None


def test_checksum_of_a_folder_is_of_names_and_contents(tmp_path):
    for series in ("a", "b"):
        (tmp_path / series / "deep").mkdir(parents=True)
        (tmp_path / series / "1.dcm").write_text("one")
        (tmp_path / series / "deep" / "2.dcm").write_text("two")
    whole = checksum(tmp_path / "a")
    assert whole == checksum(tmp_path / "b")
    (tmp_path / "a" / "1.dcm").rename(tmp_path / "a" / "3.dcm")
    assert checksum(tmp_path / "a") != whole
    (tmp_path / "b" / "1.dcm").write_text("uno")
    assert checksum(tmp_path / "b") not in (whole, checksum(tmp_path / "a"))


def test_results_beside_the_slices_of_a_series_do_not_change_its_checksum(tmp_path):
    series = tmp_path / "series"
    (series / "failures").mkdir(parents=True)
    (series / "1.dcm").write_text("one")
    before = checksum(series)
    for name in ("series_seg.nii.gz", "series_report.json", "run.json", "index.html", "failures/a.json"):
        (series / name).write_text("result")
    assert checksum(series) == before
    (series / "series_seg_mine.nii.gz").write_text("mine")
    assert checksum(series) != before


def test_a_record_says_what_a_run_goes_with(bundle):
    found = record(bundle)
    assert found["bundle"]["name"] == "liver"
    assert found["bundle"]["version"] == "0.2.0"
    assert found["weights"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["calibration"]["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert found["code"] == {"sha256": code_checksum(), "versions": versions()}
    assert found["settings"]["time_steps"] == [999, 600]
    assert found["settings"]["missing_channels"] == "zero"
    assert found["id"] == record_id(json.loads(json.dumps(found | {"begun": "now"})))
    assert made_by(found) == {
        "run": found["id"],
        "code": code_checksum(),
        "bundle": found["bundle"]["sha256"],
        "weights": found["weights"]["sha256"],
        "calibration": found["calibration"]["sha256"],
    }
    assert set(versions()) == {"python", "monai_pdddpm", "monai", "torch", "numpy", "nibabel"}


def test_the_same_run_has_the_same_name_wherever_it_is(bundle, tmp_path):
    first = record(bundle)["id"]
    moved = bundle.rename(tmp_path / "elsewhere")
    assert record(moved)["id"] == first
    names = {first, record(moved, members=4)["id"], record(moved, calibrated=False)["id"]}
    for name, text in (("models/model.pt", "others"), ("configs/inference.json", "[]")):
        (moved / name).write_text(text)
        names.add(record(moved)["id"])
    assert len(names) == 5


def test_settings_are_as_a_report_has_them(bundle):
    config = EnsembleConfig(roi_size=(8, 8, 8), time_steps=(999, 600))
    more = {"spacing": (1.0, np.float32(2), 3), "label_values": np.array([0, 2]), "labels": {0: "air"}}
    settings = provenance_record(bundle, "", "", False, config, "zero", **more)["settings"]
    assert settings["spacing"] == [1.0, 2.0, 3]
    assert settings["label_values"] == [0, 2]
    assert settings["labels"] == {"0": "air"}
    assert json.loads(json.dumps(settings)) == settings


def test_no_calibration_is_none(bundle):
    (bundle / "models" / "calibration.json").unlink()
    assert record(bundle)["calibration"] is None
    assert record(bundle) == record(bundle, calibrated=False)


def test_reading_the_runs_of_a_folder(tmp_path):
    assert read_runs(tmp_path) == []
    for text in ("", "[]", '{"runs": 3}', '{"runs": [{}]}', '{"mine": true}'):
        (tmp_path / "run.json").write_text(text)
        assert read_runs(tmp_path) is None
    (tmp_path / "run.json").write_text('{"runs": [{"id": "a"}]}')
    assert read_runs(tmp_path) == [{"id": "a"}]


def test_a_folder_of_pre_segmentations_is_named_as_it_is_read(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    config = EnsembleConfig(roi_size=(8, 8, 8), time_steps=(999, 600))
    for text, path in (("~root", str(tmp_path / "~root")), ("~/files", "/home/me/files"), ("", None)):
        made = provenance_record(bundle, "", "", False, config, "zero", presegmentation_dir=text)
        assert made["settings"]["presegmentation_dir"] == path
