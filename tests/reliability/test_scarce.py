"""A full or read-only disk, too little memory, temporary space or open files: one line, and nothing half written."""

import json
import os
import resource
import subprocess
import tempfile

import nibabel as nib
import numpy as np
import pytest
import torch
from scarce import limit, run, small_disk
from unbroken import differing, files_in, is_part, is_whole

from monai_pdddpm.data import write_phantom
from monai_pdddpm.data.dataset import explain_failure
from monai_pdddpm.inferers import scratch
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

KIB, MIB = 2**10, 2**20
FEW = {"members": 2, "num_steps": 1}
SHORT = {"max_epochs": 2, "val_interval": 2, "roi_size": "[16, 16, 16]", "batch_size": 2}
CASES = ("phantom_004", "phantom_005", "phantom_006")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Scans of 16 x 16 x 16 voxels: 3 to train on, 1 for validation, 3 for test."""
    few = {"train": 3, "validation": 1, "test": 3, "series": 0, "annotations": 1}
    target = tmp_path_factory.mktemp("scarce") / "data"
    return write_phantom(target, **few, size=(16, 16, 16), spacing=(2.0, 2.0, 2.0), progress=False)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """What a run leaves that lacks nothing."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = run("inference", folder / "log", dataset_dir=data, output_dir=folder / "output", **FEW)
    assert done.code == 0, done.text
    return folder / "output"


def assert_tidy(folder):
    """Nothing under a temporary name, nothing cut short."""
    files = files_in(folder)
    assert [name for name, path in files.items() if is_part(path)] == []
    assert [name for name, path in files.items() if not is_whole(path)] == []


def finished(folder):
    return sorted(path.parent.name for path in folder.glob("*/*_report.json"))


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
class TestInference:
    def test_full_disk(self, data, unbroken, tmp_path):
        # room for one case and a half
        room = bytes_of(unbroken / CASES[0]) * 3 // 2 + 64 * KIB
        with small_disk(tmp_path / "disk", room) as disk:
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert done.code == 1, done.text
            assert "Traceback" not in done.text
            assert len(done.errors) == 1
            assert "No space left on device" in done.errors[0]
            assert "; free space on the disk" in done.errors[0]
            assert CASES[0] in finished(disk / "output")
            assert_tidy(disk / "output")
            subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(disk)], check=True)
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert done.code == 0, done.text
            assert [name for name in differing(disk / "output", unbroken) if not name.endswith(".mrml")] == []

    def test_files_may_not_be_large(self, data, unbroken, tmp_path):
        largest = max(path.stat().st_size for path in unbroken.rglob("*.nii.gz"))
        options = {"dataset_dir": data, "output_dir": tmp_path / "output", **FEW}
        done = run("inference", tmp_path / "log", limit(resource.RLIMIT_FSIZE, largest // 2), **options)
        assert done.code == 1, done.text
        assert "Traceback" not in done.text
        assert "File too large" in done.errors[0]
        assert finished(tmp_path / "output") == []
        assert_tidy(tmp_path / "output")

    def test_memory(self, data, unbroken, tmp_path):
        scans = tmp_path / "scans"
        scans.mkdir()
        for path in (data / "imagesTs").iterdir():
            os.link(path, scans / path.name)
        voxels = np.zeros((400, 400, 400), np.uint8)  # 256 MiB once they are numbers to work with
        voxels[:200] = 1
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), scans / "large.nii")

        def leave_little():
            used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")  # noqa: SIM115
            limit(resource.RLIMIT_AS, used + 450 * MIB)()

        done = run(
            "inference", tmp_path / "log", leave_little, dataset_dir=scans, output_dir=tmp_path / "output", **FEW
        )
        assert done.code == 1, done.text
        assert "Traceback" not in done.text
        assert finished(tmp_path / "output") == list(CASES), done.text
        assert f"error: 1 of 4 cases failed (large): {scans / 'large.nii'}: the memory does not" in done.errors[0]
        assert_tidy(tmp_path / "output")
        for case in CASES:
            one, other = (folder / case / f"{case}_prob.nii.gz" for folder in (tmp_path / "output", unbroken))
            assert one.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize("kept", [CASES[:1], CASES[:0]])
    def test_read_only_output(self, data, unbroken, tmp_path, kept):
        with small_disk(tmp_path / "disk", MIB) as disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert done.code == 1, done.text
            expected = f"error: {disk / 'output'}: cannot be written to (Read-only file system), expected a folder for"
            assert done.errors[0].startswith(expected)
            assert "Traceback" not in done.text
            assert list(disk.iterdir()) == []

    def test_open_files(self, data, unbroken, tmp_path):
        """A dozen beyond those that Python has open are enough for any number of cases; fewer are told of."""
        there = len(os.listdir("/proc/self/fd"))
        options = {"dataset_dir": data, **FEW}
        enough = limit(resource.RLIMIT_NOFILE, there + 24)
        done = run("inference", tmp_path / "log", enough, output_dir=tmp_path / "enough", **options)
        assert done.code == 0, done.text
        assert finished(tmp_path / "enough") == list(CASES)

    def test_no_place_for_temporary_files(self, data, unbroken, tmp_path):
        """They are not needed as long as the members fit into memory."""

        def nowhere():
            tempfile.tempdir = str(tmp_path / "nowhere")

        done = run("inference", tmp_path / "log", nowhere, dataset_dir=data, output_dir=tmp_path / "output", **FEW)
        assert done.code == 0, done.text
        assert finished(tmp_path / "output") == list(CASES)

        def and_needed():
            nowhere()
            scratch.IN_MEMORY = 0

        done = run("inference", tmp_path / "log", and_needed, dataset_dir=data, output_dir=tmp_path / "needed", **FEW)
        assert done.code == 1, done.text
        assert "no room for" in done.errors[0]
        assert "set TMPDIR to a larger disk" in done.errors[0]
        assert "Traceback" not in done.text
        assert_tidy(tmp_path / "needed")


