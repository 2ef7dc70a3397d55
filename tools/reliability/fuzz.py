"""Replace scans and data lists by mutated bytes; each input must be read or refused in one line.

    python tools/reliability/fuzz.py --minutes 10                    # all targets, the same time each
    python tools/reliability/fuzz.py --minutes 2 --target nrrd       # one target

Valid inputs are mutated at random. Each target runs in a process of its own; a killed process is a finding. An input
may take 5 seconds and 512 MiB. The folder with the inputs of all findings is printed. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import logging
import multiprocessing
import random
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from good_scan import AFFINE, VOXELS, itk_image, nifti, series
from kinds import limited_memory
from monai.transforms import Compose

from monai_pdddpm.data import CaseDataset, CheckImaged, LoadImageScand, inference_cases, labelled_cases
from monai_pdddpm.data.case import Case
from monai_pdddpm.utils.errors import UserError, user_message

SECONDS = 5  # of an input
LONGEST = 1 << 16  # bytes of an input
SILENCE = 60  # seconds without a new input until a process counts as hanging
SMALL = VOXELS[:5, :4, :3]
NUMBERS = (b"0", b"-1", b"1", b"nan", b"inf", b"1e999", b"-0.5", b"2147483648", b"18446744073709551615", b"9" * 400)
VALUES = (
    *(struct.pack(f"{order}{kind}", value) for order in "<>" for kind in "hiq" for value in (-1, 0, 1, 8, 0x7FFF)),
    *(struct.pack(f"{order}{kind}", value) for order in "<>" for kind in "fd" for value in (np.nan, np.inf, -1, 1e30)),
    *(struct.pack(f"{order}i", value) for order in "<>" for value in (-(2**31), 2**31 - 1, 2**24)),
)


class Fault(Exception):
    """A wrong result."""


@dataclass(frozen=True)
class Target:
    """A file to replace.

    Attributes:
        file: name of the file, in a folder of its own.
        seeds: returns valid inputs, given an empty folder.
        look: reads the file; raises UserError to refuse it, any other exception is a finding.
        beside: writes the files that must lie beside it.
        packed: mutate the bytes before compression as well.
    """

    file: str
    seeds: Callable[[Path], list[bytes]]
    look: Callable[[Path], None]
    beside: Callable[[Path], object] = lambda folder: None
    packed: bool = False


def nifti_seeds(folder: Path) -> list[bytes]:
    kinds = [SMALL.astype(kind) for kind in ("u1", "i2", "f8")]
    shapes = [SMALL[..., None], np.stack([SMALL, SMALL], -1), SMALL[..., :1]]
    odd = [{"scl_slope": 2.0, "scl_inter": -3.0}, {"sform_code": 0}, {"sform_code": 0, "qform_code": 0}]
    return [
        nifti(SMALL, endian=">"),
        nifti(SMALL, extension=struct.pack("<2i", 32, 6) + bytes(24)),
        nib.Nifti2Image(SMALL, AFFINE).to_bytes(),
        *map(nifti, [SMALL, *kinds, *shapes]),
        *(nifti(SMALL, edits=edits) for edits in odd),
    ]


def itk_seeds(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        found = []
        arrays = [(SMALL, False), (SMALL, True), (SMALL.astype(np.int16), False), (np.stack([SMALL, SMALL], -1), False)]
        for number, (array, compression) in enumerate(arrays):
            path = folder / f"{number}{name}"
            itk.imwrite(itk_image(array), str(path), compression=compression)
            found.append(path.read_bytes())
        return found

    return seeds


def list_seeds(folder: Path) -> list[bytes]:
    cases = [{"image": f"./imagesTr/{name}.nii", "label": f"./labelsTr/{name}.nii"} for name in "ab"]
    contents = [
        {"training": cases, "test": ["./imagesTr/a.nii"]},
        {"test": ["imagesTr/a.nii", {"image": ["imagesTr/a.nii", None, "imagesTr/b.nii"]}], "root": "."},
        {"training": cases, "validation": cases[:1], "modality": {"0": "CT"}, "labels": {"0": "none", "1": "it"}},
        {"training": [], "test": [], "name": "é\u2028"},
    ]
    return [json.dumps(content).encode() for content in contents]


def put_scans(folder: Path) -> None:
    for name in ("imagesTr/a", "imagesTr/b", "labelsTr/a", "labelsTr/b"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.nii").write_bytes(nifti(SMALL))


def put_series(folder: Path) -> None:
    for unused in series(folder)[4:]:
        unused.unlink()


def look_at_scan(path: Path) -> None:
    """Check and read a scan as inference does; compare NIfTI voxels with nibabel's."""
    reading = Compose([LoadImageScand("image"), CheckImaged("image")])
    item = CaseDataset([{"image": str(path)}], reading)[0]
    if "failure" in item:
        raise UserError(item["failure"]["error"])
    voxels, affine = item["image"].numpy(), np.asarray(item["image"].affine)
    if not np.isfinite(voxels).all() or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise Fault(f"voxels or affine are not usable: {affine.tolist()}")
    if path.name.endswith((".nii", ".gz")):
        image = nib.load(path)
        expected = np.asanyarray(image.dataobj).astype(np.float32)
        if not np.array_equal(expected.ravel(), voxels.ravel()):
            raise Fault("the voxels differ from nibabel's")


