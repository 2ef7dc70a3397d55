"""``create-bundle``: write a bundle for a data set that trains and segments without editing a file."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_pdddpm.bundle.render import as_text, fill, render_task
from monai_pdddpm.cli import Result
from monai_pdddpm.cli.datasets import DataSet, Finding, as_decathlon
from monai_pdddpm.cli.fingerprint import fingerprint, read_case
from monai_pdddpm.cli.first_stage import FirstStage, folder_stage, keep_usable, nnunet_stage
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.cli.measure import expected_time, inference_memory
from monai_pdddpm.cli.memory import GIB, memory_budget
from monai_pdddpm.cli.planner import plan
from monai_pdddpm.cli.readme import bundle_texts, commands, readme
from monai_pdddpm.cli.segmenter_bundle import SegmenterBundle, read_segmenter
from monai_pdddpm.cli.shipped import bundles, templates
from monai_pdddpm.data.datalist import check_names
from monai_pdddpm.metrics.recalibration import LEAST_CASES
from monai_pdddpm.metrics.segmentation import class_names
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.memory import total_memory

BLOCKING = ("missing-file", "no-label", "unreadable", "label")  # kinds of findings that would stop a training
_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)


def run(options: argparse.Namespace) -> Result:
    """Run ``create-bundle``."""
    data = read_dataset(options.dataset)
    given = {
        "--segmenter": options.segmenter,
        "--presegmentations": options.presegmentations,
        "--nnunet": options.nnunet,
    }
    if len(named := [option for option, value in given.items() if value is not None]) > 1:
        raise UserError(f"{named[1]}: found {named[0]} beside it, expected one of them; remove one")
    stage = folder_stage(options.presegmentations, data) if options.presegmentations else None
    if options.nnunet:
        stage = nnunet_stage(options.nnunet, data)
    place, settings = options.output_dir, (options.memory, options.segmenter, options.spacing, stage)
    return create_bundle(options.name, data, place, *settings, progress=not options.quiet)


def create_bundle(
    name: str,
    data: DataSet,
    output_dir: Path,
    memory: float | None = None,
    segmenter: Path | None = None,
    spacing: Sequence[float] | None = None,
    stage: FirstStage | None = None,
    progress: bool = True,
) -> Result:
    """Read the scans of a data set and write a bundle for it, in a new folder of its name.

    Args:
        name: of the bundle.
        data: the data set.
        output_dir: folder in which the bundle's folder is made.
        memory: GiB for training; None takes what this computer has.
        segmenter: folder of a bundle with a trained segmenter, or None.
        spacing: voxel size in mm along R, A, S; None applies the rule.
        stage: pre-segmentations in place of a segmenter, or None.
        progress: show a progress bar.

    Raises:
        UserError: if the name, a setting or the data set cannot be used, or the folder exists.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name: found {name!r}, expected a letter, then up to 99 letters, digits and _; choose another name"
        )
    if spacing is not None and not all(0.001 <= size <= 100 for size in spacing):
        raise UserError(f"--spacing: found {list(spacing)}, expected three sizes from 0.001 to 100 mm; fix them")
    if segmenter and spacing is not None:
        raise UserError(
            f"--spacing: found {list(spacing)} with --segmenter, expected one of them; remove --spacing, since the "
            "segmenter was trained at one spacing"
        )
    if memory is not None and not 0 < memory < math.inf:
        raise UserError(f"--memory: found {memory:g}, expected a number of GiB above 0; fix it")
    folder = output_dir.absolute() / name
    if folder.exists():
        raise UserError(f"{folder}: found a folder, expected none; remove it, or choose another name")
    check_output_dir(folder.parent)
    if stage:  # its files are named after cases
        check_names([{"image": case.case} for case in data.labeled])
    listed = as_decathlon(data)

    def checked(labels: Mapping[int, str]) -> SegmenterBundle | None:
        class_names(dict(enumerate([*labels.values(), *data.regions])))
        return read_segmenter(segmenter, len(data.channels), len(labels)) if segmenter else None

    foreign = checked(data.labels) if data.labels else None
    statistics, findings = _read_cases(data, progress)
    listed["labels"] = {value: label["name"] for value, label in statistics["labels"].items()}
    foreign = foreign if data.labels else checked(listed["labels"])
    more = keep_usable(listed, stage, progress) if stage else []
    budget, computer = memory_budget(memory), total_memory() or 8 * GIB
    values, choices = plan(statistics, len(listed["training"]), budget, computer, foreign, spacing)
    texts = bundle_texts(name, data, statistics)
    configs = _render(name, values | texts, data, foreign, stage)
    largest = max(statistics["each"], key=lambda case: case["frames"] * math.prod(case["shape"]))
    peak = inference_memory(configs["inference.json"], largest["shape"], largest["spacing_mm"], largest["frames"])
    choices += [expected_time(configs, values, len(listed["training"])), peak]
    stages = ["train"] if foreign or stage else ["train_segmenter", "train"]
    words = f"A {foreign.definition['_target_']} with the weights of {foreign.name}" if foreign else "A SegResNet"
    words = stage.words if stage else words
    more += foreign.notes if foreign else []
    held = [Path(str(entry["label"])).name for entry in listed["validation"]]
    notes = [f"validation cases: {', '.join(held[:5])}{f' and {len(held) - 5} more' if len(held) > 5 else ''}"]
    by_folds = len(held) <= LEAST_CASES < len(listed["training"]) and not (foreign or stage)
    if len(held) <= LEAST_CASES:
        remedy = "train-folds cross-fits it" if by_folds else "list more under validation, or do without"
        need = f"a calibration needs {LEAST_CASES + 1} cases that are not trained on"
        notes.append(f"{need}, and {len(held)} are held out: {remedy}")
    content: dict[str, Any] = {"bundle": str(folder), "choices": [asdict(choice) for choice in choices]}
    files = {f"configs/{file}": as_text(config) for file, config in configs.items()} | {
        "docs/README.md": readme(texts, choices, words, commands(Path(), stages, stage, by_folds)),
        "docs/data_license.txt": f"Data: {texts['license']}\n",
        "docs/fingerprint.json": as_text(statistics),
        "docs/choices.json": as_text(content["choices"]),
        "data/dataset.json": as_text(listed),
    }
    _write(folder, files, foreign)
    notes += [str(finding) for finding in findings] + more
    if not name.endswith("_segmentation"):
        notes.append("MONAI Label serves bundles for segmentation whose name ends in _segmentation")
    content |= {"notes": notes, "commands": commands(folder, stages, stage, by_folds)}
    lines = [*map(str, choices), *(f"note: {note}" for note in notes)]
    return Result(content, [*lines, f"written: {folder}", "next:", *content["commands"]])


