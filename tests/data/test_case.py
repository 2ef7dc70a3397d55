import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.data.utils import create_file_basename

from monai_pdddpm.data.case import Case, case_name, case_of
from monai_pdddpm.utils.errors import UserError


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/b.nii.gz", "b"), ("b.nii", "b"), ("c.d.nrrd", "c.d"), ("a/b.c.nii.gz", "b.c"), (Path("x.mha"), "x")],
)
def test_name_is_the_one_that_monai_saves_under(path, name):
    assert Case.of(path) == Case(name, (str(path),))
    assert create_file_basename("", path, "", separate_folder=False, makedirs=False) == name


def test_folder_keeps_its_dots(tmp_path, monkeypatch):
    (tmp_path / "1.2.840.7").mkdir()
    assert case_name(tmp_path / "1.2.840.7") == "1.2.840.7"
    assert case_name(f"{tmp_path}/1.2.840.7/") == "1.2.840.7"
    monkeypatch.chdir(tmp_path / "1.2.840.7")
    assert case_name(".") == "1.2.840.7"


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (["t1.nii.gz", "t2.nii.gz"], "t1"),
        ([None, "", "t2.nii.gz"], "t2"),
        (["gone.nii.gz", "t2.nii.gz"], "t2"),
        (["gone.nii.gz", None, "lost.nii.gz"], "gone"),
        ([None], "unnamed"),
    ],
)
def test_list_has_the_name_of_the_first_file_that_is_there(tmp_path, image, name):
    for file in ("t1.nii.gz", "t2.nii.gz"):
        (tmp_path / file).touch()
    case = Case.of([str(tmp_path / file) if file else file for file in image])
    assert case.name == name
    assert case_name(case.file) == name
    assert len(case.files) == len(image)


def test_present_files(tmp_path):
    (tmp_path / "a.nii").touch()
    files = [str(tmp_path / "a.nii"), None, "", "gone.nii"]
    assert Case.of(files).present_files == (str(tmp_path / "a.nii"), None, None, None)


@pytest.mark.parametrize("image", [3, None, [3], {"0": "a.nii"}])
def test_other_entries_are_refused(image):
    with pytest.raises(UserError, match="expected a path, or a list"):
        Case.of(image)


def test_case_of_a_tensor():
    case = Case("a", ("a.nii", None), ("a note",))
    assert Case.of(case) is case
    assert case_of({"case": case, "filename_or_obj": "other.nii"}) is case
    assert case_of({"filename_or_obj": "x/b.nii.gz"}) == Case("b", ("x/b.nii.gz",))
    assert case_of({}).name == "unnamed"


@pytest.mark.parametrize("count", [1, 2])
def test_case_stays_whole_in_a_batch_and_in_another_process(count):
    cases = [Case(f"c{i}", (f"c{i}.nii", None), ("note",) * i) for i in range(count)]
    items = [{"image": MetaTensor(torch.zeros(1, 2, 2, 2), meta={"case": case})} for case in cases]
    batch = pickle.loads(pickle.dumps(list_data_collate(items)))
    assert batch["image"].meta["case"] == cases
    assert [item["image"].meta["case"] for item in decollate_batch(batch)] == cases


def test_checksums(tmp_path):
    for name in ("a.mhd", "a.raw", "b.raw"):
        (tmp_path / name).write_text(name)
    found = Case.of([str(tmp_path / "a.mhd"), None]).checksums()
    expected = {str(tmp_path / name): hashlib.sha256(name.encode()).hexdigest() for name in ("a.mhd", "a.raw")}
    assert found == expected
    assert Case.of(tmp_path / "gone.nii").checksums() == {str(tmp_path / "gone.nii"): None}


@pytest.mark.parametrize("name", ["a b.nii", "é脳🧠.nii.gz", "a\u202fb.nii", "..a.nii", "....nii", "n" * 200 + ".nii"])
def test_results_can_be_named(name):
    Case.of(f"folder/{name}").check_name()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("n" * 201 + ".nii", "a name of 201 bytes"),
        ("é" * 101 + ".nii", "a name of 202 bytes"),
        ("a\nb.nii", "control characters"),
        ("a\x1b[31m.nii", "control characters"),
        ("\udcff.nii", "bytes that are not text"),
        ("", "written as"),
        *[(f"{name}.nii", "a file of its own") for name in ("Failures", "run.json", "INDEX.html", "cases.csv")],
    ],
)
def test_results_cannot_be_named(name, found):
    with pytest.raises(UserError, match=found):
        Case.of([None, f"folder/{name}"]).check_name()