def look_at_list(path: Path) -> None:
    """List the cases; none may lie outside the folder, unless the list names another root."""
    outside = []
    for cases_of in (inference_cases, lambda folder: labelled_cases(folder, "training")):
        with contextlib.suppress(UserError):
            for case in cases_of(path.parent):
                files = [case["image"]] if isinstance(case["image"], str) else case["image"]
                outside += [file for file in files if file and ".." in Path(file).parts]
                Case.of(case["image"]).check_name()
    with contextlib.suppress(ValueError, RecursionError):
        if outside and "root" not in json.loads(path.read_text(encoding="utf-8-sig")):
            raise Fault(f"a case outside the folder: {outside[0]!r}")
    inference_cases(path.parent)


TARGETS = {
    "nifti": Target("scan.nii", nifti_seeds, look_at_scan),
    "nifti_gz": Target(
        "scan.nii.gz", lambda f: [gzip.compress(s, mtime=0) for s in nifti_seeds(f)], look_at_scan, packed=True
    ),
    "nrrd": Target("scan.nrrd", itk_seeds(".nrrd"), look_at_scan),
    "mha": Target("scan.mha", itk_seeds(".mha"), look_at_scan),
    "dicom": Target(
        "IM0001", lambda f: [series(f / "s")[1].read_bytes()], lambda path: look_at_scan(path.parent), put_series
    ),
    "dataset": Target("dataset.json", list_seeds, look_at_list, put_scans),
}


