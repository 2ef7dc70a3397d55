"""``info``: show what a bundle does, from its JSON files; nothing of the bundle is executed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_pdddpm.cli import Result
from monai_pdddpm.utils.errors import UserError

_TEXTS = ("name", "version", "task", "intended_use")
_FILES = {"trained weights": "model.pt", "calibration": "calibration.json"}
_KEYS = (
    *("labels", "label_values", "scan", "spacing", "roi_size", "chains", "num_steps", "start_step"),
    *("end_step", "members", "presegmentation_weight", "training_process", "seed"),
)


def run(options: argparse.Namespace) -> Result:
    """Run ``info``."""
    found = bundle_info(options.bundle)
    scan, labels, values = found["scan"], found["labels"], found["label_values"]
    if isinstance(labels, dict) and isinstance(values, list):
        labels = dict(zip(values, labels.values(), strict=False))
    lines = [
        f"{found['name']} {found['version']}: {found['task']}",
        f"labels: {_names(labels)}",
        f"channels: {_names(scan.get('channel_names')) if isinstance(scan, dict) else scan}",
        f"spacing: {found['spacing']} mm; window: {found['roi_size']} voxels",
        f"chain: {found['num_steps']} steps{_place(found)}; {found['members']} members",
        f"networks: segmenter {found['segmenter']}, denoiser {found['denoiser']}",
        "; ".join(f"{what}: {'yes' if found[file] else 'no'}" for what, file in _FILES.items()),
        f"intended use: {found['intended_use']}",
    ]
    return Result(found, lines)


def bundle_info(folder: Path) -> dict[str, Any]:
    """Return texts and settings of a bundle's ``configs`` as they are written, and which files are there.

    Raises:
        UserError: if a file is missing or not a JSON object.
    """
    contents: list[dict[str, Any]] = []
    for file in (folder / "configs" / "metadata.json", folder / "configs" / "inference.json"):
        try:
            contents.append(dict(json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{file}: found no JSON object ({error}), expected one; name the folder of a bundle"
            ) from error
    metadata, config = contents
    found = {key: metadata.get(key) for key in _TEXTS} | {key: config.get(key) for key in _KEYS}
    network = config.get("network_def")
    for key in ("segmenter", "denoiser"):
        part = network.get(key) if isinstance(network, dict) else None
        target = config.get(part[1:]) if isinstance(part, str) and part.startswith("@") else part
        found[key] = target.get("_target_") if isinstance(target, dict) else part
    return found | {name: (folder / "models" / name).is_file() for name in _FILES.values()}


def _place(found: Mapping[str, Any]) -> str:
    """Return where the steps of the chain are, as far as the configuration has it."""
    chains, start, end = found["chains"], found["start_step"], found["end_step"]
    if start is None and end is None:
        steps = chains.get(str(found["num_steps"])) if isinstance(chains, dict) else None
        return f" at time indices {', '.join(map(str, steps))}" if isinstance(steps, list) else ""
    places = {" from T' = ": start, " to index ": end}
    return "".join(f"{words}{value}" for words, value in places.items() if value is not None)


def _names(value: Any) -> str:
    return ", ".join(f"{key} {name}" for key, name in value.items()) if isinstance(value, dict) else str(value)
