"""NIfTI files whose bytes, header, voxels, grids or channels are bad or odd."""

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
from kind import INF, NAN, PLAIN, Kind, kind
from spoil import AFFINE, VOXELS, Make, edited, holding, nifti, save, spoilt


def _files() -> list[Kind]:
    f = kind("files")
    data = nifti()

    def packed(change: Callable[[bytes], bytes]) -> Make:
        """Change the file, then compress it, so that the gzip is sound."""
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

    long_extension = nifti(extension=struct.pack("<2i", 64, 6) + bytes(56))

    def zeros(folder: Path) -> None:
        with save(folder / "bad.nii", edits={"dim": (3, 10000, 10000, 10000, 1, 1, 1, 1)}).open("r+b") as file:
            file.truncate(352 + 4 * 10000**3)

    return [
        f("empty file", lambda d: (d / "bad.nii.gz").touch(), "refused", "empty file"),
        f("one byte", spoilt(lambda b: b[:1]), "refused"),
        f("cut within the gzip's head", spoilt(lambda b: b[:7]), "refused"),
        f("cut within the header", spoilt(lambda b: b[:100]), "refused"),
        f("cut in the data", spoilt(lambda b: b[: len(b) // 2]), "refused", "cut short"),
        f("cut in the gzip's trailer", spoilt(lambda b: b[:-3]), "refused"),
        f("gzip without its trailer", spoilt(lambda b: b[:-8]), "refused"),
        f("gzip with a wrong checksum", spoilt(lambda b: b[:-8] + b"abcd" + b[-4:]), "refused", "cannot be read"),
        f("gzip with a wrong length", spoilt(lambda b: b[:-4] + b"\1\2\3\4"), "refused"),
        f("damage within the gzip", spoilt(lambda b: b[:1500] + bytes(99) + b[1599:]), "refused", "cannot be read"),
        f("gzip with zeros after it", spoilt(lambda b: b + bytes(512)), "done"),
        f("gzip with rubbish after it", spoilt(lambda b: b + b"rubbish"), "refused"),
        f(
            "gzip in two members",
            lambda d: (d / "bad.nii.gz").write_bytes(gzip.compress(data[:999]) + gzip.compress(data[999:])),
            "done",
        ),
        f("not compressed: cut within the header", spoilt(lambda b: b[:100], "bad.nii"), "refused"),
        f("not compressed: cut after the header", spoilt(lambda b: b[:352], "bad.nii"), "refused", "cut short"),
        f("not compressed: cut by one byte", spoilt(lambda b: b[:-1], "bad.nii"), "refused", "cut short"),
        f("sound gzip of half a file", packed(lambda b: b[: len(b) // 2]), "refused", "cut short"),
        f("sound gzip of a header", packed(lambda b: b[:352]), "refused", "cut short"),
        f("sound gzip of nothing", packed(lambda b: b""), "refused"),
        f("a few bytes too many", packed(lambda b: b + bytes(16)), "noted", "16 bytes more"),
        f("a slice too many", packed(lambda b: b + b[-14 * 12 * 4 :]), "refused", "than its header"),
        f(
            "not compressed: a slice too many",
            spoilt(lambda b: b + b[-14 * 12 * 4 :], "bad.nii"),
            "refused",
            "than its header",
        ),
        f("128 megabytes of zeros after the voxels", bomb, "refused", "than its header"),
        f("the same, with a length that is forged", forged, "refused", "than its header"),
        f("cut within an extension", lambda d: (d / "bad.nii").write_bytes(long_extension[:353]), "refused"),
        f("4 terabytes without content, as promised", zeros, "refused", "memory"),
        f("compressed, but named .nii", spoilt(gzip.compress, "bad.nii"), "refused", "name it .nii.gz"),
        f("not compressed, but named .nii.gz", spoilt(gzip.decompress), "refused", "name it .nii"),
        f("compressed twice", spoilt(gzip.compress), "refused"),
        f("text", lambda d: (d / "bad.nii").write_text("no scan\n" * 100), "refused"),
        f("text, compressed", lambda d: (d / "bad.nii.gz").write_bytes(gzip.compress(b"no scan\n" * 99)), "refused"),
        f("zeros", lambda d: (d / "bad.nii").write_bytes(bytes(9000)), "refused"),
        f("noise", lambda d: (d / "bad.nii").write_bytes(np.random.default_rng(0).bytes(9000)), "refused"),
        f("a picture (PNG)", lambda d: (d / "bad.nii").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), "refused"),
    ]


def _header() -> list[Kind]:
    f = kind("header")
    other_sform = np.diag([-1.0, 1, 1, 1]) @ AFFINE
    no_forms = {"sform_code": 0, "qform_code": 0}
    only_q = {"sform_code": 0}

    def dims(*sizes: int) -> tuple[int, ...]:
        return (len(sizes), *sizes, *(1,) * (7 - len(sizes)))

    def as_is(affine: np.ndarray, voxels: np.ndarray = VOXELS) -> Callable:
        return lambda: (voxels, affine)

    return [
        f("magic of zeros", edited("magic", b""), "refused"),
        f("magic of a header with its data elsewhere (ni1)", edited("magic", b"ni1"), "done"),
        f("magic of NIfTI-2", edited("magic", b"n+2"), "refused"),
        f("magic that is unknown", edited("magic", b"xyz"), "refused"),
        f("sizeof_hdr 0", edited("sizeof_hdr", 0), "done"),
        f("sizeof_hdr -1", edited("sizeof_hdr", -1), "done"),
        f("sizeof_hdr 540, of NIfTI-2", edited("sizeof_hdr", 540), "done"),
        f(
            "sizeof_hdr of the other byte order",
            edited("sizeof_hdr", struct.unpack(">i", struct.pack("<i", 348))[0]),
            "done",
        ),
        *[f(f"dim[0] (axes) {value}", edited("dim", value, 0), "refused") for value in (0, -3, 1, 2, 8, 99, 32767)],
        f("dim[0] (axes) 7, the others 1", edited("dim", 7, 0), "done"),
        *[
            f(f"dim[{at}] {value}", edited("dim", value, at), "refused")
            for at in (1, 3)
            for value in (0, -1, -32768, 1, 9, 32767)
        ],
        f("dim[4] 0 of a 3D scan", edited("dim", 0, 4), "done"),
        f("dim[4] 0 of a 4D scan", edited("dim", (4, 14, 12, 10, 0, 1, 1, 1)), "refused"),
        f("dim of 35 terabytes", edited("dim", dims(32767, 32767, 8192)), "refused"),
        f(
            "dim of 35 terabytes, compressed",
            edited("dim", dims(32767, 32767, 8192), file="bad.nii.gz"),
            "refused",
            "cut short",
        ),
        f("dim of seven axes of 32767", edited("dim", dims(*(32767,) * 7)), "refused"),
        f("dim of seven axes of 32767, compressed", edited("dim", dims(*(32767,) * 7), file="bad.nii.gz"), "refused"),
        f(
            "axes swapped in dim",
            edited("dim", dims(12, 14, 10)),
            "done",
            expected=lambda: (VOXELS.reshape(-1, order="F").reshape((12, 14, 10), order="F"), AFFINE),
        ),
        *[
            f(f"datatype {value}{what}", edited("datatype", value), "refused")
            for value, what in (
                (0, " (unknown)"),
                (1, " (bits)"),
                (-1, ""),
                (3, ""),
                (9999, ""),
                (128, " (RGB)"),
                (2304, " (RGBA)"),
                (32, " (complex)"),
                (1792, " (complex, double)"),
                (64, ", promising twice the data"),
                (4, ", promising half of it"),
            )
        ],
        *[f(f"bitpix {value}", edited("bitpix", value), "done") for value in (0, -1, 1, 32767)],
        *[
            f(f"vox_offset {value:g}", edited("vox_offset", value), outcome)
            for value, outcome in (
                (0, "refused"),
                (-1, "refused"),
                (100, "refused"),
                (353, "refused"),
                (360, "refused"),
                (1e30, "refused"),
                (NAN, "refused"),
                (INF, "refused"),
            )
        ],
        *[
            f(f"scl_slope {value:g}", edited("scl_slope", value), *rest[:1], **rest[1])
            for value, *rest in (
                (0.0, "done", {}),
                (NAN, "done", {}),
                (INF, "done", {}),
                (-INF, "done", {}),
                (-2.0, "done", {"expected": lambda: (-2 * VOXELS, AFFINE)}),
                (1e38, "refused", {"says": "finite"}),
                (1e-45, "refused", {"says": "span"}),
            )
        ],
        *[
            f(f"scl_inter {value:g} with slope 1", edited("scl_inter", value, scl_slope=1.0), *rest)
            for value, *rest in (
                (NAN, "refused"),
                (INF, "refused"),
                (1e30, "refused"),
            )
        ],
        f(
            "scl_inter -1000 with slope 2",
            edited("scl_inter", -1000.0, scl_slope=2.0),
            "done",
            expected=lambda: (2 * VOXELS - 1000, AFFINE),
        ),
        *[
            f(f"pixdim[1] {value:g} beside a sform", edited("pixdim", value, 1), outcome)
            for value, outcome in (
                (0.0, "done"),
                (-1.0, "done"),
                (NAN, "noted"),
                (INF, "noted"),
                (1e30, "noted"),
                (1e-30, "noted"),
            )
        ],
        *[
            f(f"pixdim[1] {value:g}, qform alone", edited("pixdim", value, 1, **only_q), "refused", "mm")
            for value in (0.0, -1.0, NAN, INF, 1e30, 1e-30)
        ],
        *[
            f(f"pixdim[1] {value:g}, neither form", edited("pixdim", value, 1, **no_forms), "refused", "mm")
            for value in (0.0, -1.0, NAN, INF, 1e30, 1e-30)
        ],
        *[
            f(f"pixdim[0] (qfac) {value:g}, qform alone", edited("pixdim", value, 0, **only_q), outcome)
            for value, outcome in ((0.0, "done"), (5.0, "refused"), (NAN, "refused"))
        ],
        f("pixdim[4] NaN", edited("pixdim", NAN, 4), "done"),
        *[f(f"sform_code {value}", edited("sform_code", value), "done") for value in (0, 4, 5)],
        *[f(f"sform_code {value}", edited("sform_code", value), "noted", "means nothing") for value in (-1, 99, 32767)],
        *[f(f"qform_code {value}", edited("qform_code", value), "done") for value in (0, 4, 5)],
        *[f(f"qform_code {value}", edited("qform_code", value), "noted", "means nothing") for value in (-1, 99, 32767)],
        f(
            "neither sform nor qform",
            edited("sform_code", 0, qform_code=0),
            "noted",
            "neither sform nor qform",
            expected=as_is(PLAIN),
        ),
        *[
            f(f"srow_x[0] {value:g}", edited("srow_x", value, 0), *rest)
            for value, *rest in ((NAN, "refused"), (INF, "refused"), (1e30, "refused", "mm"))
        ],
        f("srow_x[3] (origin) 1e30", edited("srow_x", 1e30, 3), "refused"),
        f("srow_x[3] (origin) NaN", edited("srow_x", NAN, 3), "refused"),
        f("srow_x of zeros", edited("srow_x", 0.0), "refused"),
        f("srow_x and srow_y alike", edited("srow_x", AFFINE[1], srow_y=AFFINE[1]), "refused", "inverted"),
        *[
            f(f"quatern_b {value:g}, {other}", edited("quatern_b", value, **more), *rest)
            for other, more, rests in (
                ("qform alone", only_q, [("refused",)] * 4),
                ("sform there", {}, [("noted", "sform was used")] * 4),
            )
            for value, rest in zip((NAN, INF, 2.0, 1e30), rests, strict=True)
        ],
        f("qoffset_x NaN, qform alone", edited("qoffset_x", NAN, **only_q), "refused"),
        f("qoffset_x 1e30, qform alone", edited("qoffset_x", 1e30, **only_q), "refused"),
        f("qoffset_x NaN, sform there", edited("qoffset_x", NAN), "noted", "sform was used"),
        f(
            "sform and qform that mirror each other",
            edited("srow_x", -AFFINE[0]),
            "noted",
            "sform was used",
            expected=as_is(other_sform),
        ),
        *[
            f(f"xyzt_units {value}{what}", edited("xyzt_units", value), *rest)
            for value, what, *rest in (
                (0, " (unknown)", "done"),
                (1, " (metre)", "refused", "metre"),
                (3, " (micron)", "refused", "micron"),
                (2 | 64, " (mm and an unknown time)", "done"),
                (7, " (undefined)", "noted", "taken for mm"),
                (255, "", "noted", "taken for mm"),
            )
        ],
        f("intent_code of a statistic", edited("intent_code", 3), "done"),
        f("intent_code of CIFTI", edited("intent_code", 3001), "refused", "CIFTI"),
        f("intent_code -1", edited("intent_code", -1), "done"),
        *[
            f(
                f"extension that claims {size} bytes",
                lambda d, size=size: save(d / "bad.nii", extension=struct.pack("<2i", size, 6) + bytes(24)),
                outcome,
            )
            for size, outcome in (
                (32, "done"),
                (0, "refused"),
                (-16, "refused"),
                (2**31 - 16, "refused"),
                (33, "refused"),
            )
        ],
        f(
            "text fields of noise",
            edited("descrip", b"\xff\xfe\x80" * 20, aux_file=b"\x01\x02", intent_name=b"\xff"),
            "done",
        ),
    ]


def _voxels() -> list[Kind]:
    f = kind("voxels")
    one_nan, one_inf = VOXELS.copy(), VOXELS.copy()
    one_nan[3, 4, 5], one_inf[3, 4, 5] = NAN, -INF
    types = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64"]

    def typed(name: str) -> np.ndarray:
        return (VOXELS // 8).astype(name) if name in ("uint8", "int8") else VOXELS.astype(name)

    def small(name: str) -> Callable:
        return lambda: (typed(name), AFFINE)

    return [
        *[f(name, holding(typed(name)), "done", expected=small(name)) for name in types],
        *[
            f(f"{name}, big-endian", lambda d, name=name: save(d / "bad.nii", VOXELS.astype(name), endian=">"), "done")
            for name in ("int16", "float32", "float64")
        ],
        f("complex64", holding(VOXELS.astype(np.complex64)), "refused", "voxels of type"),
        f("complex128", holding(VOXELS.astype(np.complex128)), "refused", "voxels of type"),
        f("RGB", holding(np.zeros(VOXELS.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "refused", "voxels of type"),
        f("float64 beyond float32", holding(VOXELS.astype(np.float64) * 1e300), "refused"),
        f("one NaN", holding(one_nan), "refused", "1 of 1680 voxels are not finite"),
        f("one minus infinity", holding(one_inf), "refused", "1 of 1680 voxels are not finite"),
        f("NaN everywhere", holding(np.full_like(VOXELS, NAN)), "refused", "none of its voxels is finite"),
        f("zeros everywhere", holding(np.zeros_like(VOXELS)), "refused", "every voxel is 0"),
        f("one value everywhere", holding(np.full_like(VOXELS, 7)), "refused", "every voxel is 7"),
        f("one voxel", holding(VOXELS[:1, :1, :1]), "refused", "every voxel"),
        f("one slice", holding(VOXELS[:, :, :1]), "done", expected=lambda: (VOXELS[:, :, :1], AFFINE)),
        f("one line", holding(VOXELS[:, :1, :1]), "done", expected=lambda: (VOXELS[:, :1, :1], AFFINE)),
        f("two axes", holding(VOXELS[:, :, 0]), "refused", "14 x 12"),
        f("a fourth axis of one", holding(VOXELS[..., None]), "done"),
        f("NIfTI-2", lambda d: nib.save(nib.Nifti2Image(VOXELS, AFFINE), d / "bad.nii.gz"), "done"),
    ]


def _grids() -> list[Kind]:
    f = kind("grids")

    def place(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        affine = AFFINE.copy()
        affine[:3, :3] = change(affine[:3, :3])
        return affine

    def sheared(matrix: np.ndarray) -> np.ndarray:
        return np.c_[matrix[:, 0], matrix[:, 1] + 0.4 * matrix[:, 0], matrix[:, 2]]

    shear, left = place(sheared), place(lambda m: m * (-1, 1, 1))
    return [
        f(
            "singular affine",
            holding(VOXELS, place(lambda m: np.c_[m[:, 0], m[:, 0], m[:, 2]]), "bad.nii"),
            "refused",
            "inverted",
        ),
        f("affine of zeros", holding(VOXELS, place(np.zeros_like), "bad.nii"), "refused"),
        f(
            "nearly singular affine",
            holding(VOXELS, place(lambda m: np.c_[m[:, 0], m[:, 0] + 1e-6, m[:, 2]]), "bad.nii"),
            "refused",
        ),
        f(
            "shearing affine",
            edited("srow_x", shear[0], srow_y=shear[1], srow_z=shear[2], qform_code=0),
            "noted",
            "right angles",
            expected=lambda: (VOXELS, shear),
        ),
        f("left-handed affine", holding(VOXELS, left), "done", expected=lambda: (VOXELS, left)),
        f("voxels of a metre", holding(VOXELS, place(lambda m: m * 1000)), "refused", "mm"),
        f("voxels of a micrometre", holding(VOXELS, place(lambda m: m / 10000)), "refused", "mm"),
        f(
            "origin a kilometre away",
            edited("srow_x", 1e6, 3, qform_code=0),
            "done",
            expected=lambda: (VOXELS, np.vstack([(*AFFINE[0, :3], 1e6), AFFINE[1:]])),
        ),
    ]


def _channels() -> list[Kind]:
    f = kind("channels")
    four = np.stack([VOXELS, 2 * VOXELS, 3 * VOXELS, 4 * VOXELS], -1)
    two = {"channels": 2}
    time = {"channels": 1, "fourth_dimension": "time"}

    def listed(*files: str | None, dump: bool = True) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / "dataset.json").write_text(json.dumps({"test": [{"image": list(files)}]}))

        return write

    def pair(affine: np.ndarray = AFFINE, array: np.ndarray = VOXELS, second: str | None = "b.nii") -> Make:
        def make(folder: Path) -> None:
            save(folder / "a.nii")
            save(folder / "b.nii", array, affine)
            listed("a.nii", second)(folder)

        return make

    def together(folder: Path) -> None:
        listed("a.nii")(folder)
        save(folder / "a.nii")

    moved, far = AFFINE.copy(), AFFINE.copy()
    moved[:3, 3] += (0.5, 0, 0)
    far[:3, 3] += (500, 0, 0)
    return [
        f("four volumes where one is expected", holding(four), "refused", "14 x 12 x 10 x 4"),
        f(
            "one volume where two are expected",
            holding(VOXELS),
            "refused",
            "expected 3 spatial axes and 2 volumes",
            options=two,
            beside=False,
        ),
        f(
            "two files for two channels",
            pair(),
            "done",
            expected=lambda: (np.stack([VOXELS, VOXELS]), AFFINE),
            options=two,
            beside=False,
        ),
        f("one file for two channels", together, "refused", "list of 1 files", options=two, beside=False),
        f("a channel is null", pair(second=None), "refused", "channel 1 is missing", options=two, beside=False),
        f(
            "a channel's file is gone",
            pair(second="gone.nii"),
            "refused",
            "gone.nii does not exist",
            options=two,
            beside=False,
        ),
        f("a channel on no common place", pair(far), "refused", "lies nowhere", options=two, beside=False),
        f(
            "a channel with two volumes",
            pair(array=four[..., :2]),
            "refused",
            "14 x 12 x 10 x 2",
            options=two,
            beside=False,
        ),
        f("a list where frames are expected", pair(), "refused", "frames", options=time, beside=False),
        f("four frames", holding(four), "done", expected=lambda: (np.moveaxis(four, -1, 0), AFFINE), options=time),
        f(
            "four frames with two values each",
            holding(np.stack([four, four], -1)),
            "refused",
            "14 x 12 x 10 x 4 x 2",
            options=time,
        ),
        f("no frame", edited("dim", (4, 14, 12, 10, 0, 1, 1, 1)), "refused", options=time),
    ]


KINDS = [*_files(), *_header(), *_voxels(), *_grids(), *_channels()]
