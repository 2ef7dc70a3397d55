"""``create-bundle``: from a data set to a bundle that trains, segments and evaluates without a file being edited."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_pdddpm.bundle.render import as_text, fill, render_task
from monai_pdddpm.cli.datasets import DataSet, Finding, as_decathlon, read_dataset
from monai_pdddpm.cli.fingerprint import Reader, fingerprint, look
from monai_pdddpm.cli.memory import memory_at_hand
from monai_pdddpm.cli.plan import plan
from monai_pdddpm.cli.planner import Choice
from monai_pdddpm.cli.readme import commands, describe, describe_more, page
from monai_pdddpm.cli.segmenter_bundle import Segmenter, read_segmenter
from monai_pdddpm.cli.templates import licence_file, templates
from monai_pdddpm.data.datalist import labelled_cases
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError

__all__ = ["Created", "create_bundle"]

# what a training would stumble over; the rest is told and passed over
BLOCKING = ("missing-file", "no-label", "unreadable", "grid", "label-value", "label-fraction")
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


@dataclass(frozen=True)
class Created:
    """The bundle's folder, what was chosen, what else is to be known, and the commands to go on with."""

    folder: Path
    choices: list[Choice]
    notes: list[str]
    commands: list[str]


def create_bundle(
    name: str,
    dataset: Path,
    output_dir: Path = Path("bundles"),
    memory: float | None = None,
    segmenter: Path | None = None,
    spacing: Sequence[float] | None = None,
    modalities: Sequence[str] = ("T1w",),
    derivative: str | None = None,
    progress: bool = True,
) -> Created:
    """Look at a data set and write a bundle for it.

    Args:
        name: of the bundle and of its folder.
        dataset: see :func:`monai_pdddpm.cli.datasets.read_dataset`.
        output_dir: the bundle's folder is made in it.
        memory: GiB to train in; None takes what this computer has.
        segmenter: folder of a bundle whose network becomes the segmenter.
        spacing: mm along RAS; None lets the rules choose.
        modalities: see ``read_dataset``.
        derivative: likewise.
        progress: show a bar.

    Raises:
        UserError: when the name, a setting or the data set cannot be used, or the folder is there already.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"name: found {name!r}, expected a letter, then letters, digits and _; choose such a name")
    if spacing is not None and not (len(spacing) == 3 and all(0.001 <= size <= 100 for size in spacing)):
        raise UserError(f"--spacing: found {list(spacing)}, expected three sizes from 0.001 to 100 mm; fix them")
    if memory is not None and not 0 < memory < math.inf:
        raise UserError(f"--memory: found {memory:g}, expected a number of GiB above 0; fix it")
    folder = output_dir.expanduser().absolute() / name
    if folder.exists():
        raise UserError(f"{folder}: is there already and is not overwritten; remove it, or choose another name")
    check_output_dir(folder.parent)

    data = read_dataset(dataset, modalities, derivative)
    in_place = data.form == "decathlon" and data.source.name == "dataset.json"
    with contextlib.redirect_stdout(io.StringIO()) as said:  # what it says of held-out cases is a note of ours
        cases = labelled_cases(data.source.parent, "training") if in_place and not _stopping(data.findings) else None
    seen, findings = _seen(data, progress)
    notes = [line for line in said.getvalue().splitlines() if line]
    notes += [str(finding) for finding in findings if finding.kind not in BLOCKING]
    labels = {int(value): str(label["name"]) for value, label in seen["labels"].items()}
    foreign = read_segmenter(segmenter, len(data.channels), len(labels)) if segmenter else None
    listed = None if in_place else as_decathlon(replace(data, labels=labels))
    trained_on = len(cases) if cases is not None else len(listed["training"]) if listed else 0

    values, choices = plan(seen, trained_on, memory_at_hand(memory), foreign, spacing)
    notes += foreign.notes if foreign else []
    if "segmentation" not in name:
        notes.append("MONAI Label knows a segmentation by its name: it wants 'segmentation' in it")
    values["dataset_dir"] = "$@bundle_root + '/data'" if listed else str(data.source.parent.resolve())
    task = fill(_template("_new_task.json"), values | describe(name, data, seen), "_new_task.json")
    if foreign:
        task["segmenter"] = foreign.network
    rendered = _rendered(name, task, values, list(labels), foreign)
    stages = ["train"] if foreign else ["train_segmenter", "train"]
    part = folder.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _write(part, rendered, seen, choices, listed, foreign)
        readme = values | describe(name, data, seen) | describe_more(task, data, seen, choices, foreign, stages)
        (part / "docs" / "README.md").write_text(page(readme), encoding="utf-8")
        licence = f"Data: {data.about.get('licence', 'not stated by the data set')}\n"
        (part / "docs" / "data_license.txt").write_text(licence, encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Created(folder, choices, notes, commands(folder, stages))


def _stopping(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.kind in BLOCKING]


def _seen(data: DataSet, progress: bool) -> tuple[dict[str, Any], list[Finding]]:
    """Look at all labelled cases; stop when some cannot be trained on."""
    findings, facts = list(data.findings), []
    if not _stopping(findings):
        reader = Reader(data)
        for number, case in enumerate(tqdm(data.labelled, "looking at the scans", disable=not progress, unit="scan")):
            fact, found = look(case, data, reader, number)
            findings += found
            facts += [fact] if fact is not None else []
    if stopping := _stopping(findings):
        more = f" and {len(stopping) - 1} more" if len(stopping) > 1 else ""
        raise UserError(
            f"{stopping[0]}{more}; python -m monai_pdddpm check {shlex.quote(str(data.source))} lists all; fix or "
            "unlist them"
        )
    return fingerprint(data, facts), findings


def _template(name: str) -> Any:
    return json.loads((templates() / name).read_text(encoding="utf-8"))


def _rendered(
    name: str, task: dict[str, Any], values: Mapping[str, Any], labels: list[int], foreign: Segmenter | None
) -> dict[str, Any]:
    """Render the task, with what its data ask for beyond the places of the templates."""
    configs = templates()
    if foreign:
        known = [file.name for file in configs.glob("*.json")]
        task["without"] = [file for file in known if "train_segmenter" in file or "cross_fitting" in file]
    plain = render_task(configs, task, name)
    overrides: dict[str, dict[str, Any]] = {file: {} for file in plain}
    own_values = labels != list(range(len(labels)))
    to_classes = {"_target_": "monai_pdddpm.transforms.LabelValuesd", "keys": "label", "values": "@label_values"}
    for file, content in plain.items():
        new = overrides[file]
        if values["missing"] and "missing_channels" in content:
            new["missing_channels"] = values["missing"]
        if "train" in content and "trainer" in content["train"]:
            if own_values:
                new |= {"label_values": labels, "+train::deterministic_transforms": [to_classes]}
            new["train::dataset::cache_rate"] = new["validate::dataset::cache_rate"] = values["cache_rate"]
            if values["drawn"]:
                new |= {"train::dataloader::shuffle": None, "train::dataloader::drop_last": None}
                new["train::dataloader::sampler"] = _sampler(values["drawn"])
        elif own_values and any("label" in transform["keys"] for transform in _transforms(content)):
            new |= {"label_values": labels, "+preprocessing::transforms": [to_classes]}
        if own_values:
            new |= _own_values(content, labels)
        if foreign:
            new |= _foreign_overrides(content, foreign)
    task["overrides"] = {file: new for file, new in overrides.items() if new}
    return render_task(configs, task, name)


def _own_values(content: Mapping[str, Any], labels: list[int]) -> dict[str, Any]:
    """Return what makes files carry the data set's own label values."""
    new: dict[str, Any] = {}
    if isinstance(content.get("writer"), dict):
        new |= {"writer::_target_": "monai_pdddpm.data.LabelValueWriter", "writer::values": labels}
    for index, handler in enumerate(content.get("handlers", [])):
        if str(handler.get("_target_")).endswith(".ViewerFiles"):
            new[f"handlers::{index}::values"] = labels
    return new


