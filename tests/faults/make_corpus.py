"""Bad and odd inputs of many kinds, made from one good scan, and what becomes of each.

A kind is a folder with a good scan and something beside it. All that a run does before the network is done to the
folder: listing, checking, reading. The good scan has to come out of it whatever lies beside it.

    python tests/faults/make_corpus.py                   # print the table of all kinds, as docs/bad-input.md has it
    python tests/faults/make_corpus.py --write           # put the table into docs/bad-input.md
    python tests/faults/make_corpus.py --keep <folder>   # leave the inputs there, one folder a kind
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kind import Kind
from kinds import KINDS
from monai.transforms import Compose
from spoil import AFFINE, VOXELS, save, series

from monai_pdddpm.data import CaseDataset, CheckImaged, LoadScand, case_name, inference_cases
from monai_pdddpm.utils.errors import user_message

DOCS = Path(__file__).parents[2] / "docs" / "bad-input.md"
SECONDS = 5  # that a kind may take
MEMORY = 1 << 29  # bytes of address space that a kind may take
BEGIN, END = "<!-- kinds: begin -->", "<!-- kinds: end -->"
NAMES = {
    "done": "read as it is",
    "noted": "read, with a note",
    "refused": "left out, the others are done",
    "passed over": "no scan, passed over",
    "stops": "the run does not begin",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one kind: a key of `NAMES`, the line or note, and the cost."""

    kind: Kind
    what: str
    line: str
    seconds: float
    mebibytes: float

    @property
    def right(self) -> bool:
        """Tell whether it is what was expected, and the line says enough."""
        return self.what == self.kind.outcome and self.kind.says in self.line and self.seconds < SECONDS


@functools.cache
def reading(**options: Any) -> Compose:
    return Compose([LoadScand("image", **options), CheckImaged("image", **options)])


def look_at_scans(kind: Kind, folder: Path) -> tuple[str, str]:
    """List, check and read a folder as inference does; return what became of what is not the good scan."""
    options = {"channels": 1, "fourth_dimension": "channel"} | kind.options
    cases = inference_cases(folder / kind.dataset)
    dataset = CaseDataset(cases, reading(**options), spatial_dims=3, **options)
    found = {case_name(case["image"]): dataset[number] for number, case in enumerate(cases)}
    if kind.beside:
        good = found.pop("good")
        if "failure" in good or not np.array_equal(good["image"].numpy()[0], VOXELS):
            return "lost", f"the good scan: {good.get('failure')}"
    if not found:
        return "passed over", ""
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
        return "wrong place", " ".join(str(image.affine.tolist()).split())
    notes = image.meta["notes"]
    return ("done", "") if notes == "[]" else ("noted", "; ".join(json.loads(notes)))


def tried(kind: Kind, folder: Path) -> Outcome:
    """Make a kind in an empty folder and see what becomes of it, with little time and memory."""
    if kind.beside == "series":
        series(folder / "good")
    elif kind.beside:
        save(folder / "good.nii.gz")
    kind.make(folder)
    resident = _peak_resident(reset=True)
    begin = time.perf_counter()
    try:
        with _limited(), _nobody() if kind.as_nobody else contextlib.nullcontext():
            what, line = (kind.look or look_at_scans)(*((kind, folder) if kind.look is None else (folder,)))
    except Exception as error:
        told = user_message(error)
        what, line = ("stops", told) if told is not None else ("unclear", f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - begin
    taken = (_peak_resident() - resident) / 2**20
    if what in ("refused", "stops") and re.search(r"unexpected \w+|MemoryError|bad_alloc|took too long|\n", line):
        what = "unclear"
    if what in ("refused", "stops") and not re.search(r": .*(; |is expected)", line):
        what = "unclear"
    return Outcome(kind, what, line.replace(f"{folder}/", "").replace(str(folder), "<folder>"), seconds, taken)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Give what runs within it `SECONDS` and `MEMORY`, so that nothing hangs or fills the machine."""

    def late(*_: object) -> None:
        raise TimeoutError("took too long")

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _nobody() -> Iterator[None]:
    """Give up the superuser's rights for a while, where there are any."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def _peak_resident(reset: bool = False) -> int:
    """Return the most memory in bytes that the process held since the last reset; 0 where nobody knows."""
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])
    return 0


def outcomes(keep: Path | None = None) -> Iterator[Outcome]:
    """Try all kinds, each in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # for a kind that is tried by another user
        for number, kind in enumerate(KINDS):
            folder = (keep or Path(scratch)) / f"{number:03d}"
            folder.mkdir(parents=True)
            yield tried(kind, folder)


def table(found: list[Outcome]) -> str:
    """Return the outcomes in Markdown, a table for each group, and their sum."""
    parts = [
        f"{len(found)} kinds: " + ", ".join(f"{sum(o.what == k for o in found)} {n}" for k, n in NAMES.items()) + "."
    ]
    parts[0] += f" Unclear or lost: {sum(o.what not in NAMES for o in found)}."
    for group in dict.fromkeys(o.kind.group for o in found):
        rows = [
            f"| {_cell(o.kind.name)} | {NAMES.get(o.what, o.what)} | {_cell(_short(o.line))} |"
            for o in found
            if o.kind.group == group
        ]
        parts.append(
            "\n".join(
                [
                    f"## {group[0].upper()}{group[1:]}\n",
                    "| kind | what becomes of it | line or note |",
                    "|---|---|---|",
                    *rows,
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _short(line: str) -> str:
    """Leave out what a library says and what depends on the computer."""
    line = re.sub(r"((?:as an image|NIfTI image|valid JSON|a calibration|of this training) )\(.*\)", r"\1(...)", line)
    line = re.sub(
        r"the \d+ GiB of this|has CUDA devices 0 to \d+|has no CUDA device",
        lambda m: re.sub(r"\d+|no CUDA device", "...", m[0]),
        line,
    )
    line = re.sub(r"x{200,}", "xxx...", re.sub(r"n{99,}", "nnn...", line))
    return line if len(line) <= 300 else f"{line[:300]}..."


def _cell(text: str) -> str:
    return " ".join(re.sub(r"([|*_<>\[\]`~\\])", r"\\\1", text).split())


def in_docs() -> str:
    """Return the table as the documentation has it."""
    return DOCS.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip() + "\n"


def main() -> int:
    """Try all kinds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder that is to hold the inputs, one folder a kind")
    parser.add_argument("--write", action="store_true", help="put the table into docs/bad-input.md")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = list(outcomes(arguments.keep))
    print(table(found))
    slow, large = max(found, key=lambda o: o.seconds), max(found, key=lambda o: o.mebibytes)
    print(f"longest: {slow.seconds:.2f} s ({slow.kind.name}); most: {large.mebibytes:.0f} MiB ({large.kind.name})")
    wrong = [o for o in found if not o.right]
    for o in wrong:
        expected = f"expected {o.kind.outcome}: {o.kind.says}"
        print(f"NOT AS EXPECTED: {o.kind.group}, {o.kind.name}: {o.what}: {o.line}; {expected}")
    if arguments.write:
        before, after = DOCS.read_text(encoding="utf-8").split(BEGIN)[0], DOCS.read_text(encoding="utf-8").split(END)[1]
        DOCS.write_text(f"{before}{BEGIN}\n\n{table(found)}\n{END}{after}", encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
