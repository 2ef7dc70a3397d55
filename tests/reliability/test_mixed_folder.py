"""The inference command over a folder of unreadable scans and two valid ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import KINDS
from good_scan import save

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
NAMES = (
    *("empty file", "cut in the header", "cut in the voxels", "gzip with a wrong checksum", "one slice too many"),
    *("128 MiB of zeros after the voxels", "sparse file of 4 TB", "compressed, named .nii", "text", "random bytes"),
    *("unknown magic", "dim[0] 0", "dim of 35 TB", "datatype 128", "vox_offset inf", "srow_x[0] nan", "one NaN"),
    *(
        "one value",
        "two axes",
        "singular affine",
        "nrrd: 6 PB",
        "mha: 99 axes",
        "broken link",
        "circular links",
        "pipe",
    ),
)
GROUPS = ("files", "header", "voxels", "grids", "NRRD and MetaImage", "links, folders, pipes")
VALID = ("a good one", "well")
BAD = [kind for kind in KINDS if kind.name in NAMES and kind.group in GROUPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target, scratch = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("scratch")
    for number, kind in enumerate(BAD):
        (scratch / str(number)).mkdir()
        kind.make(scratch / str(number))
        (made,) = (scratch / str(number)).glob("bad.*")
        made.rename(target / f"case{number:02}{made.name[3:]}")
    for name in VALID:
        save(target / f"{name}.nii.gz")
    return target


def infer(folder, output):
    words = f"-m monai.bundle run inference --members 1 --num_steps 1 --config_file {CONFIG}".split()
    options = ["--dataset_dir", str(folder), "--output_dir", str(output), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    return infer(folder, output), output


def test_valid_scans_have_the_results_of_a_folder_without_others(run, tmp_path):
    _, output = run
    folders = {path.name for path in output.iterdir() if path.is_dir()} - {"failures"}
    assert folders == set(VALID)
    assert not [path for path in output.rglob("*") if path.name.startswith(".") or ".part" in path.name]
    (tmp_path / "scans").mkdir()
    for case in VALID:
        save(tmp_path / "scans" / f"{case}.nii.gz")
    done = infer(tmp_path / "scans", tmp_path / "output")
    assert done.returncode == 0, done
    for case in VALID:
        name = f"{case}/{case}_prob.nii.gz"
        assert (output / name).read_bytes() == (tmp_path / "output" / name).read_bytes()


def test_run_ends_with_one_line(run):
    done, _ = run
    assert len(BAD) == len(NAMES)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {len(BAD)} of {len(BAD) + 2} cases failed (")


def test_each_unreadable_scan_has_a_line_and_a_note(run, folder):
    done, output = run
    log = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("error: ")]
    for number in range(len(BAD)):
        (file,) = (path for path in folder.iterdir() if path.name.startswith(f"case{number:02}"))
        lines = [line for line in log if str(file) in line and "; " in line]
        assert len(lines) == 1, lines
        assert json.loads((output / "failures" / f"case{number:02}.json").read_text())["error"] in lines[0]
