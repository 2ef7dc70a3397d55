"""``check`` finds each problem of a data set, one line each, and nothing in a correct one."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.__main__ import main

from .conftest import change


def findings(capsys, *words):
    code = main(["check", *map(str, words), "--json"])
    found = json.loads(capsys.readouterr().out)["findings"]
    assert code == bool(found)
    return {(finding["kind"], finding["where"]) for finding in found}


def test_nothing_wrong(decathlon, nnunet, capsys):
    for root in (decathlon(), nnunet()):
        assert main(["check", str(root)]) == 0
        assert "no problem found" in capsys.readouterr().out


def test_each_kind(decathlon, capsys):
    root = decathlon(cases=8, values=(0, 1, 2))

    def replace(name, array):
        nib.save(nib.Nifti1Image(array, np.eye(4)), root / name)

    (root / "labelsTr" / "case_1.nii.gz").unlink()
    (root / "imagesTr" / "case_2.nii.gz").write_bytes(b"no scan")
    replace("labelsTr/case_3.nii.gz", np.ones((20, 24, 15), np.uint8))
    replace("labelsTr/case_4.nii.gz", np.full((20, 24, 16), 7, np.uint8))
    replace("labelsTr/case_5.nii.gz", np.zeros((20, 24, 16), np.uint8))
    shutil.copy(root / "imagesTr" / "case_7.nii.gz", root / "imagesTr" / "case_6.nii.gz")
    assert findings(capsys, root) == {
        ("missing-file", str(root / "labelsTr" / "case_1.nii.gz")),
        ("unreadable", "case_2"),
        ("label", "case_3"),
        ("label", "case_4"),
        ("label-empty", "case_5"),
        ("duplicate", "case_7"),
    }


def test_label_that_never_occurs_and_missing_modality(decathlon, nnunet, capsys):
    root = decathlon(values=(0, 1))
    change(root, labels={"0": "background", "1": "a", "4": "ghost"})
    assert findings(capsys, root) == {("label-unused", "label 4 (ghost)")}
    other = nnunet()
    (other / "imagesTr" / "box_001_0001.nii.gz").unlink()
    assert findings(capsys, other) == {("missing-modality", "box_001")}


def test_duplicates_across_the_split(decathlon, capsys):
    root = decathlon()
    training = change(root)["training"]
    change(root, training=training[:3], validation=training[3:])
    shutil.copy(root / "imagesTr" / "case_2.nii.gz", root / "imagesTr" / "case_3.nii.gz")
    assert main(["check", str(root)]) == 1
    assert "one for training and one for validation" in capsys.readouterr().out


def test_quiet(decathlon, capsys):
    root = decathlon()
    assert main(["check", str(root), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    (root / "labelsTr" / "case_1.nii.gz").unlink()
    assert main(["check", str(root), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("missing-file: ")
    assert len(out.splitlines()) == 1
    assert not err


@pytest.mark.parametrize("words", [["check"], ["check", "/nowhere"], ["chekc", "x"], [], ["info", "/nowhere"]])
def test_misuse(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    out, err = capsys.readouterr()
    assert not out
    assert "error: " in err
