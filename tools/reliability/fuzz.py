"""Made-up bytes in the place of scans, lists and calibrations: the right answer or one line, soon, in little memory.

    python tests/faults/fuzz.py --minutes 10                    # all targets, as long each
    python tests/faults/fuzz.py --minutes 2 --target nrrd       # one of them
    python tests/faults/fuzz.py --minutes 2 --plain             # without atheris: blind mutations, no coverage

With atheris (`pip install -e ".[fuzz]"`) inputs that reach new code are kept and changed further; without it seeds are
changed at random. Each target runs in a process of its own, so that one that is killed is a finding too. The bytes of a
finding are left in the folder that is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import itk
import numpy as np
from monai.transforms import Compose

ATHERIS = None
if __name__ == "__main__" and "--worker" in sys.argv and "--plain" not in sys.argv:
    with contextlib.suppress(ImportError):
        import atheris as ATHERIS

FOLLOWED = ["monai_pdddpm.data", "monai_pdddpm.bundle.calibration_file", "nibabel"]
# they have to be imported within this
with ATHERIS.instrument_imports(include=FOLLOWED) if ATHERIS else contextlib.nullcontext():
    import nibabel as nib
    from good_scan import AFFINE, VOXELS, itk_image, nifti, series

    from monai_pdddpm.bundle.calibration_file import load_calibration
    from monai_pdddpm.data import CaseDataset, CheckImaged, LoadScand, inference_cases, labelled_cases
    from monai_pdddpm.data.datalist import check_case_name
    from monai_pdddpm.data.geometry import check_affine, largest_shift
    from monai_pdddpm.data.headers import read_header
    from monai_pdddpm.utils.errors import UserError, user_message

SECONDS = 5  # that an input may take
MEMORY = 1 << 29  # bytes of address space that an input may take
LONGEST = 1 << 16  # bytes of an input
SILENCE = 60  # seconds without a new input after which a process hangs
SMALL = VOXELS[:5, :4, :3]
NUMBERS = (b"0", b"-1", b"1", b"nan", b"inf", b"1e999", b"-0.5", b"2147483648", b"18446744073709551615", b"9" * 400)
VALUES = (
    *(struct.pack(f"{order}{kind}", value) for order in "<>" for kind in "hiq" for value in (-1, 0, 1, 8, 0x7FFF)),
    *(struct.pack(f"{order}{kind}", value) for order in "<>" for kind in "fd" for value in (np.nan, np.inf, -1, 1e30)),
    *(struct.pack(f"{order}i", value) for order in "<>" for value in (-(2**31), 2**31 - 1, 2**24)),
)


class Fault(Exception):
    """What no input may lead to."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        file: that the bytes are written to, in a folder of its own.
        seeds: returns good inputs, given an empty folder to make them in.
        look: is given the file; returns, or raises `UserError`, and anything else is a finding.
        beside: puts what is needed into the folder.
        packed: bytes are also changed before they are compressed.
    """

    file: str
    seeds: Callable[[Path], list[bytes]]
    look: Callable[[Path], None]
    beside: Callable[[Path], object] = lambda folder: None
    packed: bool = False


def nifti_seeds(folder: Path) -> list[bytes]:
    with_extension = nifti(SMALL, extension=struct.pack("<2i", 32, 6) + bytes(24))
    second = nib.Nifti2Image(SMALL, AFFINE).to_bytes()
    kinds = [SMALL.astype(kind) for kind in ("u1", "i2", "f8")]
    shapes = [SMALL[..., None], np.stack([SMALL, SMALL], -1), SMALL[..., :1]]
    odd = [{"scl_slope": 2.0, "scl_inter": -3.0}, {"sform_code": 0}, {"sform_code": 0, "qform_code": 0}]
    return [
        nifti(SMALL, endian=">"),
        with_extension,
        second,
        *map(nifti, [SMALL, *kinds, *shapes]),
        *(nifti(SMALL, edits=edits) for edits in odd),
    ]


def itk_seeds(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        found = []
        for number, (array, compression) in enumerate(
            [(SMALL, False), (SMALL, True), (SMALL.astype(np.int16), False), (np.stack([SMALL, SMALL], -1), False)]
        ):
            path = folder / f"{number}{name}"
            itk.imwrite(itk_image(array), str(path), compression=compression)
            found.append(path.read_bytes())
        return found

    return seeds


def series_seeds(folder: Path) -> list[bytes]:
    return [series(folder / "series")[1].read_bytes()]


def list_seeds(folder: Path) -> list[bytes]:
    cases = [{"image": f"./imagesTr/{name}.nii", "label": f"./labelsTr/{name}.nii"} for name in "ab"]
    contents = [
        {"training": cases, "test": ["./imagesTr/a.nii"]},
        {"test": ["imagesTr/a.nii", {"image": ["imagesTr/a.nii", None, "imagesTr/b.nii"]}], "root": "."},
        {"training": cases, "validation": cases[:1], "modality": {"0": "CT"}, "labels": {"0": "none", "1": "it"}},
        {"training": [], "test": [], "name": "é\u2028"},
    ]
    return [json.dumps(content).encode() for content in contents]


def calibration_seeds(folder: Path) -> list[bytes]:
    whole = {
        "temperature": 1.2,
        "interval_factor": {"1": 2.5},
        "dice_line": [0.1, 0.8, 0.05],
        "ranges": {"volume": [1.0, 9e3]},
        "fitted": {"cases": 9, "settings": {"members": 8}},
    }
    contents = [whole, {"temperature": 2}, {}, whole | {"dice_line": None}]
    return [json.dumps(content).encode() for content in contents]


def put_scans(folder: Path) -> None:
    for name in ("imagesTr/a", "imagesTr/b", "labelsTr/a", "labelsTr/b"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.nii").write_bytes(nifti(SMALL))


def put_series(folder: Path) -> None:
    for unused in series(folder)[4:]:
        unused.unlink()


READING = [LoadScand("image"), CheckImaged("image")]


def look_at_scan(path: Path) -> None:
    """Check and read a scan as inference does; what was read has to be what the header tells."""
    item = CaseDataset([{"image": str(path)}], Compose(READING), spatial_dims=3, channels=1)[0]
    if "failure" in item:
        raise UserError(item["failure"]["error"])
    image, header = item["image"], read_header(path)
    affine = np.asarray(image.affine)
    check_affine(path, affine)
    if image.shape != (1, *header.spatial):
        raise Fault(f"loaded as {tuple(image.shape)}, the header tells of {header.shape}")
    if largest_shift(header.affine, affine, header.spatial) > 0.01:
        raise Fault(f"loaded at {affine.tolist()}, the header tells of {header.affine.tolist()}")
    if not np.isfinite(image.numpy()).all():
        raise Fault("voxels that are not finite have passed")
    if path.name.endswith((".nii", ".gz")):
        expected = np.asanyarray(nib.load(path).dataobj).astype(np.float32)
        if not np.array_equal(expected.ravel(), image.numpy().ravel()):
            raise Fault("voxels are not those of nibabel")


def look_at_series(path: Path) -> None:
    look_at_scan(path.parent)


def look_at_list(path: Path) -> None:
    """List the cases; none may lie outside of the folder, unless the list names another root."""
    faults = []
    for cases_of in (inference_cases, lambda folder: labelled_cases(folder, "training")):
        with contextlib.suppress(UserError):
            for case in cases_of(path.parent):
                files = [case["image"]] if isinstance(case["image"], str) else case["image"]
                faults += [file for file in files if file and ".." in Path(file).parts]
                check_case_name(case["image"])
    with contextlib.suppress(ValueError, RecursionError):
        if faults and "root" not in json.loads(path.read_text(encoding="utf-8-sig")):
            raise Fault(f"a case outside of the folder: {faults[0]!r}")
    inference_cases(path.parent)


def look_at_calibration(path: Path) -> None:
    found = load_calibration(path, settings={"members": 16})
    ranges = [bound for pair in found.ranges.values() for bound in pair]
    numbers = [found.temperature, *found.interval_factor.values(), *(found.dice_line or ()), *ranges]
    if not np.isfinite(numbers).all():
        raise Fault(f"numbers that are not finite: {numbers}")


TARGETS = {
    "nifti": Target("scan.nii", nifti_seeds, look_at_scan),
    "nifti_gz": Target(
        "scan.nii.gz", lambda f: [gzip.compress(s, mtime=0) for s in nifti_seeds(f)], look_at_scan, packed=True
    ),
    "nrrd": Target("scan.nrrd", itk_seeds(".nrrd"), look_at_scan),
    "mha": Target("scan.mha", itk_seeds(".mha"), look_at_scan),
    "dicom": Target("IM0001", series_seeds, look_at_series, put_series),
    "dataset": Target("dataset.json", list_seeds, look_at_list, put_scans),
    "calibration": Target("calibration.json", calibration_seeds, look_at_calibration),
}


@dataclass
class Fuzzer:
    """Tries inputs of one target and keeps those that are findings, one of each sort.

    Attributes:
        target: what is fuzzed.
        folder: is given the input under the target's name, and what lies beside it.
        kept: folder for findings; None keeps none.
    """

    target: Target
    folder: Path
    kept: Path | None = None
    tried: int = 0
    answered: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.target.beside(self.folder)

    def __call__(self, data: bytes) -> str | None:
        """Try an input; return what is wrong with what became of it, if anything."""
        path = self.folder / self.target.file
        path.write_bytes(data)
        self.tried += 1
        wrong, begin = None, time.perf_counter()
        try:
            with _little_memory(), contextlib.redirect_stdout(io.StringIO()):
                self.target.look(path)
            self.answered += 1
        except Exception as error:
            line = user_message(error)
            if line is None:
                wrong = f"{type(error).__name__}: {error}"
            elif re.match(r"unexpected \w+:", line) or re.search(r"memory does not suffice|bad_alloc", line):
                wrong = line
            elif not re.search(r": .*; ", line):
                wrong = f"no advice: {line}"
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


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def mutated(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Change an input in one to four places, most of them near its begin, where headers are."""
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
            case 6:  # a number of a text
                found = list(re.finditer(rb"-?\d[\d.]*", out[:2000]))
                if found:
                    place = chance.choice(found)
                    out[place.start() : place.end()] = chance.choice(NUMBERS)
            case _:
                other = chance.choice(others)
                out = out[:at] + other[at:] if chance.random() < 0.5 else out[:at]
    return bytes(out[:LONGEST])


