"""The texts of a new bundle: descriptions in its metadata, and its README."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm import __version__
from monai_pdddpm.bundle.render import fill
from monai_pdddpm.cli.datasets import DataSet
from monai_pdddpm.cli.planner import Choice, modality_of
from monai_pdddpm.cli.templates import templates

__all__ = ["commands", "metadata_texts", "readme"]


def metadata_texts(name: str, data: DataSet, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts of the metadata. Names from the data set never come first in a text, so MONAI runs none of them.

    Args:
        name: of the bundle.
        data: the data set.
        fingerprint: its statistics.
    """
    labels = [label["name"] for label in fingerprint["labels"].values()]
    channels = ", ".join(data.channels)
    modalities = {modality_of(channel) for channel in data.channels}
    about = [data.about.get("title", data.source.stem), data.about.get("reference"), data.about.get("license")]
    shape = " x ".join(f"{size:g}" for size in fingerprint["shape"]["median"])
    spacing = " x ".join(f"{size:.3g}" for size in fingerprint["spacing_mm"]["median"])
    return {
        "task": f"Segmentation of {', '.join(labels[1:])} in {channels}, with uncertainty maps",
        "description": f"PD-DDPM with an ODE-U-Net denoiser: {name}, made for {fingerprint['cases']} labeled scans",
        "data_source": "Data set: " + "; ".join(text for text in about if text),
        "image_classes": f"{len(data.channels)} channel(s) ({channels}), about {shape} voxels of {spacing} mm",
        "label_classes": ", ".join(f"{index} {label}" for index, label in enumerate(labels)),
        "data_references": [f"Data: {data.about['reference']}"] if data.about.get("reference") else [],
        "image_format": "hounsfield" if modalities == {"CT"} else "magnitude",
        "modality": modalities.pop() if len(modalities) == 1 else "n/a",
    }


def readme(
    texts: Mapping[str, Any],
    data: DataSet,
    fingerprint: Mapping[str, Any],
    choices: Sequence[Choice],
    segmenter: str,
    stages: Sequence[str],
) -> str:
    """Return the bundle's ``docs/README.md``.

    Args:
        texts: see :func:`metadata_texts`.
        data: the data set.
        fingerprint: its statistics.
        choices: of the plan.
        segmenter: description of the segmenter.
        stages: stages of the training.
    """
    values = [int(value) for value in fingerprint["labels"]]
    files = "one file per channel" if fingerprint["files_per_case"] > 1 else "one file"
    own_values = f" Label maps have the values {', '.join(map(str, values))}."
    places = {
        "segmenter": segmenter,
        "package_version": __version__,
        "cases": fingerprint["cases"],
        "choices_table": "\n".join(f"| {c.name} | {c.text} | {c.reason} |" for c in choices),
        "input": f"A scan with the channels {', '.join(data.channels)}, in {files}.",
        "label_values": own_values if values != list(range(len(values))) else "",
        "commands": "\n".join(commands(Path(), stages)),
        "reference": data.about.get("reference", ""),
        "license": data.about.get("license", "not stated by the data set"),
    }
    template = (templates() / "_new_task.md").read_text(encoding="utf-8")
    return fill(template, dict(texts) | places, "_new_task.md")


def commands(folder: Path, stages: Sequence[str]) -> list[str]:
    """Return the next commands for a bundle in a folder, given the stages of its training."""
    runs = [*(("training", stage) for stage in stages), ("calibrating", "calibrate"), ("evaluating", "evaluate")]
    return [
        f"python -m monai.bundle run {run} --config_file {shlex.quote(str(folder / 'configs' / f'{stage}.json'))}"
        for run, stage in (*runs, ("inference", "inference"))
    ]
