"""What must hold of a killed run's files: each is whole, and in the end all are those of an unbroken run."""

import gzip
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

TIMES = ("seconds", "peak_memory_mib")  # of a report: these may differ
EVENTS = "events.out.tfevents"  # a log that grows, read up to where it breaks off


def is_part(path):
    """Tell whether a file bears a temporary name."""
    return path.name.startswith(".")


def files_in(folder):
    """Return all files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def is_whole(path):
    """Tell whether a file reads from its first byte to its last."""
    try:
        if path.name.startswith(EVENTS):
            return True
        if path.name.endswith(".nii.gz"):
            gzip.decompress(path.read_bytes())  # with its length and checksum
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
    except Exception:  # each library has its own kinds
        return False
    return True


def same(first, second):
    """Compare nested content bit by bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def same_file(path, expected):
    """Compare a file with that of an unbroken run: bytes, but for the times in a report and tensors as such."""
    if path.suffix == ".pt":
        return same(*(torch.load(file, weights_only=True) for file in (path, expected)))
    if path.name == "run.json":
        runs = [json.loads(file.read_text(encoding="utf-8"))["runs"] for file in (path, expected)]
        return same(*([{**run, "begun": ""} for run in each] for each in runs))
    if path.name.endswith("_report.json"):
        contents = [json.loads(file.read_text(encoding="utf-8")) for file in (path, expected)]
        for content in contents:  # a scene, which is compared by itself, names its scan by the way to it
            content["files"] = {name: sha for name, sha in content["files"].items() if not name.endswith(".mrml")}
        return same(*({key: value for key, value in c.items() if key not in TIMES} for c in contents))
    return path.read_bytes() == expected.read_bytes()


def differing(folder, expected):
    """Return what is not as an unbroken run left it: files missing, too many or of other content, and curves."""
    found, wanted = (
        {name: path for name, path in files_in(each).items() if not path.name.startswith(EVENTS)}
        for each in (folder, expected)
    )
    # the page tells how long each case took
    names = [name for name in found.keys() & wanted.keys() if not name.endswith("index.html")]
    wrong = sorted(found.keys() ^ wanted.keys())
    wrong += sorted(name for name in names if not same_file(found[name], wanted[name]))
    return wrong + differing_curves(folder, expected)


def read_series(run):
    """Return steps and values by tag of a run that may have been resumed: for each step the value written last."""
    events = {}
    for file in Path(run).glob(f"{EVENTS}*"):
        log = EventAccumulator(str(file), size_guidance={SCALARS: 0}, purge_orphaned_data=False).Reload()
        for tag in log.Tags()[SCALARS]:
            events.setdefault(tag, []).extend(log.Scalars(tag))
    last = {tag: {e.step: e.value for e in sorted(found, key=lambda e: e.wall_time)} for tag, found in events.items()}
    return {tag: tuple(zip(*sorted(found.items()), strict=True)) for tag, found in last.items()}


def differing_curves(folder, expected):
    """Return the tags of TensorBoard's curves that lack a step, or have another value at one."""
    runs = {path.parent.relative_to(expected) for path in Path(expected).rglob(f"{EVENTS}*")}
    wrong = []
    for run in runs:
        found, wanted = read_series(folder / run), read_series(expected / run)
        if found.keys() != wanted.keys():
            wrong.append(f"curves of {run}")
        wrong += [tag for tag in found.keys() & wanted.keys() if not _same_curve(found[tag], wanted[tag])]
    return wrong


def _same_curve(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
