"""Other formats, DICOM series, names, things that are no files, and lists of cases."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from kind import Kind, kind
from spoil import AFFINE, VOXELS, Make, by_itk, save, series


def _other_formats() -> list[Kind]:
    f = kind("NRRD and MetaImage")

    def sub(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
        return lambda content: content.replace(old, new, 1)

    def also(make: Make, then: Callable[[Path], Any]) -> Make:
        def both(folder: Path) -> None:
            make(folder)
            then(folder)

        return both

    def outside(file: str, data: str, name: str) -> Make:
        """The data file lies beside the folder of the scan, where a path with .. leads to."""

        def make(folder: Path) -> None:
            by_itk(f"sub/{file}", sub(data.encode(), name.format(folder=folder).encode()))(folder)
            (folder / "sub" / data).rename(folder / data)

        return make

    result = []
    for ext, sizes, huge, neg, zero, typ, rgb in (
        (
            "nrrd",
            b"sizes: 14 12 10",
            b"sizes: 140000 120000 100000",
            b"sizes: -14 12 10",
            b"sizes: 0 12 10",
            b"type: float",
            b"type: block",
        ),
        (
            "mha",
            b"DimSize = 14 12 10",
            b"DimSize = 140000 120000 100000",
            b"DimSize = -14 12 10",
            b"DimSize = 0 12 10",
            b"MET_FLOAT",
            b"MET_OTHER",
        ),
    ):
        bad = f"bad.{ext}"
        result += [
            f(f"{ext}: as it should be", by_itk(bad), "done"),
            f(f"{ext}: compressed", by_itk(bad, compress=True), "done"),
            f(f"{ext}: empty", lambda d, bad=bad: (d / bad).touch(), "refused", "empty"),
            f(f"{ext}: text", lambda d, bad=bad: (d / bad).write_text("no scan\n" * 99), "refused"),
            f(f"{ext}: cut in the header", by_itk(bad, lambda b: b[:120]), "refused"),
            f(f"{ext}: cut in the data", by_itk(bad, lambda b: b[:-999]), "refused"),
            f(f"{ext}: compressed, cut in the data", by_itk(bad, lambda b: b[:-999], compress=True), "refused"),
            f(
                f"{ext}: compressed, damaged",
                by_itk(bad, lambda b: b[:-999] + bytes(99) + b[-900:], compress=True),
                "refused",
            ),
            f(f"{ext}: promises 6 petabytes", by_itk(bad, sub(sizes, huge)), "refused", "cut short"),
            f(
                f"{ext}: compressed, promises 6 petabytes",
                by_itk(bad, sub(sizes, huge), compress=True),
                "refused",
                "cut short",
            ),
            f(f"{ext}: a size of zero", by_itk(bad, sub(sizes, zero)), "refused"),
            f(f"{ext}: a negative size", by_itk(bad, sub(sizes, neg)), "refused"),
            f(f"{ext}: sizes that are too large for a computer", by_itk(bad, sub(sizes, sizes + b"0" * 30)), "refused"),
            f(f"{ext}: sizes that are no numbers", by_itk(bad, sub(b"14 12 10", b"a b c")), "refused"),
            f(f"{ext}: fewer sizes than axes", by_itk(bad, sub(b"14 12 10", b"14 12")), "refused"),
            f(f"{ext}: unknown voxel type", by_itk(bad, sub(typ, rgb)), "refused"),
            f(f"{ext}: a size too small by one", by_itk(bad, sub(b"14 12 10", b"13 12 10")), "refused"),
            f(
                f"{ext}: zero axes",
                by_itk(bad, lambda b: b.replace(b"dimension: 3", b"dimension: 0").replace(b"NDims = 3", b"NDims = 0")),
                "refused",
            ),
            f(
                f"{ext}: 99 axes",
                by_itk(
                    bad, lambda b: b.replace(b"dimension: 3", b"dimension: 99").replace(b"NDims = 3", b"NDims = 99")
                ),
                "refused",
            ),
        ]
    directions = b"(-0.96835970878601074,-0.21238464117050171,-0.13104298710823059)"
    result += [
        f(
            "nhdr: two data files",
            by_itk("bad.nhdr", lambda b: b.replace(b"data file:", b"data file: /etc/passwd\ndata file:")),
            "refused",
            "twice",
        ),
        f(
            "mha: sizes twice",
            by_itk("bad.mha", sub(b"DimSize", b"DimSize = 1 1 1\nDimSize")),
            "refused",
            "twice",
        ),
        f("mha: a line of 100 000 letters", by_itk("bad.mha", sub(b"Image", b"I" * 100_000)), "refused", "letters"),
        f(
            "mha: a matrix of 99 numbers",
            by_itk("bad.mha", sub(b"TransformMatrix =", b"TransformMatrix =" + b" 1" * 90)),
            "refused",
            "transformmatrix",
        ),
        f("mha: 99 sizes", by_itk("bad.mha", sub(b"DimSize =", b"DimSize =" + b" 1" * 96)), "refused", "sizes"),
        f(
            "nrrd: a line of 100 000 letters",
            by_itk("bad.nrrd", sub(b"type: float", b"type: float" + b"x" * 100_000)),
            "refused",
            "letters",
        ),
        f("nrrd: 99 sizes", by_itk("bad.nrrd", sub(b"sizes:", b"sizes:" + b" 1" * 96)), "refused", "sizes"),
        f("nrrd: unknown encoding", by_itk("bad.nrrd", sub(b"encoding: raw", b"encoding: magic")), "refused"),
        f("nrrd: a direction of zeros", by_itk("bad.nrrd", sub(directions, b"(0,0,0)")), "refused"),
        f("nrrd: a direction of NaN", by_itk("bad.nrrd", sub(directions, b"(nan,nan,nan)")), "refused"),
        f(
            "nrrd: two directions alike",
            by_itk("bad.nrrd", sub(b"(0.3039737343788147,-1.4634919166564941,0.12566328048706055)", directions)),
            "refused",
        ),
        f(
            "nrrd: no directions",
            by_itk("bad.nrrd", lambda b: b.replace(b"space directions:", b"# was:")),
            "noted",
            "guess",
            expected=lambda: (VOXELS, nib.affines.from_matvec(np.diag([-1.0, -1, 1]), AFFINE[:3, 3])),
        ),
        f(
            "mha: spacing 0",
            by_itk("bad.mha", sub(b"ElementSpacing = 1.0000000129377491", b"ElementSpacing = 0")),
            "refused",
        ),
        f(
            "mha: spacing NaN",
            by_itk("bad.mha", sub(b"ElementSpacing = 1.0000000129377491", b"ElementSpacing = nan")),
            "refused",
        ),
        f(
            "mha: negative spacing",
            by_itk("bad.mha", sub(b"ElementSpacing = 1.0000000129377491", b"ElementSpacing = -1")),
            "refused",
        ),
        f(
            "mha: matrix of zeros",
            by_itk(
                "bad.mha",
                lambda b: (
                    b[: b.index(b"TransformMatrix")]
                    + b"TransformMatrix = 0 0 0 0 0 0 0 0 0\n"
                    + b[b.index(b"Offset") :]
                ),
            ),
            "refused",
        ),
    ]
    for file, data in (("bad.nhdr", "bad.raw"), ("bad.mhd", "bad.raw")):
        ext = file[4:]
        result += [
            f(f"{ext}: data in a file beside it", by_itk(file), "done"),
            f(
                f"{ext}: data file missing",
                also(by_itk(file), lambda d, n=data: (d / n).unlink()),
                "refused",
                "bad.raw",
            ),
            f(
                f"{ext}: data file cut",
                also(by_itk(file), lambda d, n=data: (d / n).write_bytes((d / n).read_bytes()[:999])),
                "refused",
                "cut short",
            ),
            f(
                f"{ext}: data file empty",
                also(by_itk(file), lambda d, n=data: (d / n).write_bytes(b"")),
                "refused",
                "cut short",
            ),
            f(
                f"{ext}: data file is a folder",
                also(by_itk(file), lambda d, n=data: ((d / n).unlink(), (d / n).mkdir())),
                "refused",
                "bad.raw",
            ),
            f(
                f"{ext}: data file is a pipe",
                also(by_itk(file), lambda d, n=data: ((d / n).unlink(), os.mkfifo(d / n))),
                "refused",
                "bad.raw",
            ),
            f(f"{ext}: data file is /dev/zero", by_itk(file, sub(data.encode(), b"/dev/zero")), "refused", "outside"),
            f(
                f"{ext}: data file by an absolute path",
                outside(file, data, "{folder}/" + data),
                "refused",
                "outside",
                dataset=f"sub/{file}",
                beside=False,
            ),
            f(
                f"{ext}: data file in the folder above",
                outside(file, data, "../" + data),
                "refused",
                "outside",
                dataset=f"sub/{file}",
                beside=False,
            ),
            f(f"{ext}: data in a list of files", by_itk(file, sub(data.encode(), b"LIST\nbad.raw")), "refused"),
            f(
                f"{ext}: data in numbered files",
                by_itk(file, sub(data.encode(), b"../bad%03d.raw 1 10 1")),
                "refused",
                "outside",
            ),
        ]
    return result


def _dicom() -> list[Kind]:
    f = kind("DICOM")

    def changed(change: Callable[[list[Path]], Any], **options: Any) -> Make:
        return lambda folder: change(series(folder / "bad", **options))

    def cut(files: list[Path], left: int) -> None:
        files[4].write_bytes(files[4].read_bytes()[:left])

    def sub(old: bytes, new: bytes) -> Callable[[list[Path]], None]:
        def change(files: list[Path]) -> None:
            content = files[4].read_bytes()
            assert content.count(old) == 1, content.count(old)
            files[4].write_bytes(content.replace(old, new))

        return change

    def tag(element: int, value: int) -> bytes:
        return struct.pack("<HHIH", 0x28, element, 2, value)

    rows, columns = tag(0x10, 12), tag(0x11, 14)
    alone = {"dataset": "bad", "beside": False}

    def all_slices(old: bytes, new: bytes) -> Callable[[list[Path]], None]:
        def change(files: list[Path]) -> None:
            for file in files:
                content = file.read_bytes()
                assert content.count(old) == 1
                file.write_bytes(content.replace(old, new))

        return change

    return [
        f("as it should be", changed(lambda files: None), "done", **alone),
        f(
            "slices under names in another order",
            changed(lambda files: [file.rename(file.with_name(f"{n * 7 % 10}")) for n, file in enumerate(files)]),
            "done",
            **alone,
        ),
        f("a slice missing", changed(lambda files: files[4].unlink()), "refused", "evenly spaced", **alone),
        f(
            "a slice doubled",
            changed(lambda files: (files[4].with_name("again")).write_bytes(files[4].read_bytes())),
            "refused",
            "lie at the same",
            **alone,
        ),
        f(
            "a slice of another series",
            lambda d: (
                series(d / "other", uid="1.2.3"),
                series(d / "bad"),
                (d / "other" / "IM0004").rename(d / "bad" / "foreign"),
            ),
            "stops",
            "2 DICOM series",
            **alone,
        ),
        f("a slice of another size", changed(sub(rows, tag(0x10, 6))), "refused", "", **alone),
        f(
            "a slice that claims 8 gigabytes",
            changed(lambda files: (sub(rows, tag(0x10, 65535))(files), sub(columns, tag(0x11, 65535))(files))),
            "refused",
            "",
            **alone,
        ),
        f(
            "all slices claim 8 gigabytes",
            changed(
                lambda files: (all_slices(rows, tag(0x10, 65535))(files), all_slices(columns, tag(0x11, 65535))(files))
            ),
            "refused",
            "",
            **alone,
        ),
        f("a slice with no rows", changed(sub(rows, tag(0x10, 0))), "stops", "IM0004", **alone),
        f("a slice cut in the header", changed(lambda files: cut(files, 300)), "stops", "IM0004", **alone),
        f("a slice cut in the data", changed(lambda files: cut(files, -99)), "stops", "IM0004", **alone),
        f("a slice cut to nothing", changed(lambda files: cut(files, 0)), "stops", "IM0004", **alone),
        f(
            "the last slice cut to nothing",
            changed(lambda files: files[-1].write_bytes(b"")),
            "stops",
            "IM0009",
            **alone,
        ),
        f(
            "the last slice a link to nowhere",
            changed(lambda files: (files[-1].unlink(), files[-1].symlink_to("gone"))),
            "stops",
            "IM0009",
            **alone,
        ),
        f(
            "the last slice without the letters DICM",
            changed(lambda files: files[-1].write_bytes(bytes(999)), names="IM{:04}.dcm"),
            "stops",
            "IM0009.dcm",
            **alone,
        ),
        f(
            "text among the slices",
            changed(lambda files: files[0].with_name("notes.txt").write_text("x")),
            "done",
            **alone,
        ),
        f("a pipe among the slices", changed(lambda files: os.mkfifo(files[0].with_name("pipe"))), "done", **alone),
        f("a folder among the slices", changed(lambda files: files[0].with_name("folder").mkdir()), "done", **alone),
        f(
            "text in a file named .dcm, alone",
            lambda d: ((d / "bad").mkdir(), (d / "bad" / "a.dcm").write_text("no slice")),
            "stops",
            "",
            **alone,
        ),
        f(
            "one bad series beside a good one",
            lambda d: [(file.unlink() if n == 4 else None) for n, file in enumerate(series(d / "bad"))],
            "refused",
            "evenly spaced",
            beside="series",
        ),
    ]


def _names() -> list[Kind]:
    f = kind("names")
    good = [
        ("spaces", "a scan  of mine .nii.gz"),
        ("a single quote", "it's.nii.gz"),
        ("double quotes", '"x".nii.gz'),
        ("non-ASCII letters", "Größe_Ü_脳.nii.gz"),
        ("an emoji", "🧠.nii.gz"),
        ("dots", "1.2.840.nii.gz"),
        ("two dots within", "a..b.nii.gz"),
        ("capitals in the suffix", "BAD.NII"),
        ("a leading minus", "-rf.nii.gz"),
        ("$ and @", "$x@y.nii.gz"),
        ("wildcards", "*[a]?.nii.gz"),
        ("a percent sign", "%s%d{0}.nii.gz"),
        ("backslashes", "x\\..\\y.nii.gz"),
        ("a semicolon and a pipe", "a;b|c.nii.gz"),
        ("200 characters", "n" * 200 + ".nii.gz"),
        ("a space that does not break", "at 10.30\u202fAM.nii.gz"),
        ("combining letters", "é.nii.gz"),
        ("letters from right to left", "سكن.nii.gz"),
    ]
    bad = [
        ("248 characters, too long for what is written", "n" * 241 + ".nii.gz", "248"),
        ("a line break", "a\nb.nii.gz", ""),
        ("a terminal's control code", "a\x1b[31mb.nii.gz", ""),
        ("a tab", "a\tb.nii.gz", ""),
        ("bytes that are no UTF-8", os.fsdecode(b"a\xff\xfe.nii.gz"), ""),
    ]
    return [
        *[f(name, lambda d, n=file: save(d / n), "done") for name, file in good],
        *[f(name, lambda d, n=file: save(d / n), "refused", "name") for name, file, _ in bad],
        f("nothing before the suffix", lambda d: save(d / ".nii.gz"), "passed over"),
        f("hidden file of macOS", lambda d: (d / "._bad.nii.gz").write_bytes(b"x"), "passed over"),
        f("no suffix", lambda d: save(d / "bad"), "passed over"),
        f("suffix of something else", lambda d: save(d / "bad.txt"), "passed over"),
        f("two files with one name", lambda d: save(d / "good.nii"), "stops", "both would be written as 'good'"),
    ]


def _things() -> list[Kind]:
    f = kind("no plain file")

    def link(target: str) -> Make:
        return lambda folder: (folder / "bad.nii.gz").symlink_to(target)

    def unreadable(folder: Path) -> None:
        save(folder / "bad.nii.gz").chmod(0)

    def loop(folder: Path) -> None:
        (folder / "bad.nii.gz").symlink_to("other.nii.gz.link")
        (folder / "other.nii.gz.link").symlink_to("bad.nii.gz")

    def socket(folder: Path) -> None:
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(folder)
            one.bind("bad.nii.gz")
            os.chdir(here)

    return [
        f("link to a scan in the folder", link("good.nii.gz"), "done"),
        f(
            "link to a scan elsewhere",
            lambda d: (save(d / "sub" / "x.nii.gz"), (d / "bad.nii.gz").symlink_to(d / "sub" / "x.nii.gz")),
            "done",
        ),
        f("link to nowhere", link("gone.nii.gz"), "refused", "does not exist"),
        f("link to itself", link("bad.nii.gz"), "refused"),
        f("links in a circle", loop, "refused"),
        f("link to a folder", link("."), "passed over"),
        f("link to /dev/zero", link("/dev/zero"), "refused"),
        f("link to /proc/self/mem", link("/proc/self/mem"), "refused"),
        f("folder named as a scan", lambda d: (d / "bad.nii.gz").mkdir(), "passed over"),
        f("pipe", lambda d: os.mkfifo(d / "bad.nii.gz"), "refused", "pipe"),
        f("pipe named .mha", lambda d: os.mkfifo(d / "bad.mha"), "refused", "pipe"),
        f("socket", socket, "refused"),
        f(
            "pipe as dataset_dir",
            lambda d: os.mkfifo(d / "bad.nii.gz"),
            "refused",
            "pipe",
            dataset="bad.nii.gz",
            beside=False,
        ),
        f("folder that is empty", lambda d: (d / "bad").mkdir(), "stops", "no scan found", dataset="bad", beside=False),
        f("folder that is not there", lambda d: None, "stops", "does not exist", dataset="bad", beside=False),
        f("dataset_dir of 5000 characters", lambda d: None, "stops", "", dataset="x" * 5000, beside=False),
        f("dataset_dir with a null byte", lambda d: None, "stops", "", dataset="x\0y", beside=False),
        f("file that may not be read", unreadable, "refused", "permission denied", as_nobody=True),
    ]


def _lists() -> list[Kind]:
    f = kind("dataset.json")

    def content(text: str | bytes | dict | list, *more: str) -> Make:
        def make(folder: Path) -> None:
            data = text if isinstance(text, bytes) else (text if isinstance(text, str) else json.dumps(text)).encode()
            (folder / "dataset.json").write_bytes(data)
            for name in more:
                save(folder / name)

        return make

    def test(*entries: Any, **more: Any) -> dict:
        return {"test": ["good.nii.gz", *entries], **more}

    def runs(name: str, what: Any, says: str = "", *more: str) -> Kind:
        return f(name, content(what, *more), "stops", says, beside=True)

    return [
        f("as it should be", content(test({"image": "bad.nii"}), "bad.nii"), "done"),
        f("a file that is not there", content(test("gone.nii")), "refused", "does not exist"),
        f("a name of 300 characters", content(test("n" * 300 + ".nii")), "refused"),
        f("a null byte in a name", content(test("a\0b.nii")), "stops", "test[1]"),
        f("a pipe", lambda d: (content(test("bad.nii"))(d), os.mkfifo(d / "bad.nii")), "refused", "pipe"),
        f("a folder without slices", lambda d: (content(test("bad"))(d), (d / "bad").mkdir()), "refused"),
        f(
            "a file of another kind",
            lambda d: (content(test("bad.txt"))(d), (d / "bad.txt").write_text("x")),
            "refused",
        ),
        f("a name with control codes", content(test("a\x1b[2Jb.nii"), "a\x1b[2Jb.nii"), "refused", "name"),
        f("a case of dots", content(test("....nii"), "....nii"), "done"),
        runs("empty", b"", "not valid JSON"),
        runs("cut", b'{"test": ["good', "not valid JSON"),
        runs("no UTF-8", b'{"test": ["\xff.nii"]}', "not valid JSON"),
        runs("null", "null", "NoneType"),
        runs("a list", ["good.nii.gz"], "found a list"),
        runs("brackets, 100 000 deep", "[" * 100_000, "dataset.json"),
        runs("a number of 10 000 digits", '{"test": ' + "9" * 10_000 + "}", "dataset.json"),
        runs("a key twice", '{"test": ["good.nii.gz"], "test": []}', "twice"),
        runs("no list of cases", {"cases": ["good.nii.gz"]}, "lists no case"),
        runs("a text in the place of the list", {"test": "good.nii.gz"}, "'test' is a str"),
        runs("a number in the place of the list", {"test": 3}, "'test' is a int"),
        runs("an object in the place of the list", {"test": {"image": "good.nii.gz"}}, "'test' is a dict"),
        runs("an entry that is a number", test(3), "test[1]"),
        runs("an entry that is null", test(None), "test[1]"),
        runs("an entry that is true", test(True), "test[1]"),
        runs("an entry with a wrong key", test({"img": "a.nii"}), "test[1]"),
        runs("an empty name", test(""), "test[1]"),
        runs("an empty list of channels", test([]), "test[1]"),
        runs("a list in a list", test([["a.nii"]]), "test[1]"),
        runs("a label that is a number", test({"image": "good.nii.gz", "label": 3}), "test[1]"),
        runs("an absolute path", test("/etc/passwd"), "leaves the folder"),
        runs("a path with ..", test("../secret.nii"), "leaves the folder"),
        runs("a path with .. within", test("sub/../../secret.nii"), "leaves the folder"),
        runs("a path with a drive", test("C:\\secret.nii"), "leaves the folder"),
        runs("a path with .. and backslashes", test("..\\secret.nii"), "leaves the folder"),
        f("the folder itself", content(test(".")), "refused", "without DICOM"),
        runs("a path with ~", test("~/secret.nii"), "leaves the folder"),
        runs("a case twice", test("good.nii.gz"), "both would be written as 'good'"),
        runs("two cases with one name", test("sub/good.nii.gz"), "both would be written as 'good'", "sub/good.nii.gz"),
        runs("root is a number", test(root=3), "root is 3"),
        runs("root is not there", test(root="gone"), "root is 'gone'"),
        runs("root with a null byte", test(root="a\0b"), "root is"),
        runs("root of 5000 characters", test(root="x" * 5000), "root is"),
    ]


KINDS = [*_other_formats(), *_dicom(), *_names(), *_things(), *_lists()]
