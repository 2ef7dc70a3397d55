"""Too little disk space, memory, temporary space or open files: one error line, and no incomplete file."""

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
from monai_pdddpm.utils import scratch
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

KIB, MIB = 2**10, 2**20
FEW = {"members": 2, "num_steps": 1}
SHORT = {"max_epochs": 2, "val_interval": 2, "roi_size": "[16, 16, 16]", "batch_size": 2}
CASES = ("phantom_004", "phantom_005", "phantom_006")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms of 16 x 16 x 16 voxels: 3 for training, 1 for validation, 3 for test."""
    few = {"train": 3, "validation": 1, "test": 3, "annotations": 1}
    target = tmp_path_factory.mktemp("scarce") / "data"
    return write_phantom(target, **few, size=(16, 16, 16), spacing=(2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """Output of a run with enough of everything."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = run("inference", folder / "log", dataset_dir=data, output_dir=folder / "output", **FEW)
    assert done.code == 0, done.text
    return folder / "output"


def assert_tidy(folder):
    files = files_in(folder)
    assert [name for name, path in files.items() if is_part(path) or not is_whole(path)] == []


def assert_refused(done, *texts):
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert len(done.errors) == 1, done.text
    assert [text for text in texts if text not in done.text] == [], done.text  # the reason of each case is above


def finished(folder):
    return sorted(path.parent.name for path in folder.glob("*/*_report.json"))


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
class TestInference:
    def test_full_disk(self, data, unbroken, tmp_path):
        size = bytes_of(unbroken / CASES[0]) * 3 // 2 + 64 * KIB  # one case and a half
        with small_disk(tmp_path / "disk", size) as disk:
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert_refused(done, "No space left on device", "; free space on the disk")
            assert CASES[0] in finished(disk / "output")
            assert_tidy(disk / "output")
            subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(disk)], check=True)
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert done.code == 0, done.text
            assert [name for name in differing(disk / "output", unbroken) if not name.endswith(".mrml")] == []

    def test_limited_file_size(self, data, unbroken, tmp_path):
        largest = max(path.stat().st_size for path in unbroken.rglob("*.nii.gz"))
        options = {"dataset_dir": data, "output_dir": tmp_path / "output", **FEW}
        done = run("inference", tmp_path / "log", limit(resource.RLIMIT_FSIZE, largest // 2), **options)
        assert_refused(done, "File too large")
        assert finished(tmp_path / "output") == []
        assert_tidy(tmp_path / "output")

    def test_a_scan_that_needs_too_much_memory(self, data, unbroken, tmp_path):
        scans = tmp_path / "scans"
        scans.mkdir()
        for path in (data / "imagesTs").iterdir():
            os.link(path, scans / path.name)
        voxels = np.zeros((400, 400, 400), np.uint8)  # 256 MiB as float32
        voxels[:200] = 1
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), scans / "large.nii")

        def leave_little():
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            limit(resource.RLIMIT_AS, used + 450 * MIB)()

        options = {"dataset_dir": scans, "output_dir": tmp_path / "output", **FEW}
        done = run("inference", tmp_path / "log", leave_little, **options)
        assert_refused(done, "error: 1 of 4 cases failed (large)", "reason")
        assert "large.nii: not enough memory" in done.text
        assert finished(tmp_path / "output") == list(CASES), done.text
        assert_tidy(tmp_path / "output")
        for case in CASES:
            one, other = (folder / case / f"{case}_prob.nii.gz" for folder in (tmp_path / "output", unbroken))
            assert one.read_bytes() == other.read_bytes()

    def test_read_only_output(self, data, tmp_path):
        with small_disk(tmp_path / "disk", MIB) as disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            done = run("inference", tmp_path / "log", dataset_dir=data, output_dir=disk / "output", **FEW)
            assert_refused(done, f"error: {disk / 'output'}: ", "Read-only file system")

    def test_24_open_files_are_enough(self, data, tmp_path):
        enough = limit(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 24)
        done = run("inference", tmp_path / "log", enough, output_dir=tmp_path / "enough", dataset_dir=data, **FEW)
        assert done.code == 0, done.text
        assert finished(tmp_path / "enough") == list(CASES)

    def test_no_temporary_folder(self, data, tmp_path):
        def nowhere():
            tempfile.tempdir = str(tmp_path / "nowhere")

        def nowhere_for_members():
            nowhere()
            scratch.IN_MEMORY = 0

        options = {"dataset_dir": data, **FEW}
        done = run("inference", tmp_path / "log", nowhere, output_dir=tmp_path / "output", **options)
        assert done.code == 0, done.text
        assert finished(tmp_path / "output") == list(CASES)
        done = run("inference", tmp_path / "log", nowhere_for_members, output_dir=tmp_path / "needed", **options)
        assert_refused(done, "set TMPDIR to a larger disk")
        assert_tidy(tmp_path / "needed")


@pytest.mark.slow
class TestTraining:
    def test_full_disk(self, data, tmp_path):
        with small_disk(tmp_path / "disk", 256 * KIB) as disk:
            options = {"dataset_dir": data, "output_dir": disk / "run", **SHORT, "checkpoint_seconds": 0}
            done = run("train_segmenter", tmp_path / "log", **options)
            assert_refused(done, "No space left on device", "; free space")
            assert_tidy(disk / "run")
            subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(disk)], check=True)
            done = run("train_segmenter", tmp_path / "log", **options)
            assert done.code == 0, done.text
            assert_tidy(disk / "run")

    def test_read_only_output(self, data, tmp_path):
        with small_disk(tmp_path / "disk", MIB, read_only=True) as disk:
            done = run("train_segmenter", tmp_path / "log", dataset_dir=data, output_dir=disk / "run", **SHORT)
            assert_refused(done, f"{disk / 'run'}: ", "Read-only file system")


def test_no_space_for_members(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    with small_disk(tmp_path / "disk", 64 * KIB) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(UserError, match=f"^{disk}: .*No space left on device"):
            scratch.scratch_tensor((1, MIB), torch.device("cpu"))
        assert list(disk.iterdir()) == []


def test_no_space_for_a_report(tmp_path):
    with small_disk(tmp_path / "disk", 16 * KIB) as disk:
        (disk / "filler").write_bytes(bytes(15 * KIB))
        with pytest.raises(UserError, match="No space left"), atomic_write(disk / "a_report.json") as part:
            part.write_text("a" * 8 * KIB)
        assert [path.name for path in disk.iterdir()] == ["filler"]
