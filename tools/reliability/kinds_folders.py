"""Unusual names, things that are not files, and lists of cases."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from good_scan import Make, save
from kinds import Kind, kinds_of


def _names() -> list[Kind]:
    k = kinds_of("names")
    valid = [
        *("a scan  of mine .nii.gz", "it's.nii.gz", '"x".nii.gz', "Größe_Ü_脳.nii.gz", "🧠.nii.gz", "1.2.840.nii.gz"),
        *("a..b.nii.gz", "BAD.NII", "-rf.nii.gz", "$x@y.nii.gz", "*[a]?.nii.gz", "%s%d{0}.nii.gz", "x\\..\\y.nii.gz"),
        *("a;b|c.nii.gz", "n" * 200 + ".nii.gz", "at 10.30\u202fAM.nii.gz", "é.nii.gz", "سكن.nii.gz"),
    ]
    invalid = [
        "n" * 241 + ".nii.gz",
        "a\nb.nii.gz",
        "a\x1b[31mb.nii.gz",
        "a\tb.nii.gz",
        os.fsdecode(b"a\xff\xfe.nii.gz"),
    ]

    def written(name: str) -> Make:
        return lambda folder: save(folder / name)

    def shown(name: str) -> str:
        return ascii(name) if len(name) < 40 else f"{len(name)} characters"

    return [
        *[k(shown(name), written(name), "done") for name in valid],
        *[k(shown(name), written(name)) for name in invalid],
        k("only a suffix", written(".nii.gz"), "ignored"),
        k("hidden file of macOS", lambda folder: (folder / "._bad.nii.gz").write_bytes(b"x"), "ignored"),
        k("no suffix", written("bad"), "ignored"),
        k("another suffix", written("bad.txt"), "ignored"),
        k("two files of one name", written("good.nii"), "stops"),
    ]


def _things() -> list[Kind]:
    k = kinds_of("links, folders, pipes")

    def link(target: str) -> Make:
        return lambda folder: (folder / "bad.nii.gz").symlink_to(target)

    def link_elsewhere(folder: Path) -> None:
        (folder / "bad.nii.gz").symlink_to(save(folder / "sub" / "x.nii.gz"))

    def circle(folder: Path) -> None:
        link("other.link")(folder)
        (folder / "other.link").symlink_to("bad.nii.gz")

    def bound(folder: Path) -> None:
        here = os.getcwd()
        with socket.socket(socket.AF_UNIX) as one:
            os.chdir(folder)  # the path of a socket is short
            one.bind("bad.nii.gz")
            os.chdir(here)

    def pipe(name: str) -> Make:
        return lambda folder: os.mkfifo(folder / name)

    def nothing(folder: Path) -> None:
        pass

    return [
        k("link to a scan in the folder", link("good.nii.gz"), "done"),
        k("link to a scan elsewhere", link_elsewhere, "done"),
        k("broken link", link("gone.nii.gz")),
        k("link to itself", link("bad.nii.gz")),
        k("circular links", circle),
        k("link to a folder", link("."), "ignored"),
        k("link to /dev/zero", link("/dev/zero")),
        k("link to /proc/self/mem", link("/proc/self/mem")),
        k("folder named as a scan", lambda folder: (folder / "bad.nii.gz").mkdir(), "ignored"),
        k("pipe", pipe("bad.nii.gz")),
        k("pipe named .mha", pipe("bad.mha")),
        k("socket", bound),
        k("pipe as dataset_dir", pipe("bad.nii.gz"), dataset="bad.nii.gz", beside=False),
        k("empty folder as dataset_dir", lambda d: (d / "bad").mkdir(), "stops", dataset="bad", beside=False),
        k("missing dataset_dir", nothing, "stops", dataset="bad", beside=False),
        k("dataset_dir of 5000 characters", nothing, "stops", dataset="x" * 5000, beside=False),
        k("dataset_dir with a null byte", nothing, "stops", dataset="x\0y", beside=False),
        k("unreadable file", lambda folder: save(folder / "bad.nii.gz").chmod(0), as_nobody=True),
    ]


def _lists() -> list[Kind]:
    k = kinds_of("dataset.json")

    def content(text: Any, *more: str) -> Make:
        def make(folder: Path) -> None:
            data = text if isinstance(text, bytes) else json.dumps(text).encode()
            (folder / "dataset.json").write_bytes(data)
            for name in more:
                save(folder / name)

        return make

    def cases(*entries: Any, **more: Any) -> dict:
        return {"test": ["good.nii.gz", *entries], **more}

    def also(make: Make, then: Make) -> Make:
        return lambda folder: (make(folder), then(folder))

    stops = {
        "empty": b"",
        "cut": b'{"test": ["good',
        "not UTF-8": b'{"test": ["\xff.nii"]}',
        "null": None,
        "a list": ["good.nii.gz"],
        "100,000 brackets": b"[" * 100_000,
        "a number of 10,000 digits": b'{"test": ' + b"9" * 10_000 + b"}",
        "a key twice": b'{"test": ["good.nii.gz"], "test": []}',
        "no list of cases": {"cases": ["good.nii.gz"]},
        "text instead of the list": {"test": "good.nii.gz"},
        "a number instead of the list": {"test": 3},
        "an object instead of the list": {"test": {"image": "good.nii.gz"}},
        **{f"entry {entry!r}": cases(entry) for entry in (3, None, True, {"img": "a.nii"}, "", [], [["a.nii"]])},
        "label is a number": cases({"image": "good.nii.gz", "label": 3}),
        **{
            f"path {path}": cases(path)
            for path in (
                *("/etc/passwd", "../secret.nii", "sub/../../secret.nii", "C:\\secret.nii", "..\\secret.nii"),
                *("~/secret.nii", "a\0b.nii", "good.nii.gz"),
            )
        },
        **{f"root {str(root)[:9]!a}": cases(root=root) for root in (3, "gone", "a\0b", "x" * 5000)},
    }
    same_name = content(cases("sub/good.nii.gz"), "sub/good.nii.gz")
    return [
        k("valid", content(cases({"image": "bad.nii"}), "bad.nii"), "done"),
        k("name of dots", content(cases("....nii"), "....nii"), "done"),
        k("missing file", content(cases("gone.nii"))),
        k("name of 300 characters", content(cases("n" * 300 + ".nii"))),
        k("name with control codes", content(cases("a\x1b[2Jb.nii"), "a\x1b[2Jb.nii")),
        k("the folder itself", content(cases("."))),
        k("pipe", also(content(cases("bad.nii")), lambda folder: os.mkfifo(folder / "bad.nii"))),
        k("folder without slices", also(content(cases("bad")), lambda folder: (folder / "bad").mkdir())),
        k("text file", also(content(cases("bad.txt")), lambda folder: (folder / "bad.txt").write_text("x"))),
        k("two cases of one name", same_name, "stops"),
        *[k(name, content(text), "stops") for name, text in stops.items()],
    ]


KINDS = [*_names(), *_things(), *_lists()]
