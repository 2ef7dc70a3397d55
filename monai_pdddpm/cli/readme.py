"""The texts of a new bundle: descriptions in its metadata, and its README."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm import __version__
from monai_pdddpm.bundle.render import fill
from monai_pdddpm.cli.datasets import DataSet
from monai_pdddpm.cli.first_stage import FirstStage
from monai_pdddpm.cli.preprocessing_rules import Choice, modality_of
from monai_pdddpm.cli.shipped import templates


def bundle_texts(name: str, data: DataSet, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts on a data set that metadata and README share.

    Names from the data set never come first in a text of the metadata, so MONAI does not run them as code.
    """
    labels = {int(value): label["name"] for value, label in fingerprint["labels"].items()}
    channels = ", ".join(data.channels)
    modalities = {modality_of(channel) for channel in data.channels}
    reference, license_ = data.about.get("reference", ""), data.about.get("license", "not stated by the data set")
    shape = " x ".join(f"{size:g}" for size in fingerprint["shape"]["median"])
    spacing = " x ".join(f"{size:.3g}" for size in fingerprint["spacing_mm"]["median"])
    own_values = f" Label maps have the values {', '.join(map(str, labels))}."
    return {
        "task": f"Segmentation of {', '.join(list(labels.values())[1:])} in {channels}, with uncertainty maps",
        "description": f"PD-DDPM with an ODE-U-Net denoiser: {name}, made for {fingerprint['cases']} labeled scans",
        "data_source": f"Data set: {data.about.get('title', data.source.stem)}",
        "image_classes": f"{len(data.channels)} channel(s) ({channels}), about {shape} voxels of {spacing} mm",
        "label_classes": ", ".join(f"{value} {label}" for value, label in labels.items()),
        "data_references": [f"Data: {reference}"] if reference else [],
        "image_format": "hounsfield" if modalities == {"CT"} else "magnitude",
        "modality": modalities.pop() if len(modalities) == 1 else "n/a",
        "package_version": __version__,
        "cases": fingerprint["cases"],
        "files": "one file per channel" if fingerprint["files_per_case"] > 1 else "one file",
        "label_values_text": own_values if list(labels) != list(range(len(labels))) else "",
        "reference": reference,
        "license": license_,
    }


def readme(
    texts: Mapping[str, Any],
    choices: Sequence[Choice],
    segmenter: str,
    next_commands: Sequence[str],
) -> str:
    """Return ``docs/README.md`` from `bundle_texts`, the plan, a description of the segmenter, and `commands`."""
    table = "\n".join(f"| {choice.name} | {choice.text} | {choice.reason} |" for choice in choices)
    more = {"segmenter": segmenter, "choices_table": table, "commands": "\n".join(next_commands)}
    template = (templates() / "_new_task.md").read_text(encoding="utf-8")
    return fill(template, dict(texts) | more, "_new_task.md")


def commands(folder: Path, stages: Sequence[str], first: FirstStage | None = None, by_folds: bool = False) -> list[str]:
    """Return the next commands for a bundle in a folder, with the stages that it trains."""
    lines = []
    for stage in (*stages, "calibrate", "evaluate", "inference"):
        run = {"calibrate": "calibrating", "evaluate": "evaluating", "inference": "inference"}.get(stage, "training")
        files = shlex.quote(str(folder / "configs" / f"{stage}.json"))
        if stage in ("calibrate", "evaluate"):  # overlays on inference.json
            both = [str(folder / "configs" / f"{name}.json") for name in ("inference", stage)]
            files = shlex.quote(json.dumps(both))
        line = f"python -m monai.bundle run {run} --config_file {files}"
        if stage == "calibrate" and by_folds:
            line = f"python -m monai_pdddpm train-folds {shlex.quote(str(folder))} --calibrate"
        if first and stage == "inference":
            lines += [first.command] if first.command else []
            line += " --dataset_dir <scans> --presegmentation_dir <presegmentations>"
        lines.append(line)
    return lines
