"""Folds: out-of-fold pre-segmentations, the mean of all folds, and a calibration on the cases of all folds."""

import json
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.train_folds import _Folds
from monai_pdddpm.data.case import Case
from monai_pdddpm.utils.errors import UserError

from .conftest import shorten, write_scan


@pytest.fixture
def bundle(decathlon, tmp_path, capsys):
    """A bundle of seven training cases, with one held out, and short epochs."""
    words = ["boxes_segmentation", "--dataset", str(decathlon(cases=8)), "--output_dir", str(tmp_path), "--json"]
    assert main(["create-bundle", *words, "--memory", "8", "--quiet"]) == 0
    found, folder = json.loads(capsys.readouterr().out), tmp_path / "boxes_segmentation"
    assert f"python -m monai_pdddpm train-folds {folder} --calibrate" in found["commands"]
    assert "and 1 are held out: train-folds cross-fits it" in " ".join(found["notes"])
    shorten(folder)
    return folder


@pytest.mark.slow
def test_folds(bundle, tmp_path, capsys):
    scan, damaged = (tmp_path / "scans" / f"{name}.nii.gz" for name in ("new", "damaged"))
    scan.parent.mkdir()
    damaged.write_bytes(b"no scan")
    shutil.copy(tmp_path / "decathlon" / "imagesTr" / "case_1.nii.gz", scan)
    words = ["train-folds", str(bundle), "--folds", "2", "--max_epochs", "1", "--scans", str(scan.parent)]
    assert main([*words, "--calibrate"]) == 1
    out = capsys.readouterr().out
    assert all(f"fold {k}: 1 of 3 cases failed (damaged)" in out for k in range(2))
    folds = bundle / "runs" / "folds"
    assert not (folds / "damaged.nii.gz").exists()
    damaged.unlink()
    places = [sorted(p.name for p in (folds / f"fold_{k}" / "validation").iterdir() if p.is_dir()) for k in range(2)]
    assert places == [["case 0 é", "case_1", "case_2", "case_3"], ["case_4", "case_5", "case_6"]]
    members = [nib.load(folds / "members" / str(k) / "new" / "new_prob.nii.gz").get_fdata() for k in range(2)]
    own = nib.load(folds / "fold_0" / "validation" / "case_1" / "case_1_prob.nii.gz")
    assert np.array_equal(own.get_fdata(), members[0])  # the voxels of case_1, by the network without its fold
    assert not np.array_equal(*members)
    mean = nib.load(folds / "new.nii.gz")
    assert np.allclose(mean.get_fdata(), np.mean(members, axis=0), atol=1e-4)
    assert np.array_equal(mean.affine, nib.load(scan).affine)
    calibration = json.loads((bundle / "models" / "calibration.json").read_text(encoding="utf-8"))
    assert calibration["fitted"]["cases"] == 7
    settings = {"bundle_root": str(bundle), "max_epochs": 1, "presegmentation_dir": str(folds)}
    settings["segmenter_files"] = str(bundle / "runs" / "segmenter_fold0" / "segmenter.pt")
    workflow = ConfigWorkflow([str(bundle / "configs" / "train.json")], workflow_type="train", **settings)
    workflow.initialize()
    workflow.run()
    written = [file.stat().st_mtime_ns for file in sorted(folds.rglob("*_prob.nii.gz"))]
    assert main(words) == 0  # finished work is not repeated
    assert [file.stat().st_mtime_ns for file in sorted(folds.rglob("*_prob.nii.gz"))] == written


def test_one_scan_fails(bundle, tmp_path, monkeypatch, capsys):
    workflow = _Folds._workflow
    for name in ("new", "damaged"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", np.zeros((2, 2, 2)))

    class Inference:
        """It fails on one case and writes the number of the fold for each other."""

        def __init__(self, *names, output_dir="", cases=(), **settings):
            self.place, self.names = Path(output_dir), [Case.of(case["image"]).name for case in cases]

        def run(self):
            for name in {*self.names} - {"damaged"}:
                voxels = np.full((2, 2, 2, 2), float(self.place.name == "1"))
                write_scan(self.place / name / f"{name}_prob.nii.gz", voxels)
            if "damaged" in self.names:
                raise RuntimeError("in an expression") from UserError("1 of 3 cases failed (damaged)")

    def replaced(self, *names, **settings):
        return (Inference if names == ("inference",) else partial(workflow, self))(*names, **settings)

    monkeypatch.setattr(_Folds, "_workflow", replaced)
    monkeypatch.setattr(_Folds, "train_segmenters", lambda self: None)
    words = ["train-folds", str(bundle), "--folds", "2", "--scans", str(tmp_path / "scans")]
    assert main([*words, "--quiet"]) == 1
    lines = [f"fold {fold}: 1 of 3 cases failed (damaged)" for fold in range(2)]
    assert capsys.readouterr().out.splitlines() == lines
    folds = bundle / "runs" / "folds"
    assert np.allclose(nib.load(folds / "new.nii.gz").get_fdata(), 0.5, atol=1e-4)
    assert not (folds / "damaged.nii.gz").exists()


def test_other_folds_do_not_resume_the_networks_of_earlier_ones(bundle, capsys):
    _Folds(bundle, 3, {})
    _Folds(bundle, 3, {})
    with pytest.raises(UserError, match=r"folds\.json: found other folds or cases of an earlier run, expected 2 folds"):
        _Folds(bundle, 2, {})
    assert main(["train-folds", str(bundle), "--folds", "0"]) == 1
    assert "error: --folds: found 0, expected a whole number of at least 2" in capsys.readouterr().err


def test_a_new_scan_with_the_name_of_a_case_is_refused(bundle, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "decathlon" / "imagesTr" / "case_1.nii.gz", tmp_path / "new")
    with pytest.raises(UserError, match="both have the name 'case_1'"):
        _Folds(bundle, 2, {}, tmp_path / "new")


def test_bundles_that_cannot_be_used(bundle):
    with pytest.raises(UserError, match="folds: found 8 "):
        _Folds(bundle, 8, {})
    file = bundle / "configs" / "train_segmenter.json"
    file.unlink()
    with pytest.raises(UserError, match=r"found no configs/train_segmenter\.json"):
        _Folds(bundle, 2, {})
