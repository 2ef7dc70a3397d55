"""A file is there complete or not at all, whatever happens while it is written."""

import os
import uuid
from pathlib import Path

import pytest

from monai_pdddpm.utils.atomic_write import atomic_write, remove_partial_files, write_text
from monai_pdddpm.utils.errors import UserError


def test_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as part:
        part.write_text("one")
        assert not path.exists()
        part.write_text("two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["scan_seg.nii.gz", "model.pt", "1.2.840.113619_report.json", "plain", ".hidden.png"])
def test_part_is_hidden_beside_the_file_and_ends_as_it_does(tmp_path, name):
    with atomic_write(str(tmp_path / name)) as part:
        assert part.parent == tmp_path
        assert part.name.startswith(".")
        assert part.name != name
        assert part.name.endswith("".join(Path(name).suffixes[-2:]))
        part.write_text("")
    assert os.listdir(tmp_path) == [name]


def test_part_names_differ(tmp_path):
    with atomic_write(tmp_path / "a") as first, atomic_write(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the last one to end
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
@pytest.mark.parametrize("written", [False, True])
def test_old_file_stays_and_no_part_when_anything_is_raised(tmp_path, error, written):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as part:
            if written:
                part.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_is_told_to_the_user(tmp_path):
    path = tmp_path / "a.txt"

    def write():
        with atomic_write(path) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError) as caught:
        write()
    assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device); free space on the disk")
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("text", "reason"), [("", "RuntimeError"), ("in file.cpp\ndisk is full\n", "disk is full")])
def test_failure_that_a_library_reports_by_a_runtime_error(tmp_path, text, reason):
    with pytest.raises(UserError, match=rf"cannot be written \({reason}\); free"), atomic_write(tmp_path / "a"):
        raise RuntimeError(text)


@pytest.mark.parametrize("name", ["none/a.txt", "folder"])
def test_a_place_that_cannot_be_written_to(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be written"), atomic_write(tmp_path / name) as part:
        part.write_text("x")
    assert os.listdir(tmp_path) == ["folder"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == []


def test_parts_of_a_killed_run_are_removed_and_nothing_else(tmp_path):
    kept = [".hidden", ".a.part", "scan.part.nii.gz", f".{32 * 'g'}.part", f"{32 * 'a'}.part", ".0.part.pt"]
    for name in kept:
        (tmp_path / name).write_text("x")
    for name in ("scan_seg.nii.gz", "model.pt", "plain"):
        with atomic_write(tmp_path / name) as part:
            part.write_text("whole")
            (tmp_path / f".{uuid.uuid4().hex}{part.name[33:]}").write_text("left behind")
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "scan_seg.nii.gz", "model.pt", "plain"])
    remove_partial_files(tmp_path / "none")


def test_only_parts_of_one_kind_of_file(tmp_path):
    names = [f".{'a' * 32}.part{suffix}" for suffix in ("", ".html", ".nii.gz", ".pt")]
    for name in names:
        (tmp_path / name).write_text("x")
    remove_partial_files(tmp_path, ".pt")
    assert sorted(os.listdir(tmp_path)) == names[:3]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/b: cannot be written \(Not a directory\)"):
        write_text(tmp_path / "file" / "b" / "a", "text")
