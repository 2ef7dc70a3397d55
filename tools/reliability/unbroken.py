"""Check the files of an interrupted run: each is complete, and in the end all equal those of an unbroken run."""

from __future__ import annotations

import csv
import gzip
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

OF_A_RUN = ("seconds", "peak_memory_mib", "device", "started", "begun")  # keys that differ between equal runs
EVENTS = "events.out.tfevents"  # logs that grow; TensorBoard reads them up to the first incomplete record


def is_part(path: Path) -> bool:
    """Return whether a file has a temporary name."""
    return path.name.startswith(".")


def files_in(folder: Path) -> dict[str, Path]:
    """Return all files below a folder by their relative path."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def is_whole(path: Path) -> bool:
    """Return whether a file can be read to its end."""
    try:
        if path.name.startswith(EVENTS):
            return True
        if path.name.endswith(".nii.gz"):
            gzip.decompress(path.read_bytes())  # checks length and checksum
            np.asanyarray(nib.load(path).dataobj)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".mrml":
            ET.parse(path)
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        else:
            return path.stat().st_size > 0
    except Exception:  # each library raises its own kinds
        return False
    return True


def same(first: object, second: object) -> bool:
    """Compare nested content bit by bit, without the keys of `OF_A_RUN`."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [{key for key in one if key not in OF_A_RUN} for one in (first, second)]
        return keys[0] == keys[1] and all(same(first[key], second[key]) for key in keys[0])
    if isinstance(first, Sequence) and isinstance(second, Sequence) and not isinstance(first, str):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def same_file(path: Path, expected: Path) -> bool:
    """Compare a file with that of an unbroken run."""
    if path.suffix == ".pt":
        return same(*(torch.load(file, weights_only=True) for file in (path, expected)))
    if path.suffix == ".json":
        contents = [json.loads(file.read_text(encoding="utf-8")) for file in (path, expected)]
        for content in contents:  # a scene contains the relative path of its scan
            if "files" in content:
                content["files"] = {name: sha for name, sha in content["files"].items() if not name.endswith(".mrml")}
        return same(*contents)
    if path.suffix == ".csv":
        return same(*(list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) for file in (path, expected)))
    return path.read_bytes() == expected.read_bytes()


def differing(folder: Path, expected: Path) -> list[str]:
    """Return the files and TensorBoard tags that are missing, superfluous or different from an unbroken run."""
    found, wanted = (
        {name: path for name, path in files_in(each).items() if not path.name.startswith(EVENTS)}
        for each in (folder, expected)
    )
    names = [name for name in found.keys() & wanted.keys() if not name.endswith("index.html")]  # it has the times
    wrong = sorted(found.keys() ^ wanted.keys())
    wrong += sorted(name for name in names if not same_file(found[name], wanted[name]))
    for run in {path.parent.relative_to(expected) for path in expected.rglob(f"{EVENTS}*")}:
        curves, others = read_curves(folder / run), read_curves(expected / run)
        wrong += sorted(f"{run}/{tag}" for tag in curves.keys() | others.keys() if curves.get(tag) != others.get(tag))
    return wrong


def read_curves(run: Path) -> dict[str, dict[int, float]]:
    """Return the values of a TensorBoard log by tag and step; a resumed run may have several files."""
    events: dict[str, list] = {}
    for file in run.glob(f"{EVENTS}*"):
        log = EventAccumulator(str(file), size_guidance={SCALARS: 0}, purge_orphaned_data=False).Reload()
        for tag in log.Tags()[SCALARS]:
            events.setdefault(tag, []).extend(log.Scalars(tag))
    return {tag: {e.step: e.value for e in sorted(found, key=lambda e: e.wall_time)} for tag, found in events.items()}
