"""NRRD, MetaImage and DICOM with unusual or invalid content."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from good_scan import AFFINE, VOXELS, Make, by_itk, series
from kinds import Kind, kinds_of


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


def _headers() -> list[Kind]:
    """Return kinds of one file with header and voxels."""
    k, found = kinds_of("NRRD and MetaImage"), []
    for ext, sizes, voxel_type, axes in (
        ("nrrd", b"sizes: ", b"type: float", b"dimension: 3"),
        ("mha", b"DimSize = ", b"MET_FLOAT", b"NDims = 3"),
    ):
        file, right = f"bad.{ext}", sizes + b"14 12 10"

        def kind(name: str, *change: Any, outcome: str = "refused", compress: bool = False, file: str = file) -> Kind:
            change = replace(*change) if len(change) == 2 else change[0] if change else None
            return k(f"{file[4:]}: {name}", by_itk(file, change, compress), outcome)

        found += [
            kind("valid", outcome="done"),
            kind("compressed", outcome="done", compress=True),
            kind("empty", lambda b: b""),
            kind("text", lambda b: b"no scan\n" * 99),
            kind("cut in the header", lambda b: b[:120]),
            kind("cut in the voxels", lambda b: b[:-999]),
            kind("compressed, cut in the voxels", lambda b: b[:-999], compress=True),
            kind("compressed, damaged", lambda b: b[:-999] + bytes(99) + b[-900:], compress=True),
            kind("6 PB", right, sizes + b"140000 120000 100000"),
            kind("compressed, 6 PB", right, sizes + b"140000 120000 100000", compress=True),
            kind("size of zero", right, sizes + b"0 12 10"),
            kind("negative size", right, sizes + b"-14 12 10"),
            kind("sizes of 30 digits", right, right + b"0" * 30),
            kind("sizes without numbers", right, sizes + b"a b c"),
            kind("99 sizes", sizes, sizes + b" 1" * 96),
            kind("fewer sizes than axes", right, sizes + b"14 12"),
            kind("unknown voxel type", voxel_type, voxel_type[:4] + b"OTHER"),
            kind("no axes", axes, axes[:-1] + b"0"),
            kind("99 axes", axes, axes[:-1] + b"99"),
        ]
    direction = b"(-0.96835970878601074,-0.21238464117050171,-0.13104298710823059)"
    other = b"(0.3039737343788147,-1.4634919166564941,0.12566328048706055)"
    spacing = b"ElementSpacing = 1.0000000129377491"
    guessed = nib.affines.from_matvec(np.diag([-1.0, -1, 1]), AFFINE[:3, 3])
    no_directions = by_itk("bad.nrrd", replace(b"space directions:", b"# was:"))
    return [
        *found,
        k("nrrd: line of 100,000 letters", by_itk("bad.nrrd", replace(b"float", b"float" + b"x" * 100_000))),
        k("nrrd: unknown encoding", by_itk("bad.nrrd", replace(b"encoding: raw", b"encoding: magic"))),
        k("nrrd: direction of zeros", by_itk("bad.nrrd", replace(direction, b"(0,0,0)"))),
        k("nrrd: direction of NaN", by_itk("bad.nrrd", replace(direction, b"(nan,nan,nan)"))),
        k("nrrd: two equal directions", by_itk("bad.nrrd", replace(other, direction))),
        k("nrrd: no directions", no_directions, "noted", lambda: (VOXELS, guessed)),
        k("mha: line of 100,000 letters", by_itk("bad.mha", replace(b"Image", b"I" * 100_000))),
        *[
            k(f"mha: spacing {value}", by_itk("bad.mha", replace(spacing, f"ElementSpacing = {value}".encode())))
            for value in ("0", "nan")
        ],
    ]


def _detached() -> list[Kind]:
    """Return kinds of a header with the voxels in another file."""
    k, found = kinds_of("NRRD and MetaImage, voxels in another file"), []

    def then(file: str, change: Callable[[Path], Any]) -> Make:
        def make(folder: Path) -> None:
            by_itk(file)(folder)
            change(folder / "bad.raw")

        return make

    for file in ("bad.nhdr", "bad.mhd"):
        ext = file[4:]
        found += [
            k(f"{ext}: valid", by_itk(file), "done"),
            k(f"{ext}: missing", then(file, Path.unlink)),
            k(f"{ext}: cut", then(file, lambda raw: raw.write_bytes(raw.read_bytes()[:999]))),
            k(f"{ext}: empty", then(file, lambda raw: raw.write_bytes(b""))),
            k(f"{ext}: folder", then(file, lambda raw: (raw.unlink(), raw.mkdir()))),
            k(f"{ext}: pipe", then(file, lambda raw: (raw.unlink(), os.mkfifo(raw)))),
            k(f"{ext}: /dev/zero", by_itk(file, replace(b"bad.raw", b"/dev/zero"))),
            k(f"{ext}: /etc/passwd", by_itk(file, replace(b"bad.raw", b"/etc/passwd"))),
            k(f"{ext}: in the folder above", by_itk(file, replace(b"bad.raw", b"../bad.raw"))),
            k(f"{ext}: numbered files", by_itk(file, replace(b"bad.raw", b"../bad%03d.raw 1 10 1"))),
        ]
    return found


def _dicom() -> list[Kind]:
    k = kinds_of("DICOM")
    alone = {"dataset": "bad", "beside": False}

    def tag(element: int, value: int) -> bytes:
        return struct.pack("<HHIH", 0x28, element, 2, value)

    rows, columns = tag(0x10, 12), tag(0x11, 14)

    def kind(name: str, change: Callable[[list[Path]], Any], outcome: str = "refused", names: str = "IM{:04}") -> Kind:
        return k(name, lambda folder: change(series(folder / "bad", names=names)), outcome, **alone)

    def edit(file: Path, *pairs: tuple[bytes, bytes]) -> None:
        content = file.read_bytes()
        for old, new in pairs:
            assert content.count(old) == 1, file
            content = content.replace(old, new)
        file.write_bytes(content)

    def cut(files: list[Path], left: int) -> None:
        files[4].write_bytes(files[4].read_bytes()[:left])

    def other_series(folder: Path) -> None:
        series(folder / "bad")
        series(folder / "other", uid="1.2.3")[4].rename(folder / "bad" / "other")

    def one_bad(folder: Path) -> None:
        series(folder / "bad")[4].unlink()

    def only_text(folder: Path) -> None:
        (folder / "bad").mkdir()
        (folder / "bad" / "a.dcm").write_text("no slice")

    huge = (rows, tag(0x10, 65535)), (columns, tag(0x11, 65535))
    return [
        kind("valid", lambda files: None, "done"),
        kind(
            "names in another order",
            lambda fs: [f.rename(f.with_name(f"{n * 7 % 10}")) for n, f in enumerate(fs)],
            "done",
        ),
        kind("one slice missing", lambda files: files[4].unlink()),
        kind("one slice twice", lambda files: files[4].with_name("again").write_bytes(files[4].read_bytes())),
        k("one slice of another series", other_series, "stops", **alone),
        kind("one slice of another size", lambda files: edit(files[4], (rows, tag(0x10, 6)))),
        kind("one slice of 8 GB", lambda files: edit(files[4], *huge)),
        kind("all slices of 8 GB", lambda files: [edit(file, *huge) for file in files]),
        kind("one slice without rows", lambda files: edit(files[4], (rows, tag(0x10, 0)))),
        kind("one slice cut in the header", lambda files: cut(files, 300), "stops"),
        kind("one slice cut in the voxels", lambda files: cut(files, -99)),
        kind("one slice empty", lambda files: cut(files, 0)),
        kind("last slice empty", lambda files: files[-1].write_bytes(b"")),
        kind("last slice a broken link", lambda files: (files[-1].unlink(), files[-1].symlink_to("gone"))),
        kind("last slice without DICM", lambda files: files[-1].write_bytes(bytes(999)), names="IM{:04}.dcm"),
        kind("text among the slices", lambda files: files[0].with_name("notes.txt").write_text("x"), "noted"),
        kind("pipe among the slices", lambda files: os.mkfifo(files[0].with_name("pipe")), "noted"),
        kind("folder among the slices", lambda files: files[0].with_name("folder").mkdir(), "done"),
        k("text named .dcm", only_text, "stops", **alone),
        k("an incomplete series beside a valid one", one_bad, beside="series"),
    ]


KINDS = [*_headers(), *_detached(), *_dicom()]
