"""The real command over a folder of bad scans with two good ones among them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from good_scan import save
from kinds import KINDS

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
KEPT = {(kind.group, kind.name): kind for kind in KINDS}
BAD = [
    *[
        ("files", name)
        for name in (
            "empty file",
            "cut within the header",
            "cut in the data",
            "gzip with a wrong checksum",
            "a slice too many",
            "128 megabytes of zeros after the voxels",
            "4 terabytes without content, as promised",
            "compressed, but named .nii",
            "text",
            "noise",
        )
    ],
    ("header", "magic that is unknown"),
    ("header", "dim[0] (axes) 0"),
    ("header", "dim of 35 terabytes"),
    ("header", "datatype 128 (RGB)"),
    ("header", "vox_offset inf"),
    ("header", "srow_x[0] nan"),
    ("voxels", "one NaN"),
    ("voxels", "one value everywhere"),
    ("voxels", "two axes"),
    ("grids", "singular affine"),
    ("NRRD and MetaImage", "nrrd: promises 6 petabytes"),
    ("NRRD and MetaImage", "mha: 99 axes"),
    ("no plain file", "link to nowhere"),
    ("no plain file", "links in a circle"),
    ("no plain file", "pipe"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target, scratch = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("scratch")
    for number, key in enumerate(BAD):
        (scratch / str(number)).mkdir()
        KEPT[key].make(scratch / str(number))
        (made,) = (scratch / str(number)).glob("bad.*")
        made.rename(target / f"case{number:02}{made.name[3:]}")
    save(target / "a good one.nii.gz")
    save(target / "well.nii.gz")
    return target


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "output"
    words = f"-m monai.bundle run inference --members 1 --num_steps 1 --config_file {CONFIG}".split()
    options = ["--dataset_dir", str(folder), "--output_dir", str(output), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words, *options], env=environment, capture_output=True, text=True, timeout=300, check=False
    ), output


def test_good_scans_are_done_and_nothing_is_half_written(run):
    _, output = run
    folders = {path.name for path in output.iterdir() if path.is_dir()} - {"failures"}
    assert folders == {"a good one", "well"}
    assert not [path for path in output.rglob("*") if path.name.startswith(".") or ".part" in path.name]
    for case in folders:
        names = {path.name for path in (output / case).iterdir()}
        assert {f"{case}_seg.nii.gz", f"{case}_report.json", f"{case}_overview.png"} <= names
    one, other = (output / case / f"{case}_prob.nii.gz" for case in ("a good one", "well"))
    assert one.read_bytes() == other.read_bytes()  # what came between changed nothing


def test_run_ends_with_one_line(run):
    done, _ = run
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    assert last.startswith(f"error: {len(BAD)} of {len(BAD) + 2} cases failed (")


@pytest.mark.parametrize("number", range(len(BAD)), ids=lambda number: ": ".join(BAD[number]))
def test_bad_scan_has_its_line_and_its_note(run, folder, number):
    done, output = run
    (file,) = (path for path in folder.iterdir() if path.name.startswith(f"case{number:02}"))
    lines = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if str(file) in line and not line.startswith("error: ")
    ]
    told = [line for line in lines if KEPT[BAD[number]].says in line and "; " in line]
    assert len(told) == 1, lines
    note = json.loads((output / "failures" / f"case{number:02}.json").read_text())
    assert note["error"] in told[0]
