"""Data sets that would have something executed, or written elsewhere."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
from attacks_payload import Payload, bare_pickle
from monai.data.folder_layout import FolderLayout
from monai_pdddpm.errors import UserError
from test_inside import NAMES

from monai_pdddpm.__main__ import main
from monai_pdddpm.data import LoadScan, inference_cases
from monai_pdddpm.data.datalist import check_case_name, labelled_cases
from monai_pdddpm.visualize.report import write_report


def _scan(file: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4)), file)


def _array(file: Path, mark: Path) -> None:
    """Write numpy's own file of objects, which numpy unpickles where it is allowed to."""
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, np.array([Payload(mark)], dtype=object), allow_pickle=True)


def _as_scan(name, make):
    def run(folder: Path, mark: Path) -> None:
        make(folder / name, mark)
        inference_cases(folder / name)  # by name first,
        LoadScan()(str(folder / name))  # then by what is in it

    return run


def _read_anyway(name, make):
    def run(folder: Path, mark: Path) -> None:
        make(folder / name, mark)
        LoadScan()(str(folder / name))

    return run


def _listed(image, section="test"):
    def run(folder: Path, mark: Path) -> None:
        data = folder / "data"
        data.mkdir()
        _scan(folder / "secret.nii.gz")
        (data / "link.nii.gz").symlink_to(folder / "secret.nii.gz")
        entry = {"image": image, "label": image} if section == "training" else image
        (data / "dataset.json").write_text(json.dumps({section: [entry]}))
        inference_cases(data) if section == "test" else labelled_cases(data, section)

    return run


def _of_pickle(verb):
    def run(folder: Path, mark: Path) -> str:
        bare_pickle(folder / "dataset.json", mark)
        words = {"check": ["check"], "create-bundle": ["create-bundle", "liver_ct_segmentation", "--dataset"]}[verb]
        ask(*words, str(folder / "dataset.json"))

    return run


def ask(*words: str) -> None:
    """Ask on the command line; what it tells in one line on stderr is raised."""
    told = StringIO()
    with redirect_stderr(told):
        code = main(words)
    if code:
        raise UserError(told.getvalue().removeprefix("error: ").removesuffix("\n"))


def _names(folder: Path, mark: Path) -> str:
    """Give a case each name that was ever used to write elsewhere, and look where its files would lie."""
    output = folder / "output"
    left_out = 0
    for name in NAMES:
        file = str(folder / "data" / name)
        try:
            check_case_name(file)
        except UserError:
            left_out += 1
            continue
        layout = FolderLayout(str(output), postfix="seg", extension=".nii.gz", parent=True, makedirs=True)
        written = Path(layout.filename(file)).resolve()
        if written.parent.parent != output:
            (folder.parent / "outside").touch()
        written.touch()
    return f"{len(NAMES)} names: {len(NAMES) - left_out} inside, {left_out} left out"


def _markup(folder: Path, mark: Path) -> str:
    """Let a case's name carry a script into the page over all cases."""
    case = "<script>alert(1)<"
    target = folder / "output" / case
    target.mkdir(parents=True)
    report = {"case": case, "labels": {}, "result": {}, "notes": ["<script>alert(2)</script>"], "files": {}}
    (target / f"{case}_report.json").write_text(json.dumps(report))
    page = write_report(folder / "output").read_text(encoding="utf-8")
    if "<script>alert" in page:
        mark.touch()
    return "written as text into the page"


def _line_break(folder: Path, mark: Path) -> None:
    """Let a file's name write a line of its own into the log."""
    file = folder / "a\nerror: \x1b[2J.nii"
    shutil.copy(__file__, file)
    check_case_name(str(file))
    LoadScan()(str(file))


DATA = [
    ("data set", "numpy file of pickles", "`--dataset_dir scan.npy`", _as_scan("scan.npy", _array), "refused"),
    ("data set", "numpy file of pickles named scan.nii", "reading a scan", _read_anyway("scan.nii", _array), "refused"),
    (
        "data set",
        "numpy file of pickles named scan.nrrd",
        "reading a scan",
        _read_anyway("scan.nrrd", _array),
        "refused",
    ),
    ("data set", "pickle named scan.nii.gz", "reading a scan", _read_anyway("scan.nii.gz", bare_pickle), "refused"),
    ("data set", "pickle named scan.npy", "reading a scan", _read_anyway("scan.npy", bare_pickle), "refused"),
    ("data set", "pickle named dataset.json", "`check`", _of_pickle("check"), "refused"),
    ("data set", "pickle named dataset.json", "`create-bundle`", _of_pickle("create-bundle"), "refused"),
    ("data set", "`dataset.json` lists ../secret", "`--dataset_dir`", _listed("../secret.nii.gz"), "refused"),
    ("data set", "`dataset.json` lists /etc/passwd", "`--dataset_dir`", _listed("/etc/passwd"), "refused"),
    ("data set", "the same among the labels", "training", _listed("../secret.nii.gz", "training"), "refused"),
    ("data set", "names such as `..`, `$HOME`, `a\\0`, 250 letters", "a case's folder", _names, "harmless"),
    ("data set", "a name with a script", "`report`, `index.html`", _markup, "harmless"),
    ("data set", "a name with a line break and a control code", "a run's log", _line_break, "refused"),
]