@pytest.mark.slow
class TestTraining:
    def test_full_disk(self, data, tmp_path):
        with small_disk(tmp_path / "disk", 256 * KIB) as disk:
            options = {"dataset_dir": data, "output_dir": disk / "run", **SHORT, "checkpoint_seconds": 0}
            done = run("train_segmenter", tmp_path / "log", **options)
            assert done.code == 1, done.text
            assert len(done.errors) == 1, done.text
            assert "checkpoint.pt: cannot be written (No space left on device); free space" in done.errors[0]
            assert "Traceback" not in done.text
            assert_tidy(disk / "run")
            subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(disk)], check=True)
            done = run("train_segmenter", tmp_path / "log", **options)
            assert done.code == 0, done.text
            assert_tidy(disk / "run")

    def test_read_only_output(self, data, tmp_path):
        with small_disk(tmp_path / "disk", MIB, read_only=True) as disk:
            done = run("train_segmenter", tmp_path / "log", dataset_dir=data, output_dir=disk / "run", **SHORT)
            assert done.code == 1, done.text
            assert len(done.errors) == 1, done.text
            assert f"{disk / 'run'}: cannot be written to (Read-only file system)" in done.errors[0]


class TestLines:
    """What each shortage is told as."""

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("could not create a primitive"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            OSError(12, "Cannot allocate memory"),
        ],
    )
    def test_memory(self, error):
        line = explain_failure(error, "/a/scan.nii.gz")
        assert line.startswith("/a/scan.nii.gz: the memory does not suffice for this case; give --write_members False")

    def test_open_files(self):
        wrapped = RuntimeError("applying transform <LoadScand>")
        wrapped.__cause__ = OSError(24, "Too many open files")
        assert explain_failure(wrapped, "/a/scan.nii.gz").endswith("or allow more with ulimit -n")

    def test_open_files_when_writing(self, tmp_path):
        expected = r"cannot be written \(Too many open files\); end other programs, or allow"
        with pytest.raises(UserError, match=expected), atomic_write(tmp_path / "a.json"):
            raise OSError(24, "Too many open files")

    def test_other_errors_are_told_as_before(self):
        assert explain_failure(ValueError("odd"), "/a/scan.nii.gz") == "unexpected ValueError: odd"


class TestTemporarySpace:
    def test_no_room_for_members(self, tmp_path, monkeypatch):
        monkeypatch.setattr(scratch, "IN_MEMORY", 0)
        with small_disk(tmp_path / "disk", 64 * KIB) as disk:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            with pytest.raises(UserError) as caught:
                scratch.scratch_tensor((1, MIB), torch.device("cpu"))
            assert str(caught.value).startswith(f"{disk}: no room for 4 MiB of members (No space left on device); give")
            assert list(disk.iterdir()) == []

    def test_no_place_for_members(self, tmp_path, monkeypatch):
        monkeypatch.setattr(scratch, "IN_MEMORY", 0)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match="nowhere: no room for 4 MiB of members"):
            scratch.scratch_tensor((1, MIB), torch.device("cpu"))


def test_report_of_a_case_is_the_last_that_fails(tmp_path):
    """A disk that fills up between a case's maps and its report leaves a case that is not finished."""
    with small_disk(tmp_path / "disk", 16 * KIB) as disk:
        (disk / "filler").write_bytes(bytes(15 * KIB))
        with pytest.raises(UserError, match="No space left"), atomic_write(disk / "a_report.json") as part:
            part.write_text(json.dumps({"case": "a" * 8 * KIB}))
        assert [path.name for path in disk.iterdir()] == ["filler"]
