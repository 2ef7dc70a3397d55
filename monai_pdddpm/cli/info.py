"""``info``: show what a bundle does, from its JSON files. Without ``--size``, nothing of the bundle is executed."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.cli import Result
from monai_pdddpm.utils.errors import UserError

WARNING = "warning: --size runs the code that the bundle's author wrote; use bundles from people you trust"
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
    if options.size:
        print(WARNING, file=sys.stderr)
        cost = found["cost"] = bundle_cost(options.bundle, options.size)
        lines += [
            f"parameters: segmenter {cost['segmenter_parameters']:,}, denoiser {cost['denoiser_parameters']:,}",
            f"time steps: {', '.join(map(str, cost['time_steps']))}",
            f"scan of {options.size} voxels: {cost['windows']} windows, at most {cost['denoiser_calls']} denoiser "
            "calls; windows without active voxels need none",
        ]
    return Result(found, lines)


def bundle_info(folder: Path) -> dict[str, Any]:
    """Read ``configs/metadata.json`` and ``configs/inference.json`` of a bundle.

    Returns:
        texts and settings as they are written, references and expressions too; and which files are there.

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


def bundle_cost(folder: Path, size: Sequence[int]) -> dict[str, Any]:
    """Build a bundle's networks without memory for their weights, and count parameters, windows and denoiser calls.

    Args:
        folder: of the bundle.
        size: voxels of a scan at the bundle's spacing.

    Raises:
        UserError: if the size does not fit the bundle, or its networks cannot be built.
    """
    import torch
    from monai.bundle import ConfigParser

    from monai_pdddpm.inferers.windows import window_starts

    parser = ConfigParser()
    try:
        parser.read_config(folder / "configs" / "inference.json")
        roi_size, overlap, members, time_steps = map(
            parser.get_parsed_content, ("roi_size", "inferer::overlap", "members", "time_steps")
        )
        with torch.device("meta"):
            networks = {key: parser.get_parsed_content(f"network_def::{key}") for key in ("segmenter", "denoiser")}
        parameters = {f"{key}_parameters": sum(p.numel() for p in net.parameters()) for key, net in networks.items()}
    except Exception as error:  # MONAI and the bundle's code raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--size: found a bundle that cannot be built, {folder} ({reason}), expected one of monai_pdddpm; leave "
            "--size out"
        ) from error
    if len(size) != len(roi_size) or min(size) < 1:
        raise UserError(f"--size: found {list(size)}, expected {len(roi_size)} numbers of voxels above 0; fix them")
    windows = math.prod(len(window_starts(n, w, overlap)) for n, w in zip(size, roi_size, strict=True))
    return {
        **parameters,
        "time_steps": time_steps,
        "size": list(size),
        "windows": windows,
        "denoiser_calls": windows * len(time_steps) * members,
    }


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
