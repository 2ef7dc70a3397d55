"""One seed gives one result: repeated, with workers, in another order, among other cases, in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from endurance_cases import make_scans, name
from monai.bundle import ConfigParser
from unbroken import OF_A_RUN

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
COUNT, SIZE = 4, [16, 16, 16]
FEW = {"members": 2, "num_steps": 2, "roi_size": SIZE, "device": "cpu"}
# two threads sum in another order than one, in bfloat16
LARGEST_DIFFERENCE, LARGEST_SHARE = 0.1, 0.01


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same") / "scans"
    make_scans(folder, COUNT, SIZE)
    return folder


@pytest.fixture(scope="module")
def infer(scans, tmp_path_factory):
    """Run the bundle in this process; return the files of each case."""

    def run(order=range(COUNT), workers=0, **options):
        output = tmp_path_factory.mktemp("answer")
        parser = ConfigParser()
        parser.read_config(BUNDLE / "configs" / "inference.json")
        parser.read_meta(BUNDLE / "configs" / "metadata.json")
        cases = [{"image": str(scans / f"{name(number)}.nii.gz")} for number in order]
        parser.update({"bundle_root": str(BUNDLE), "dataset_dir": str(scans), "output_dir": str(output), **FEW})
        parser.update({"data": cases, "dataloader::num_workers": workers, **options})
        parser.get_parsed_content("evaluator").run()
        return {number: contents(output / name(number)) for number in order}

    return run


def contents(folder):
    """Return the bytes of a case's files by name, and its report without the keys that belong to a run."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = json.loads(found.pop(f"{folder.name}_report.json"))
    found["report"] = {key: value for key, value in report.items() if key not in OF_A_RUN}
    assert len(found) >= 8
    return found


@pytest.fixture(scope="module")
def first(infer):
    return infer()


def command(scans, output, threads):
    """Run the command in a new process."""
    words = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    words += ["--config_file", str(BUNDLE / "configs" / "inference.json")]
    options = {"dataset_dir": scans, "output_dir": output, **FEW, "roi_size": str(SIZE)}
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(words, env=environment, capture_output=True, check=True)
    return {number: contents(output / name(number)) for number in range(COUNT)}


def test_cases_have_different_results(first):
    assert len({first[number][f"{name(number)}_prob.nii.gz"] for number in range(COUNT)}) == COUNT


def test_again(infer, first):
    assert infer() == first


@pytest.mark.parametrize(("workers", "method"), [(3, "fork"), (1, "spawn"), (2, "forkserver")])
def test_any_number_of_workers_and_way_to_start_them(infer, first, workers, method):
    assert infer(workers=workers, **{"dataloader::multiprocessing_context": method}) == first


def test_any_order(infer, first):
    assert infer([2, 0, 3, 1], workers=2) == first


@pytest.mark.parametrize("number", [0, COUNT - 1])
def test_any_other_cases(infer, first, number):
    assert infer([number]) == {number: first[number]}


def test_another_seed_gives_other_members(infer, first):
    key = f"{name(0)}_members.nii.gz"
    assert infer([0], seed=1)[0][key] != first[0][key]


def test_another_process_and_number_of_threads(scans, first, tmp_path_factory):
    # scenes contain the relative path of the scan, so the folders have the same depth
    one, two, again = (tmp_path_factory.mktemp("answer") for _ in range(3))
    assert command(scans, one, 1) == first
    with_two = command(scans, two, 2)
    for number in range(COUNT):
        case = name(number)
        prob, seg = (
            [np.asarray(nib.load(folder / case / f"{case}_{what}.nii.gz").dataobj) for folder in (one, two)]
            for what in ("prob", "seg")
        )
        assert np.abs(prob[0] - prob[1]).max() <= LARGEST_DIFFERENCE
        assert (seg[0] != seg[1]).mean() <= LARGEST_SHARE
    assert command(scans, again, 2) == with_two
