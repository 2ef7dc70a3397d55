"""Read unusual and invalid inputs of many kinds, made from one valid scan, and compare the outcomes with the expected.

Each kind is a folder with a valid scan and one more input. The script lists, checks and reads the folder as inference
does. The valid scan must be read whatever lies beside it; an invalid input must end in one line with a remedy, within
5 seconds and 512 MiB.

    python tools/reliability/bad_input.py                   # print a summary
    python tools/reliability/bad_input.py --write           # write the outcomes to tools/reliability/bad_input.csv
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinds_folders
import kinds_formats
import kinds_nifti
import numpy as np
from good_scan import AFFINE, VOXELS, save, series
from kinds import Kind, limited_memory
from monai.transforms import Compose

from monai_pdddpm.data import CaseDataset, CheckImaged, LoadImageScand, case_name, inference_cases
from monai_pdddpm.utils.errors import user_message

KINDS = [*kinds_nifti.KINDS, *kinds_formats.KINDS, *kinds_folders.KINDS]
TABLE = Path(__file__).with_name("bad_input.csv")
SECONDS = 5
OUTCOMES = {
    "done": "read",
    "noted": "read, with a note in the report",
    "refused": "left out with an error line; the other cases are segmented",
    "ignored": "not listed as a case",
    "stops": "the run ends with an error line before it begins",
}


@dataclass(frozen=True)
class Outcome:
    """Outcome of one kind.

    Attributes:
        kind: the kind of input.
        what: a key of `OUTCOMES`, or a description of the fault.
        line: error message or note.
        seconds: time it took.
    """

    kind: Kind
    what: str
    line: str
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the outcome is the expected one, in time."""
        return self.what == self.kind.outcome and self.seconds < SECONDS


@functools.cache
def _reading(**options: Any) -> Compose:
    return Compose([LoadImageScand("image", **options), CheckImaged("image", **options)])


def look_at_scans(kind: Kind, folder: Path) -> tuple[str, str]:
    """List, check and read a folder as inference does; return the outcome of the input beside the valid scan."""
    options = {"channels": 1, "fourth_dimension": "channel"} | kind.options
    cases = inference_cases(folder / kind.dataset)
    dataset = CaseDataset(cases, _reading(**options))
    found = {case_name(case["image"]): dataset[number] for number, case in enumerate(cases)}
    if kind.beside:
        good = found.pop("good")
        if "failure" in good or not np.array_equal(good["image"].numpy()[0], VOXELS):
            return "lost", f"the valid scan: {good.get('failure')}"
    if not found:
        return "ignored", ""
    if len(found) > 1:
        return "unclear", f"found {sorted(found)}"
    (item,) = found.values()
    if "failure" in item:
        return "refused", item["failure"]["error"]
    voxels, affine = kind.expected() if kind.expected else (VOXELS, AFFINE)
    image = item["image"]
    if not np.array_equal(image.numpy().squeeze(), np.squeeze(voxels)):
        return "wrong voxels", f"{image.shape}"
    if not np.allclose(image.affine, affine, atol=1e-4):
        return "wrong affine", f"{image.affine.tolist()}"
    notes = image.meta["case"].notes
    notes = json.loads(notes) if isinstance(notes, str) else notes
    return ("noted", "; ".join(notes)) if notes else ("done", "")


def try_kind(kind: Kind, folder: Path) -> Outcome:
    """Make a kind of input in an empty folder and read it, in a process of its own with limited time and memory."""
    if kind.beside == "series":
        series(folder / "good")
    elif kind.beside:
        save(folder / "good.nii.gz")
    kind.make(folder)
    begin = time.perf_counter()
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sender, json.dumps(_look(kind, folder)).encode())
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.close(sender)
    with open(receiver, "rb") as stream:
        answer = stream.read()
    what, line = json.loads(answer) if answer else ("crash", f"the process ended with status {status}")
    seconds = time.perf_counter() - begin
    if what in ("refused", "stops"):
        vague = re.search(r"unexpected \w+|MemoryError|bad_alloc|took too long|\n", line)
        if vague or not re.search(r": .*(; |is expected)", line):
            what = "unclear"
    return Outcome(kind, what, line.replace(f"{folder}/", "").replace(str(folder), "<folder>"), seconds)


def _look(kind: Kind, folder: Path) -> tuple[str, str]:
    try:
        with _limited(), _nobody() if kind.as_nobody else contextlib.nullcontext():
            return look_at_scans(kind, folder)
    except Exception as error:
        message = user_message(error)
        return ("unclear", f"{type(error).__name__}: {error}"[:999]) if message is None else ("stops", message)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("took too long")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with limited_memory():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _nobody() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def outcomes(kinds: list[Kind]) -> Iterator[Outcome]:
    """Try each kind in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # for a kind that another user reads
        for number, kind in enumerate(kinds):
            folder = Path(scratch) / f"{number:03d}"
            folder.mkdir()
            yield try_kind(kind, folder)


def write_table(found: list[Outcome]) -> None:
    """Write group, name, outcome and line of each kind to `TABLE`."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["group", "input", "outcome", "message"])
        for one in found:
            line = " ".join(one.line.split())
            writer.writerow([one.kind.group, one.kind.name, one.what, line if len(line) < 300 else f"{line[:300]}..."])


def main() -> int:
    """Try all kinds; return 1 if an outcome is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write the outcomes to {TABLE.name}")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = list(outcomes(KINDS))
    counts = Counter(one.what for one in found)
    print(f"{len(found)} kinds of input")
    for what, number in counts.most_common():
        print(f"{number:5} {OUTCOMES.get(what, what)}")
    slowest = max(found, key=lambda one: one.seconds)
    print(f"slowest: {slowest.seconds:.2f} s ({slowest.kind.name})")
    wrong = [one for one in found if not one.right]
    for one in wrong:
        print(f"WRONG: {one.kind.group}, {one.kind.name}: expected {one.kind.outcome}, found {one.what}: {one.line}")
    if arguments.write:
        write_table(found)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
