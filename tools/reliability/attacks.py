"""Give malicious checkpoints, data sets, bundles and requests to the package, and look for an effect.

Each attack would create a file if its code were executed, or write outside the folder that it was given.

    python tools/reliability/attacks.py                   # print a table
    python tools/reliability/attacks.py --write           # write the outcomes to tools/reliability/attacks.csv
    python tools/reliability/attacks.py --without-server  # skip the requests to the MONAI Label app

The exit code is 1 if code was executed, a file was written outside, or an attack was not refused with one line.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data.folder_layout import FolderLayout

from monai_pdddpm.__main__ import main as command_line
from monai_pdddpm.bundle import load_calibration, load_network, load_segmenter
from monai_pdddpm.data import LoadScan, inference_cases
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.datalist import labelled_cases
from monai_pdddpm.handlers.checkpoint import TrainingCheckpoint
from monai_pdddpm.utils.errors import UserError, user_message
from monai_pdddpm.visualize.report import write_report

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "apps" / "monailabel"))
from payloads import PAYLOADS, bare_pickle, object_array
from pdddpm_label.bundles import bundle_labels, find_bundles
from pdddpm_label.fine_tuning import validation_dice

PHANTOM = ROOT / "bundles" / "phantom_segmentation"
TABLE = Path(__file__).with_name("attacks.csv")
NAMES = [  # of scans; the outputs must lie in the folder of the case
    *("..nii", "....nii", ".nii", "..nii.gz", "a..nii", ".. .nii", "x\\..\\..\\y.nii.gz", "~root.nii", "-rf.nii"),
    *("%2e%2e%2fa.nii", "$HOME.nii", "`id`.nii", "*.nii", "a;b|c.nii", "con.nii", "a:b.nii", "\u2025.nii"),
    *("\uff0e\uff0e.nii", "n" * 200 + ".nii", "n" * 250 + ".nii", "a\n.nii", "a\0.nii", "\udcff.nii"),
    *("sub/../../a.nii", "/etc/passwd.nii"),
]
Attack = Callable[[Path, Path], object]  # (folder, mark)


@dataclass(frozen=True)
class Outcome:
    """Outcome of an attack.

    Attributes:
        attack: the malicious input.
        place: the function, command or request that receives it.
        executed: its code was executed.
        outside: it wrote outside its folder.
        refused: it was refused.
        expected: "refused", or "harmless" if there is nothing to refuse.
        message: the error message.
    """

    attack: str
    place: str
    executed: bool
    outside: bool
    refused: bool
    expected: str
    message: str

    @property
    def held(self) -> bool:
        """Whether the attack had no effect and, where it must be refused, there is one line with a remedy."""
        refused = self.refused and "; " in self.message and "\n" not in self.message
        return not self.executed and not self.outside and (refused or self.expected == "harmless")


def try_attack(attack: str, place: str, run: Attack, expected: str = "refused") -> Outcome:
    """Run an attack in an empty folder."""
    with tempfile.TemporaryDirectory() as scratch:
        outer = Path(scratch).resolve()
        folder, mark = outer / "inner" / "folder", outer / "executed"
        folder.mkdir(parents=True)
        streams, message = StringIO(), ""
        try:
            with redirect_stdout(streams), redirect_stderr(streams):
                run(folder, mark)
        except Exception as error:
            message = user_message(error) or f"{type(error).__name__}: {error}"
        outside = {path.name for path in outer.iterdir()} - {"inner", "executed"}
        outside |= {path.name for path in folder.parent.iterdir()} - {"folder"}
        shown = message.replace(f"{folder}/", "").replace(str(folder), "<folder>").replace(str(outer), "<outside>")
        return Outcome(attack, place, mark.exists(), bool(outside), bool(message), expected, shown)


def ask(*words: str) -> None:
    """Run the command line; raise its error line."""
    with redirect_stderr(StringIO()) as stderr:
        code = command_line(words)
    if code:
        raise UserError(stderr.getvalue().removeprefix("error: ").removesuffix("\n"))


def _linear() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


def _resume(file: Path) -> None:
    training, validation = (Engine(lambda *_: None) for _ in range(2))
    TrainingCheckpoint(file, {"network": _linear()}, validation).load(training)


def _pair() -> torch.nn.Module:
    pair = torch.nn.Module()
    pair.segmenter = _linear()
    return pair


def _inference(file: Path) -> None:
    parser = ConfigParser()
    parser.read_config(PHANTOM / "configs" / "inference.json")
    parser.read_meta(PHANTOM / "configs" / "metadata.json")
    parser.update({"bundle_root": str(PHANTOM), "device": "cpu", "model_file": str(file)})
    parser.get_parsed_content("network")


def _label_training(file: Path) -> None:
    case = {key: str(file.parent / f"{key}.nii.gz") for key in ("image", "label")}
    for part in case.values():
        nib.save(nib.Nifti1Image(np.arange(512, dtype=np.uint8).reshape(8, 8, 8) % 3, np.eye(4)), part)
    validation_dice(PHANTOM, file, [case], "cpu")


CHECKPOINT_PLACES = {
    "load_network": lambda file: load_network(_linear(), file),
    "inference.json --model_file": _inference,
    "segmenter file of train.json": lambda file: load_segmenter(_pair(), [str(file)]),
    "resumed training": _resume,
    "training of the MONAI Label app": _label_training,
}


def _loaded(name: str, make: Callable[[Path, Path], None], load: Callable[[Path], object]) -> Attack:
    def run(folder: Path, mark: Path) -> None:
        make(folder / name, mark)
        load(folder / name)

    return run


def _listed(image: str, section: str = "test") -> Attack:
    def run(folder: Path, mark: Path) -> None:
        data = folder / "data"
        data.mkdir()
        nib.save(nib.Nifti1Image(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4)), folder / "secret.nii.gz")
        entry = {"image": image, "label": image} if section == "training" else image
        (data / "dataset.json").write_text(json.dumps({section: [entry]}))
        inference_cases(data) if section == "test" else labelled_cases(data, section)

    return run


def _names(folder: Path, mark: Path) -> None:
    output = folder / "output"
    for name in NAMES:
        file = str(folder / "data" / name)
        try:
            Case.of(file).check_name()
        except UserError:
            continue
        layout = FolderLayout(str(output), postfix="mutual-information", extension=".nii.gz", parent=True)
        written = Path(layout.filename(file)).resolve()
        if written.parent.parent != output or len(written.name.encode()) > 255:
            (folder.parent / "outside").touch()


def _markup(folder: Path, mark: Path) -> None:
    case = "<script>alert(1)<"
    target = folder / "output" / case
    target.mkdir(parents=True)
    report = {"case": case, "labels": {}, "result": {}, "notes": ["<script>alert(2)</script>"], "files": {}}
    (target / f"{case}_report.json").write_text(json.dumps(report))
    if "<script>alert" in write_report(folder / "output").read_text(encoding="utf-8"):
        mark.touch()


def _line_break(folder: Path, mark: Path) -> None:
    file = folder / "a\nerror: \x1b[2J.nii"
    shutil.copy(__file__, file)
    Case.of(str(file)).check_name()
    LoadScan()(str(file))


def _bundle(folder: Path, mark: Path, **config: object) -> Path:
    """Write a bundle whose configuration would open ``mark``."""
    for part in ("configs", "models"):
        (folder / part).mkdir()
    expression, call = f"$open({str(mark)!r}, 'w')", {"_target_": "builtins.open", "file": str(mark), "mode": "w"}
    content = dict.fromkeys(("members", "imports", "roi_size", "run", "initialize"), expression)
    content |= dict.fromkeys(("num_steps", "spacing", "labels", "network_def"), call) | config
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "it", "network_data_format": {}}))
    for name in ("model.pt", "calibration.json"):
        bare_pickle(folder / "models" / name, mark)
    return folder


def _info(*options: str, **config: object) -> Attack:
    return lambda folder, mark: ask("info", *options, str(_bundle(folder, mark, **config)))


def _served(folder: Path, mark: Path) -> None:
    bundle_labels(find_bundles(str(_bundle(folder, mark)), folder)[folder.name])


def _read(file: Path) -> None:
    LoadScan()(str(file))


def _network(file: Path) -> None:
    load_network(_linear(), file)


def _check(file: Path) -> None:
    ask("check", str(file))


ATTACKS = [
    *[
        (payload, place, _loaded("model.pt", make, load))
        for place, load in CHECKPOINT_PLACES.items()
        for payload, make in PAYLOADS.items()
    ],
    (
        "pickle named ensemble.ts",
        "load_network",
        _loaded("ensemble.ts", bare_pickle, _network),
    ),
    ("pickle", "calibration.json", _loaded("calibration.json", bare_pickle, load_calibration)),
    ("numpy file of objects", "--dataset_dir", _loaded("scan.npy", object_array, inference_cases)),
    (
        "numpy file of objects named scan.nii",
        "LoadScan",
        _loaded("scan.nii", object_array, _read),
    ),
    (
        "numpy file of objects named scan.nrrd",
        "LoadScan",
        _loaded("scan.nrrd", object_array, _read),
    ),
    ("pickle named scan.nii.gz", "LoadScan", _loaded("scan.nii.gz", bare_pickle, _read)),
    ("pickle named dataset.json", "check", _loaded("dataset.json", bare_pickle, _check)),
    ("dataset.json lists ../secret.nii.gz", "--dataset_dir", _listed("../secret.nii.gz")),
    ("dataset.json lists /etc/passwd", "--dataset_dir", _listed("/etc/passwd")),
    ("dataset.json lists ../secret.nii.gz as a label", "training", _listed("../secret.nii.gz", "training")),
    (f"{len(NAMES)} names such as .., $HOME, a\\0", "output folder", _names, "harmless"),
    ("script in a case name and a note", "index.html", _markup, "harmless"),
    ("line break and control code in a name", "log", _line_break),
    ("$ and _target_ in every value", "info", _info(), "harmless"),
    ("$ and _target_ in every value", "info --json", _info("--json"), "harmless"),
    ("circular references", "info", _info(members="@num_steps", num_steps="@members"), "harmless"),
    ("metadata without labels", "--conf bundles of the MONAI Label app", _served),
]


def outcomes() -> list[Outcome]:
    """Try all attacks except those on a server."""
    return [try_attack(*attack) for attack in ATTACKS]


def main() -> int:
    """Try all attacks; return 1 if one had an effect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write the outcomes to {TABLE.name}")
    parser.add_argument("--without-server", action="store_true", help="skip the requests to the MONAI Label app")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = outcomes()
    if not arguments.without_server:
        from attacks_on_server import server_outcomes

        found += server_outcomes()
    executed, outside, refused = (sum(getattr(one, key) for one in found) for key in ("executed", "outside", "refused"))
    print(f"{len(found)} attacks: {executed} executed, {outside} wrote outside, {refused} refused with a message")
    for one in found:
        if not one.held:
            print(f"EFFECT: {one}")
    if arguments.write:
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([[field.name for field in fields(Outcome)], *map(astuple, found)])
    return not all(one.held for one in found)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    sys.exit(main())