def changed(target: Target, data: bytes, change: Callable[[bytes], bytes], packed: bool) -> bytes:
    """Change an input, or what it was packed from."""
    if target.packed and packed:
        with contextlib.suppress(Exception):
            return gzip.compress(change(gzip.decompress(data)), 1, mtime=0)
    return change(data)


def mutations(target: Target, seeds: list[bytes], seed: int = 0) -> Iterator[bytes]:
    """Yield the seeds, then changed ones without end, always the same."""
    chance = random.Random(seed)
    plain = [gzip.decompress(one) for one in seeds] if target.packed else seeds
    yield from seeds
    while True:
        packed = chance.random() < 0.7
        others = plain if packed else seeds
        yield changed(target, chance.choice(seeds), lambda data: mutated(data, chance, others), packed)  # noqa: B023


def work(name: str, folder: Path, seconds: float, seed: int) -> None:
    """Fuzz one target in this process; ``state.json`` in the folder tells how far it has come."""
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    kept, corpus = folder / "findings", folder / "corpus"
    for made in (kept, corpus, folder / "seeds"):
        made.mkdir()
    fuzzer, seeds = Fuzzer(target, folder / "input", kept), target.seeds(folder / "seeds")
    for number, one in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(one)

    def attempt(data: bytes) -> None:
        fuzzer(data)
        if fuzzer.tried % 50 == 0:
            state = {"tried": fuzzer.tried, "answered": fuzzer.answered}
            (folder / "state.part").write_text(json.dumps(state))
            (folder / "state.part").replace(folder / "state.json")

    if ATHERIS is None:
        end = time.monotonic() + seconds
        for data in mutations(target, seeds, seed):
            attempt(data)
            if time.monotonic() > end:
                return

    def mutator(data: bytes, longest: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.3:
            change = lambda old: mutated(old, chance, [old])  # noqa: E731
        else:
            change = lambda old: ATHERIS.Mutate(old, longest)  # noqa: E731
        return changed(target, data, change, chance.random() < 0.7)[:longest]

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-max_len={LONGEST}", "-len_control=0"]
    options += ["-timeout=3600", "-rss_limit_mb=0", f"-artifact_prefix={folder}/"]
    ATHERIS.Setup([sys.argv[0], *options, str(corpus)], attempt, custom_mutator=mutator)
    ATHERIS.Fuzz()


@dataclass(frozen=True)
class Report:
    """What became of one target."""

    name: str
    seconds: float
    tried: int
    answered: int
    corpus: int
    coverage: int | None
    findings: list[str]

    def row(self) -> str:
        """Return the row of a table in Markdown."""
        coverage = "" if self.coverage is None else self.coverage
        return (
            f"| {self.name} | {self.seconds / 60:.1f} | {self.tried} | {self.answered} | {self.corpus} | {coverage} | "
            f"{len(self.findings)} |"
        )


def fuzz(name: str, folder: Path, seconds: float, seed: int, plain: bool) -> Report:
    """Fuzz one target in a process of its own."""
    folder.mkdir(parents=True)
    words = [sys.executable, __file__, "--worker", "--target", name, "--minutes", str(seconds / 60)]
    words += ["--seed", str(seed), "--keep", str(folder), *(["--plain"] if plain else [])]
    begin, source = time.monotonic(), folder / "input" / TARGETS[name].file
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            last = source.stat().st_mtime if source.exists() else time.time()
            if time.time() - last > SILENCE:
                process.kill()
    findings = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("findings/*.txt"))]
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    if process.returncode != 0:
        (folder / "findings" / f"killed_{TARGETS[name].file}").write_bytes(source.read_bytes())
        findings.append(f"the process ended with {process.returncode}: {text[-300:]}")
    state = json.loads((folder / "state.json").read_text()) if (folder / "state.json").exists() else {}
    reached = re.findall(r"cov: (\d+)", text)
    return Report(
        name,
        time.monotonic() - begin,
        state.get("tried", 0),
        state.get("answered", 0),
        len(os.listdir(folder / "corpus")),
        int(reached[-1]) if reached else None,
        findings,
    )


def main() -> int:
    """Fuzz, print a table and the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together (10)")
    parser.add_argument("--target", choices=list(TARGETS), help="one of them")
    parser.add_argument("--seed", type=int, default=0, help="another one tries other inputs (0)")
    parser.add_argument("--plain", action="store_true", help="do without atheris")
    parser.add_argument("--keep", type=Path, help="folder for inputs and findings, which must not be there (temporary)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.target, asked.keep, asked.minutes * 60, asked.seed)
        return 0
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="fuzz"))
    names = [asked.target] if asked.target else list(TARGETS)
    print("| target | minutes | inputs tried | read | kept | coverage | findings |\n|---|---|---|---|---|---|---|")
    reports = []
    for name in names:
        reports.append(fuzz(name, folder / name, asked.minutes * 60 / len(names), asked.seed, asked.plain))
        print(reports[-1].row(), flush=True)
    for report in reports:
        for finding in report.findings:
            print(f"FINDING: {report.name}: {finding}")
    print(f"inputs and findings: {folder}")
    return int(any(report.findings for report in reports))


if __name__ == "__main__":
    sys.exit(main())
