"""What a new bundle says of itself: its metadata's sentences and its page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm import __version__
from monai_pdddpm.bundle.render import fill
from monai_pdddpm.cli.datasets import DataSet
from monai_pdddpm.cli.planner import Choice, modality_of
from monai_pdddpm.cli.segmenter_bundle import Segmenter
from monai_pdddpm.cli.templates import templates

__all__ = ["commands", "describe", "describe_more", "page"]


def describe(name: str, data: DataSet, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sentences of the metadata; text of the data set stands behind text of ours, so it is never code."""
    labels = [label["name"] for label in seen["labels"].values()]
    channels = ", ".join(data.channels)
    kinds = {modality_of(channel) for channel in data.channels}
    about = [data.about.get("title", data.source.stem), data.about.get("reference"), data.about.get("licence")]
    by_class = ", ".join(f"{index} {label}" for index, label in enumerate(labels))
    shape = " x ".join(f"{size:g}" for size in seen["shape"]["median"])
    spacing = " x ".join(f"{size:.3g}" for size in seen["spacing_mm"]["median"])
    return {
        "task": f"Segmentation of {', '.join(labels[1:])} in {channels}, with maps of its uncertainty",
        "description": f"PD-DDPM with an ODE-U-Net denoiser; {name}, created from {seen['cases']} labelled scans",
        "data_source": "Data set: " + "; ".join(text for text in about if text),
        "image_classes": f"{len(data.channels)} channel(s) ({channels}), about {shape} voxels of {spacing} mm",
        "label_classes": by_class,
        "data_references": [f"Data: {data.about['reference']}"] if data.about.get("reference") else [],
        "image_format": "hounsfield" if kinds == {"CT"} else "magnitude",
        "modality": kinds.pop() if len(kinds) == 1 else "n/a",
        "shape_words": shape,
        "spacing_words": spacing,
    }


def describe_more(
    task: Mapping[str, Any],
    data: DataSet,
    seen: Mapping[str, Any],
    choices: Sequence[Choice],
    foreign: Segmenter | None,
    stages: Sequence[str],
) -> dict[str, Any]:
    """Return what the page of the bundle says besides."""
    files = "one file for each channel" if seen["files_per_case"] > 1 else "one file"
    values = [int(value) for value in seen["labels"]]
    mapped = values != list(range(len(values)))
    original = f" Label maps carry the data set's own values: {', '.join(map(str, values))}." if mapped else ""
    kind = str(task["segmenter"]["_target_"]).rpartition(".")[2]
    references = ["Guo et al., ISBI 2023, arXiv:2210.17408.", *data.about.get("reference", "").splitlines()]
    return {
        "segmenter_words": f"{kind}, with the weights of {foreign.name}," if foreign else f"A {kind}",
        "package_version": __version__,
        "cases": seen["cases"],
        "channel_words": ", ".join(data.channels),
        "choices_table": "\n".join(f"| {c.what} | {c.words} | {c.reason} |" for c in choices),
        "input_words": f"A scan with the channels {', '.join(data.channels)}, {files}, as in the data set.{original}",
        "commands": "\n".join(commands(Path(), stages)),
        "references_words": " ".join(references),
        "licence": data.about.get("licence", "not stated by the data set"),
    }


def page(words: Mapping[str, Any]) -> str:
    """Return the text of a bundle's ``docs/README.md``."""
    text = (templates() / "_new_task.md").read_text(encoding="utf-8")
    return fill(text, dict(words), "_new_task.md")


def commands(folder: Path, stages: Sequence[str]) -> list[str]:
    """Return the commands to go on with, for a bundle's folder and the stages of its training."""
    runs = [("training", stage) for stage in stages] + [("calibrating", "calibrate")]
    runs += [("evaluating", "evaluate"), ("inference", "inference")]
    return [
        f"python -m monai.bundle run {run} --config_file {shlex.quote(str(folder / 'configs' / f'{stage}.json'))}"
        for run, stage in runs
    ]