def _read_cases(data: DataSet, progress: bool) -> tuple[dict[str, Any], list[Finding]]:
    """Return the fingerprint of the labeled cases and the findings, none of which stops a training."""
    findings, statistics = list(data.findings), []
    if not any(finding.kind in BLOCKING for finding in findings):
        for number, case in enumerate(tqdm(data.labeled, "reading scans", disable=not progress, unit="scan")):
            found, problems = read_case(case, data, number)
            findings += problems
            statistics += [found] if found is not None else []
    if blocking := [finding for finding in findings if finding.kind in BLOCKING]:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        command = f"python -m monai_pdddpm check {shlex.quote(str(data.source))}"
        raise UserError(f"{blocking[0]}{more}; fix or unlist these cases, which `{command}` lists")
    return fingerprint(data, statistics), findings


def _render(
    name: str, values: dict[str, Any], data: DataSet, foreign: SegmenterBundle | None, stage: FirstStage | None
) -> dict[str, Any]:
    """Return file name -> content of the configurations."""
    configs = templates()
    task = fill(json.loads((configs / "_new_task.json").read_text(encoding="utf-8")), values, "_new_task.json")
    index = values["label_values"].index
    if data.regions:
        task["regions"] = {"regions": {region: list(map(index, labels)) for region, labels in data.regions.items()}}
    if not values["epoch_windows"]:
        del task["sampling"]
    if data.ignored is not None:
        task["ignored"] = {"ignored": data.ignored}
    if foreign or stage:
        task["segmenter"] = foreign.definition if foreign else {"_target_": "monai_pdddpm.networks.NoSegmenter"}
        parts = ("train_segmenter", *(["export"] if stage else []))
        task["without"] = [f.name for f in configs.glob("*.json") if any(part in f.name for part in parts)]
    rendered, task["overrides"] = render_task(configs, task, name), {}
    for file, content in rendered.items():
        new: dict[str, Any] = {}
        if "trainer" in content.get("train", {}):
            new["train::dataset::cache_rate"] = new["validate::dataset::cache_rate"] = values["cache_rate"]
            if data.ignored is not None:
                if file == "train_segmenter.json":
                    new["loss::_target_"] = "monai_pdddpm.losses.PartialDiceCELoss"
                transforms = content["validate"]["postprocessing"]["transforms"]
                place = next(n for n, item in enumerate(transforms) if item["_target_"] == "AsDiscreted")
                keys = [key for key in transforms[place]["keys"] if key != "label"]
                left_out = {"_target_": "monai_pdddpm.transforms.LeaveOutUnlabeledd", "keys": keys}
                new[f"+validate::postprocessing::transforms::{place}"] = [left_out]
        if stage and "presegmentation_dir" in content:
            new["presegmentation_dir"] = str(stage.folder.absolute())
        if foreign:
            new |= _foreign_preprocessing(content, foreign)
        task["overrides"][file] = new
    return render_task(configs, task, name)


def _foreign_preprocessing(content: Mapping[str, Any], foreign: SegmenterBundle) -> dict[str, Any]:
    """Prepare scans as the segmenter's own bundle does."""
    new: dict[str, Any] = {}
    if "segmenter_files" in content:
        new["segmenter_files"] = ["$@bundle_root + '/models/segmenter.pt'"]
    part, name = ("train", "deterministic_transforms") if "train" in content else ("preprocessing", "transforms")
    key, transforms = f"{part}::{name}", content.get(part, {}).get(name, [])
    for index, transform in enumerate(transforms):
        kind = str(transform["_target_"]).rpartition(".")[2]
        if kind == "Orientationd" and foreign.orientation:
            new[f"{key}::{index}::axcodes"] = foreign.orientation
        elif kind == "Orientationd" or (kind == "Spacingd" and not foreign.spacing):
            new[f"{key}::{index}"] = {"_target_": "Identityd", "keys": transform["keys"]}
    return new


def _write(folder: Path, files: Mapping[str, str], foreign: SegmenterBundle | None) -> None:
    """Write the bundle beside its place, then rename it, so that no half-written bundle remains."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        for name, text in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        (partial / "models").mkdir()
        shutil.copyfile(templates() / "logging.conf", partial / "configs" / "logging.conf")
        shutil.copyfile(bundles() / "phantom_segmentation" / "LICENSE", partial / "LICENSE")
        if foreign:
            torch.save(foreign.network.state_dict(), partial / "models" / "segmenter.pt")
        partial.rename(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk by a RuntimeError
        raise UserError(f"{folder}: cannot be written ({error}); free space, or give another --output_dir") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
