"""NIfTI files with unusual or invalid bytes, headers, voxels, grids or channels."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from good_scan import AFFINE, VOXELS, Make, changed, edited, holding, nifti, save
from kinds import INF, NAN, PLAIN, Kind, kinds_of

ODD = (0.0, -1.0, NAN, INF, 1e30, 1e-30)


def read_as(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    return lambda: (voxels, affine)


def _files() -> list[Kind]:
    k, data = kinds_of("files"), nifti()
    one_slice = 14 * 12 * 4

    def packed(change: Callable[[bytes], bytes]) -> Make:
        """Change the file before it is compressed, so that the gzip stream is valid."""
        return lambda folder: (folder / "bad.nii.gz").write_bytes(gzip.compress(change(data)))

    def bomb(folder: Path) -> None:
        packer = zlib.compressobj(1, wbits=31)
        with (folder / "bad.nii.gz").open("wb") as file:
            file.write(packer.compress(data))
            for _ in range(128):
                file.write(packer.compress(bytes(1 << 20)))
            file.write(packer.flush())

    def forged(folder: Path) -> None:
        bomb(folder)
        with (folder / "bad.nii.gz").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(struct.pack("<I", len(data)))

    def sparse(folder: Path) -> None:
        with save(folder / "bad.nii", edits={"dim": (3, 10000, 10000, 10000, 1, 1, 1, 1)}).open("r+b") as file:
            file.truncate(352 + 4 * 10000**3)

    def written(content: bytes, name: str = "bad.nii") -> Make:
        return lambda folder: (folder / name).write_bytes(content)

    two_members = gzip.compress(data[:999]) + gzip.compress(data[999:])
    extension = nifti(extension=struct.pack("<2i", 64, 6) + bytes(56))
    return [
        k("empty file", written(b"", "bad.nii.gz")),
        k("one byte", changed(lambda b: b[:1])),
        k("cut in the gzip header", changed(lambda b: b[:7])),
        k("cut in the header", changed(lambda b: b[:100])),
        k("cut in the voxels", changed(lambda b: b[: len(b) // 2])),
        k("cut in the gzip trailer", changed(lambda b: b[:-3])),
        k("gzip without trailer", changed(lambda b: b[:-8])),
        k("gzip with a wrong checksum", changed(lambda b: b[:-8] + b"abcd" + b[-4:])),
        k("gzip with a wrong length", changed(lambda b: b[:-4] + b"\1\2\3\4")),
        k("damaged gzip stream", changed(lambda b: b[:1500] + bytes(99) + b[1599:])),
        k("gzip followed by zeros", changed(lambda b: b + bytes(512)), "done"),
        k("gzip followed by other bytes", changed(lambda b: b + b"rubbish")),
        k("gzip of two members", written(two_members, "bad.nii.gz"), "done"),
        k("uncompressed, cut in the header", changed(lambda b: b[:100], "bad.nii")),
        k("uncompressed, cut after the header", changed(lambda b: b[:352], "bad.nii")),
        k("uncompressed, one byte missing", changed(lambda b: b[:-1], "bad.nii")),
        k("valid gzip of half a file", packed(lambda b: b[: len(b) // 2])),
        k("valid gzip of a header", packed(lambda b: b[:352])),
        k("valid gzip of nothing", packed(lambda b: b"")),
        k("16 bytes too many", packed(lambda b: b + bytes(16)), "noted"),
        k("one slice too many", packed(lambda b: b + b[-one_slice:])),
        k("uncompressed, one slice too many", changed(lambda b: b + b[-one_slice:], "bad.nii")),
        k("128 MiB of zeros after the voxels", bomb),
        k("128 MiB of zeros after the voxels, with a forged length", forged),
        k("cut in an extension", written(extension[:353])),
        k("sparse file of 4 TB", sparse),
        k("compressed, named .nii", changed(gzip.compress, "bad.nii")),
        k("uncompressed, named .nii.gz", changed(gzip.decompress)),
        k("compressed twice", changed(gzip.compress)),
        k("text", written(b"no scan\n" * 100)),
        k("compressed text", written(gzip.compress(b"no scan\n" * 99), "bad.nii.gz")),
        k("zeros", written(bytes(9000))),
        k("random bytes", written(np.random.default_rng(0).bytes(9000))),
        k("PNG image", written(b"\x89PNG\r\n\x1a\n" + bytes(999))),
    ]


def _header() -> list[Kind]:
    k = kinds_of("header")
    no_forms, only_q = {"sform_code": 0, "qform_code": 0}, {"sform_code": 0}
    huge, seven = (3, 32767, 32767, 8192, 1, 1, 1, 1), (7, *(32767,) * 7)
    swapped = VOXELS.reshape(-1, order="F").reshape((12, 14, 10), order="F")

    def each(
        field: str, outcomes: dict[str, tuple], at: int | None = None, note: str = "", **more: object
    ) -> list[Kind]:
        """Return one kind per value of a header field; ``outcomes`` has the values by outcome."""
        name = f"{field}[{at}]" if at is not None else field
        return [
            k(f"{name} {value:g}{note}", edited(field, value, at, **more), outcome)
            for outcome, values in outcomes.items()
            for value in values
        ]

    def extension(size: int) -> Make:
        return lambda folder: save(folder / "bad.nii", extension=struct.pack("<2i", size, 6) + bytes(24))

    return [
        k("magic of zeros", edited("magic", b"")),
        k("magic ni1", edited("magic", b"ni1"), "done"),
        k("magic n+2", edited("magic", b"n+2")),
        k("unknown magic", edited("magic", b"xyz")),
        *each("sizeof_hdr", {"done": (0, -1, 540, struct.unpack(">i", struct.pack("<i", 348))[0])}),
        *each("dim", {"refused": (0, -3, 1, 2, 8, 99, 32767), "done": (7,)}, 0),
        *[one for at in (1, 3) for one in each("dim", {"refused": (0, -1, -32768, 1, 9, 32767)}, at)],
        k("dim[4] 0 of a 3D scan", edited("dim", 0, 4), "done"),
        k("dim[4] 0 of a 4D scan", edited("dim", (4, 14, 12, 10, 0, 1, 1, 1))),
        k("dim of 35 TB", edited("dim", huge)),
        k("dim of 35 TB, compressed", edited("dim", huge, file="bad.nii.gz")),
        k("seven axes of 32767", edited("dim", seven)),
        k("seven axes of 32767, compressed", edited("dim", seven, file="bad.nii.gz")),
        k("swapped sizes", edited("dim", (3, 12, 14, 10, 1, 1, 1, 1)), "done", read_as(swapped)),
        *each("datatype", {"refused": (0, 1, -1, 3, 9999, 128, 2304, 32, 1792, 64, 4)}),
        *each("bitpix", {"done": (0, -1, 1, 32767)}),
        *each("vox_offset", {"refused": (0, -1, 100, 353, 360, 1e30, NAN, INF)}),
        *each("scl_slope", {"done": (0.0, NAN, INF, -INF), "refused": (1e38, 1e-45)}),
        k("scl_slope -2", edited("scl_slope", -2.0), "done", read_as(-2 * VOXELS)),
        *each("scl_inter", {"refused": (NAN, INF, 1e30)}, scl_slope=1.0),
        k("scl_inter -1000", edited("scl_inter", -1000.0, scl_slope=2.0), "done", read_as(2 * VOXELS - 1000)),
        *each("pixdim", {"done": (0.0, -1.0), "noted": (NAN, INF, 1e30, 1e-30)}, 1, " with a valid sform"),
        *each("pixdim", {"refused": ODD}, 1, " with a qform only", **only_q),
        *each("pixdim", {"refused": ODD}, 1, " without sform and qform", **no_forms),
        *each("pixdim", {"done": (0.0,), "refused": (5.0, NAN)}, 0, " with a qform only", **only_q),
        *each("pixdim", {"done": (NAN,)}, 4),
        *each("sform_code", {"done": (0, 4, 5), "noted": (-1, 99, 32767)}),
        *each("qform_code", {"done": (0, 4, 5), "noted": (-1, 99, 32767)}),
        k("neither sform nor qform", edited("sform_code", 0, qform_code=0), "noted", read_as(affine=PLAIN)),
        *each("srow_x", {"refused": (NAN, INF, 1e30)}, 0),
        *each("srow_x", {"refused": (NAN, 1e30)}, 3),
        k("srow_x of zeros", edited("srow_x", 0.0)),
        k("srow_x equal to srow_y", edited("srow_x", AFFINE[1], srow_y=AFFINE[1])),
        *each("quatern_b", {"refused": (NAN, INF, 2.0, 1e30)}, None, " with a qform only", **only_q),
        *each("quatern_b", {"noted": (NAN, INF, 2.0, 1e30)}, None, " with a valid sform"),
        *each("qoffset_x", {"refused": (NAN, 1e30)}, None, " with a qform only", **only_q),
        *each("qoffset_x", {"noted": (NAN,)}, None, " with a valid sform"),
        k(
            "sform and qform mirror each other",
            edited("srow_x", -AFFINE[0]),
            "noted",
            read_as(affine=np.diag([-1.0, 1, 1, 1]) @ AFFINE),
        ),
        *each("xyzt_units", {"done": (0, 2 | 64), "noted": (7, 255), "refused": (1, 3)}),
        *each("intent_code", {"done": (3, -1), "refused": (3001,)}),
        k("extension of 32 bytes", extension(32), "done"),
        *[k(f"extension of {size} bytes", extension(size)) for size in (0, -16, 2**31 - 16, 33)],
        k(
            "random text fields",
            edited("descrip", b"\xff\xfe\x80" * 20, aux_file=b"\x01\x02", intent_name=b"\xff"),
            "done",
        ),
    ]


def _voxels() -> list[Kind]:
    k = kinds_of("voxels")
    one_nan, one_inf = VOXELS.copy(), VOXELS.copy()
    one_nan[3, 4, 5], one_inf[3, 4, 5] = NAN, -INF
    types = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64"]
    typed = {name: (VOXELS // 8 if name.endswith("int8") else VOXELS).astype(name) for name in types}

    def big_endian(name: str) -> Make:
        return lambda folder: save(folder / "bad.nii", VOXELS.astype(name), endian=">")

    return [
        *[k(name, holding(voxels), "done", read_as(voxels)) for name, voxels in typed.items()],
        *[k(f"{name}, big-endian", big_endian(name), "done") for name in ("int16", "float32", "float64")],
        *[k(name, holding(VOXELS.astype(name))) for name in ("complex64", "complex128")],
        k("RGB", holding(np.zeros(VOXELS.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]))),
        k("float64 beyond float32", holding(VOXELS.astype(np.float64) * 1e300)),
        k("one NaN", holding(one_nan)),
        k("one infinity", holding(one_inf)),
        k("only NaN", holding(np.full_like(VOXELS, NAN))),
        k("only zeros", holding(np.zeros_like(VOXELS))),
        k("one value", holding(np.full_like(VOXELS, 7))),
        k("one voxel", holding(VOXELS[:1, :1, :1])),
        k("one slice", holding(VOXELS[:, :, :1]), "done", read_as(VOXELS[:, :, :1])),
        k("one line", holding(VOXELS[:, :1, :1]), "done", read_as(VOXELS[:, :1, :1])),
        k("two axes", holding(VOXELS[:, :, 0])),
        k("fourth axis of size 1", holding(VOXELS[..., None]), "done"),
        k("NIfTI-2", lambda folder: nib.save(nib.Nifti2Image(VOXELS, AFFINE), folder / "bad.nii.gz"), "done"),
    ]


def _grids() -> list[Kind]:
    k = kinds_of("grids")

    def with_axes(*columns: np.ndarray) -> np.ndarray:
        affine = AFFINE.copy()
        affine[:3, :3] = np.stack(columns, 1)
        return affine

    a, b, c = AFFINE[:3, :3].T
    shear, left = with_axes(a, b + 0.4 * a, c), with_axes(-a, b, c)
    far = np.vstack([(*AFFINE[0, :3], 1e6), AFFINE[1:]])
    rows = {f"srow_{axis}": shear[number] for number, axis in enumerate("xyz")}
    return [
        k("singular affine", holding(VOXELS, with_axes(a, a, c), "bad.nii")),
        k("affine of zeros", holding(VOXELS, with_axes(0 * a, 0 * b, 0 * c), "bad.nii")),
        k("nearly singular affine", holding(VOXELS, with_axes(a, a + 1e-6, c), "bad.nii")),
        k("sheared affine", edited("qform_code", 0, **rows), "noted", read_as(affine=shear)),
        k("left-handed affine", holding(VOXELS, left), "done", read_as(affine=left)),
        k("voxels of 1 m", holding(VOXELS, with_axes(1000 * a, 1000 * b, 1000 * c))),
        k("voxels of 0.1 µm", holding(VOXELS, with_axes(a / 10000, b / 10000, c / 10000))),
        k("origin 1 km away", edited("srow_x", 1e6, 3, qform_code=0), "done", read_as(affine=far)),
    ]


def _channels() -> list[Kind]:
    k = kinds_of("channels")
    four = np.stack([VOXELS, 2 * VOXELS, 3 * VOXELS, 4 * VOXELS], -1)
    two = {"options": {"channels": 2}, "beside": False}
    time = {"options": {"channels": 1, "fourth_dimension": "time"}}

    def listed(*files: str | None, array: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Make:
        def make(folder: Path) -> None:
            save(folder / "a.nii")
            save(folder / "b.nii", array, affine)
            (folder / "dataset.json").write_text(json.dumps({"test": [{"image": list(files)}]}))

        return make

    pair, far = listed("a.nii", "b.nii"), AFFINE.copy()
    far[:3, 3] += (500, 0, 0)
    return [
        k("four volumes, one expected", holding(four)),
        k("one volume, two expected", holding(VOXELS), **two),
        k("two files for two channels", pair, "done", read_as(np.stack([VOXELS, VOXELS])), **two),
        k("one file for two channels", listed("a.nii"), **two),
        k("one channel is null", listed("a.nii", None), **two),
        k("one channel does not exist", listed("a.nii", "gone.nii"), **two),
        k("channels do not overlap", listed("a.nii", "b.nii", affine=far), **two),
        k("one channel has two volumes", listed("a.nii", "b.nii", array=four[..., :2]), **two),
        k("list of files, frames expected", pair, **time, beside=False),
        k("four frames", holding(four), "done", read_as(np.moveaxis(four, -1, 0)), **time),
        k("four frames of two values", holding(np.stack([four, four], -1)), **time),
        k("no frame", edited("dim", (4, 14, 12, 10, 0, 1, 1, 1)), **time),
    ]


KINDS = [*_files(), *_header(), *_voxels(), *_grids(), *_channels()]
