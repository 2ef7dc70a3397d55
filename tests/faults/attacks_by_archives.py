"""Archives with entries that lead out of the folder into which they are unpacked.

Nothing of this project unpacks an archive; MONAI's ``monai.bundle download`` does, by the function tried here.
"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

from attacks_by_data import ask
from monai.apps.utils import extractall
from monai_pdddpm.cli.foreign import read_segmenter

from monai_pdddpm.data import inference_cases
from monai_pdddpm.labelserver import find_bundles


def _zip(file: Path, name: str, text: str = "x", mode: int = 0o644) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, text)
    return file


def _tar(file: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(file, "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        entry.size = 1 if kind == tarfile.REGTYPE else 0
        archive.addfile(entry, io.BytesIO(b"x") if entry.size else None)
    return file


def _unpacked(make):
    def run(folder: Path, mark: Path) -> str:
        extractall(make(folder, mark), folder / "bundles", has_base=True)
        links = [path for path in (folder / "bundles").rglob("*") if path.is_symlink()]
        if links or mark.exists():
            (folder.parent / "outside").touch()
        return "unpacked inside, as a plain file"

    return run


def _given(ask):
    def run(folder: Path, mark: Path) -> None:
        ask(_zip(folder / "bundle.zip", "../../executed"))

    return run


def _link(folder: Path, mark: Path) -> Path:
    return _zip(folder / "a.zip", "it/models", str(folder.parent), stat.S_IFLNK | 0o777)


MONAI = "`monai.bundle download`"
ARCHIVES = [
    (
        "archive",
        "a zip in the place of a bundle",
        "`info`",
        _given(lambda f: ask("info", str(f))),
        "refused",
    ),
    (
        "archive",
        "a zip in the place of a bundle",
        "`create-bundle --segmenter`",
        _given(lambda f: read_segmenter(f, 1, 2)),
        "refused",
    ),
    (
        "archive",
        "a zip in the place of a bundle",
        "MONAI Label app",
        _given(lambda f: find_bundles(str(f), f)),
        "refused",
    ),
    ("archive", "a zip in the place of scans", "`--dataset_dir`", _given(inference_cases), "refused"),
    ("archive", "zip with ../", MONAI, _unpacked(lambda f, m: _zip(f / "a.zip", "../../../executed")), "refused"),
    (
        "archive",
        "zip with a/../../",
        MONAI,
        _unpacked(lambda f, m: _zip(f / "a.zip", "it/../../../../executed")),
        "refused",
    ),
    ("archive", "zip with an absolute name", MONAI, _unpacked(lambda f, m: _zip(f / "a.zip", str(m))), "refused"),
    ("archive", "zip with a link", MONAI, _unpacked(_link), "harmless"),
    ("archive", "tar with ../", MONAI, _unpacked(lambda f, m: _tar(f / "a.tar", "../../../executed")), "refused"),
    ("archive", "tar with an absolute name", MONAI, _unpacked(lambda f, m: _tar(f / "a.tar", str(m))), "refused"),
    (
        "archive",
        "tar with a link",
        MONAI,
        _unpacked(lambda f, m: _tar(f / "a.tar", "it", tarfile.SYMTYPE, str(m))),
        "refused",
    ),
    (
        "archive",
        "tar with a hard link",
        MONAI,
        _unpacked(lambda f, m: _tar(f / "a.tar", "it", tarfile.LNKTYPE, "/etc/passwd")),
        "refused",
    ),
]