@dataclass
class Fuzzer:
    """Try inputs of one target; keep the shortest input of each kind of finding.

    Attributes:
        target: the target.
        folder: folder for the input and the files beside it.
        kept: folder for findings; None keeps none.
    """

    target: Target
    folder: Path
    kept: Path | None = None
    tried: int = 0
    read: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.target.beside(self.folder)

    def __call__(self, data: bytes) -> str | None:
        """Try an input; return a description of the fault, if any."""
        path = self.folder / self.target.file
        path.write_bytes(data)
        self.tried += 1
        wrong, begin = None, time.perf_counter()
        try:
            with limited_memory(), contextlib.redirect_stdout(io.StringIO()):
                self.target.look(path)
            self.read += 1
        except Exception as error:
            line = user_message(error)
            if line is None:
                wrong = f"{type(error).__name__}: {error}"
            elif re.match(r"unexpected \w+:", line) or re.search(r"bad_alloc|MemoryError", line):
                wrong = line
            elif not re.search(r": .*; ", line):
                wrong = f"no remedy: {line}"
        seconds = time.perf_counter() - begin
        if wrong is None and seconds > SECONDS:
            wrong = f"{seconds:.0f} s"
        if wrong is not None:
            self._keep(wrong.replace(str(self.folder), ""), data)
        return wrong

    def _keep(self, wrong: str, data: bytes) -> None:
        sort = re.sub(r"[\d.]+|'.*'|\".*\"", "#", wrong)[:80]
        if len(data) >= len(self.findings.get(sort, bytes(LONGEST + 1))):
            return
        self.findings[sort] = data
        if self.kept is not None:
            name = hashlib.sha256(sort.encode()).hexdigest()[:8]
            (self.kept / f"{name}_{self.target.file}").write_bytes(data)
            (self.kept / f"{name}.txt").write_text(wrong, encoding="utf-8", errors="backslashreplace")


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Change one to four places of an input, most of them in its first 400 bytes."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(min(len(out), 400) if chance.random() < 0.8 else len(out)) if out else 0
        length = chance.choice((1, 2, 4, 8, 40))
        match chance.randrange(8):
            case 0:
                out[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                out[at : at + 1] = bytes([out[at] ^ 1 << chance.randrange(8)]) if out else b""
            case 2 | 3:
                value = chance.choice(VALUES)
                at -= at % len(value)
                out[at : at + len(value)] = value
            case 4:
                del out[at : at + length]
            case 5:
                out[at:at] = out[at : at + length] * chance.choice((1, 1, 50))
            case 6:  # a number in a text
                if found := list(re.finditer(rb"-?\d[\d.]*", out[:2000])):
                    place = chance.choice(found)
                    out[place.start() : place.end()] = chance.choice(NUMBERS)
            case _:
                other = chance.choice(others)
                out = out[:at] + other[at:] if chance.random() < 0.5 else out[:at]
    return bytes(out[:LONGEST])


def mutation(target: Target, data: bytes, chance: random.Random, seeds: list[bytes]) -> bytes:
    """Mutate an input, or the bytes that it was compressed from."""
    if target.packed and chance.random() < 0.7:
        with contextlib.suppress(Exception):
            others = [gzip.decompress(seed) for seed in seeds]
            return gzip.compress(mutate(gzip.decompress(data), chance, others), 1, mtime=0)
    return mutate(data, chance, seeds)


def mutations(target: Target, seeds: list[bytes], seed: int = 0) -> Iterator[bytes]:
    """Yield the seeds, then mutations of them without end."""
    chance = random.Random(seed)
    yield from seeds
    while True:
        yield mutation(target, chance.choice(seeds), chance, seeds)


def work(target: Target, folder: Path, seconds: float, seed: int) -> None:
    """Fuzz one target in this process; count its inputs in ``state.json``."""
    logging.disable(logging.CRITICAL)
    fuzzer, seeds = Fuzzer(target, folder / "input", folder / "findings"), target.seeds(folder / "seeds")
    end = time.monotonic() + seconds
    for data in mutations(target, seeds, seed):
        fuzzer(data)
        (folder / "state.json").write_text(json.dumps([fuzzer.tried, fuzzer.read]))
        if time.monotonic() > end:
            return


def fuzz(name: str, folder: Path, seconds: float, seed: int) -> list[str]:
    """Fuzz one target in a process of its own; print a row of the table and return the findings."""
    for part in ("findings", "seeds", "input"):
        (folder / part).mkdir(parents=True)
    source, state = folder / "input" / TARGETS[name].file, folder / "state.json"
    state.write_text("[0, 0]")
    process = multiprocessing.get_context("fork").Process(target=work, args=(TARGETS[name], folder, seconds, seed))
    process.start()
    while process.is_alive():
        process.join(SILENCE)
        if process.is_alive() and source.exists() and time.time() - source.stat().st_mtime > SILENCE:
            process.kill()
    findings = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("findings/*.txt"))]
    if process.exitcode != 0:
        findings.append(f"the process ended with {process.exitcode}, input {source}")
    print(f"| {name} | {' | '.join(map(str, json.loads(state.read_text())))} | {len(findings)} |", flush=True)
    return findings


def main() -> int:
    """Fuzz, print a table and the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="time for all targets together (10)")
    parser.add_argument("--target", choices=list(TARGETS), help="only this target")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (0)")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    names = [asked.target] if asked.target else list(TARGETS)
    print("| target | inputs | read | findings |\n|---|---|---|---|")
    findings = {name: fuzz(name, folder / name, asked.minutes * 60 / len(names), asked.seed) for name in names}
    for name, found in findings.items():
        for finding in found:
            print(f"FINDING: {name}: {finding}")
    print(f"inputs and findings: {folder}")
    return int(any(findings.values()))


if __name__ == "__main__":
    sys.exit(main())