def _sampler(windows: int) -> dict[str, Any]:
    return {
        "_target_": "torch.utils.data.RandomSampler",
        "_desc_": f"an epoch of {windows} windows, since there are few cases but many places in them",
        "data_source": "@train::dataset",
        "replacement": True,
        "num_samples": windows,
    }


def _transforms(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    part = content.get("preprocessing", {})
    return [each for each in part.get("transforms", []) if isinstance(each, dict)] if isinstance(part, dict) else []


def _foreign_overrides(content: Mapping[str, Any], foreign: Segmenter) -> dict[str, Any]:
    """Return what brings scans to a foreign network as its own bundle did."""
    new: dict[str, Any] = {}
    if "segmenter_files" in content:
        new["segmenter_files"] = ["$@bundle_root + '/models/segmenter.pt'"]
    training = content.get("train", {}).get("deterministic_transforms") if "train" in content else None
    place = "train::deterministic_transforms" if training else "preprocessing::transforms"
    for index, transform in enumerate(training or _transforms(content)):
        kind = str(transform["_target_"]).rpartition(".")[2]
        if kind == "Orientationd" and foreign.orientation:
            new[f"{place}::{index}::axcodes"] = foreign.orientation
        elif (kind == "Orientationd" and not foreign.orientation) or (kind == "Spacingd" and not foreign.spacing):
            new[f"{place}::{index}"] = {"_target_": "Identityd", "keys": transform["keys"]}
    return new


def _write(
    folder: Path,
    rendered: Mapping[str, Any],
    seen: Mapping[str, Any],
    choices: Sequence[Choice],
    listed: Mapping[str, Any] | None,
    foreign: Segmenter | None,
) -> None:
    configs = templates()
    for name in ("configs", "docs", "models"):
        (folder / name).mkdir(parents=True)
    for file, content in rendered.items():
        (folder / "configs" / file).write_text(as_text(content), encoding="utf-8")
    shutil.copyfile(configs / "logging.conf", folder / "configs" / "logging.conf")
    shutil.copyfile(licence_file(configs), folder / "LICENSE")
    told = [{"what": c.what, "value": c.value, "words": c.words, "reason": c.reason} for c in choices]
    for file, value in (("fingerprint.json", seen), ("choices.json", told)):
        (folder / "docs" / file).write_text(as_text(value), encoding="utf-8")
    if listed is not None:
        (folder / "data").mkdir()
        (folder / "data" / "dataset.json").write_text(as_text(listed), encoding="utf-8")
    if foreign:
        torch.save({"model": foreign.weights}, folder / "models" / "segmenter.pt")
