"""Segment hundreds of small scans with the command of a bundle, and watch its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from endurance_watch import Usage, beyond, growth, least, table, usage

from monai_pdddpm.data.phantom_distribution import make_phantom_scan, phantom_affine

CONFIG = Path(__file__).parents[2] / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
SIZE, SPACING = (16, 16, 16), (1.0, 1.0, 1.0)
FEW = {"members": 2, "num_steps": 1, "roi_size": "[16,16,16]", "device": "cpu"}


def name(number: int) -> str:
    """Return the name of a case."""
    return f"scan{number:04}"


def make_scans(folder: Path, count: int, size: Sequence[int] = SIZE) -> None:
    """Write ``count`` different phantoms."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = make_phantom_scan(size, SPACING, seed=1000 + number).image
        nib.save(nib.Nifti1Image(image.astype(np.float32), phantom_affine(SPACING)), folder / f"{name(number)}.nii.gz")


def start(scans: Path, output: Path, temporary: Path, **more: object) -> subprocess.Popen:
    """Start the command of the bundle."""
    temporary.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    options = {"config_file": CONFIG, "dataset_dir": scans, "output_dir": output, **FEW, **more}
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (output.parent / f"{output.name}.log").open("w") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)


def watch(
    process: subprocess.Popen, output: Path, temporary: Path, every: int, count: int
) -> tuple[list[int], list[Usage]]:
    """Sample the usage of a run until it ends.

    Returns:
        the number of finished cases, in steps of ``every``, and the smallest usage within each step; usage is larger
        while a case is computed.
    """
    done, samples, seen = [], [], []
    while process.poll() is None:
        finished = sum(1 for _ in output.glob("*/*_report.json"))
        if 0 < finished < count:  # neither start nor end
            seen.append(usage(process.pid, temporary))
        if (done[-1] if done else 0) + every <= finished < count:
            done.append(finished)
            samples.append(least(seen))
            seen = []
        time.sleep(0.5)
    return done, samples


def differing(output: Path, again: Path, count: int) -> list[str]:
    """Return the cases whose files differ between two runs."""
    found = []
    for case in map(name, range(count)):
        files = sorted((output / case).glob("*.nii.gz"))
        twins = [again / case / file.name for file in files]
        same = len(files) > 5 and all(a.read_bytes() == b.read_bytes() for a, b in zip(files, twins, strict=True))
        found += [] if same else [case]
    return found


def endure(count: int, folder: Path, every: int = 10) -> tuple[str, list[str]]:
    """Segment ``count`` cases; return the figures in Markdown and the faults."""
    scans, output = folder / "scans", folder / "output"
    temporary = Path(tempfile.mkdtemp())  # a short path: a socket of the workers lies in it, whose path has a limit
    make_scans(scans, count)
    begin = time.monotonic()
    process = start(scans, output, temporary, **{"dataloader::num_workers": 1})
    done, samples = watch(process, output, temporary, every, count)
    seconds = time.monotonic() - begin
    if process.returncode != 0:
        return "", [f"exit code {process.returncode}: {(folder / 'output.log').read_text()[-2000:]}"]
    wrong = []
    if unfinished := list(output.rglob(".*")):
        wrong.append(f"left in the output folder: {unfinished[:5]}")
    if left := [path for path in temporary.rglob("*") if path.is_file()]:
        wrong.append(f"left in the folder for temporary files: {left[:5]}")
    reverse, again = folder / "reverse.json", folder / "again"
    data = [{"image": str(scans / f"{name(number)}.nii.gz")} for number in reversed(range(count))]
    reverse.write_text(json.dumps({"data": data}), encoding="utf-8")
    start(
        scans,
        again,
        temporary,
        config_file=[str(CONFIG), str(reverse)],
        outputs="prob,members,entropy,mutual-information,variance,preseg,overview,page",
    ).wait()
    changed = differing(output, again, count)
    if changed:
        wrong.append(f"other results in a second run: {changed}")
    grown = growth(done, samples)
    text = f"{count} cases in {seconds:.0f} s with 1 worker; {count - len(changed)} results equal those of a second "
    text += "run without workers, in reverse order.\n\n"
    return text + table("cases", done, samples, grown), wrong + beyond(grown)
