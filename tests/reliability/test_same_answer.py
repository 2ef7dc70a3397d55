"""One seed, one machine, one answer: repeated, with other workers, in another order, among other cases."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from endurance_cases import make_scans, name
from monai.bundle import ConfigParser

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
COUNT, SIZE = 4, [16, 16, 16]
FEW = {"members": 2, "num_steps": 2, "roi_size": SIZE, "device": "cpu"}
# what says how long it took, how much memory, and how many threads there were
OF_A_RUN = ("seconds", "peak_memory_mib", "device")
# of probabilities, with 2 threads instead of 1: sums are then taken in another order, in 8 bits of bfloat16
LARGEST_DIFFERENCE, LARGEST_SHARE = 0.1, 0.01


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same") / "scans"
    make_scans(folder, COUNT, SIZE)
    return folder


@pytest.fixture(scope="module")
def answer(scans, tmp_path_factory):
    """Run the bundle in this process; return what each case came to, its report without what is of the run."""

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
    """Return name -> bytes of a case's files."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = json.loads(found.pop(f"{folder.name}_report.json"))
    found["report"] = {key: value for key, value in report.items() if key not in OF_A_RUN}
    assert len(found) >= 8
    return found


@pytest.fixture(scope="module")
def first(answer):
    return answer()


def command(scans, output, threads):
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    words += ["--config_file", str(BUNDLE / "configs" / "inference.json")]
    options = {"dataset_dir": scans, "output_dir": output, **FEW, "roi_size": str(SIZE)}
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(words, env=environment, capture_output=True, check=True)
    return {number: contents(output / name(number)) for number in range(COUNT)}


def test_cases_have_answers_of_their_own(first):
    assert len({first[number][f"{name(number)}_prob.nii.gz"] for number in range(COUNT)}) == COUNT


def test_again(answer, first):
    assert answer() == first


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(answer, first, workers):
    assert answer(workers=workers) == first


def test_any_order(answer, first):
    order = list(range(COUNT))
    while order == sorted(order):
        random.shuffle(order)
    assert answer(order, workers=2) == first


def test_any_company(answer, first):
    for number in (0, COUNT - 1):
        assert answer([number]) == {number: first[number]}


def test_another_seed_is_another_answer(answer, first):
    key = f"{name(0)}_members.nii.gz"
    assert answer([0], seed=1)[0][key] != first[0][key]


def test_a_process_of_its_own_and_other_threads(scans, first, tmp_path_factory):
    """One thread: the same bytes as above. Two: near by, and the same again."""
    # as deep as the others, since a scene names its scan by the way to it
    one, two, again = (tmp_path_factory.mktemp("answer") for _ in range(3))
    assert command(scans, one, 1) == first
    with_two = command(scans, two, 2)
    largest, changed = differences(one, two)
    print(f"2 threads instead of 1: probabilities differ by {largest:.2g} at most, {changed:.2%} of the labels differ")
    assert largest <= LARGEST_DIFFERENCE
    assert changed <= LARGEST_SHARE
    assert command(scans, again, 2) == with_two


def differences(one, other):
    """Return the largest difference of any probability, and the largest share of voxels with another label."""
    largest, changed = 0.0, 0.0
    for number in range(COUNT):
        case = name(number)
        prob, seg = (
            [np.asarray(nib.load(folder / case / f"{case}_{what}.nii.gz").dataobj) for folder in (one, other)]
            for what in ("prob", "seg")
        )
        largest = max(largest, float(np.abs(prob[0] - prob[1]).max()))
        changed = max(changed, float((seg[0] != seg[1]).mean()))
    return largest, changed
