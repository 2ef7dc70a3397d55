"""``info``: what a bundle does, from its JSON alone. Nothing is imported that computes, no expression is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm.cli.cost import denoiser_parameters, segmenter_parameters, window_count
from monai_pdddpm.utils.errors import UserError

__all__ = ["as_lines", "bundle_info"]

_TEXTS = ("name", "version", "task", "description", "intended_use", "image_classes", "data_source")
_SETTINGS = ("members", "num_steps", "start_step", "end_step", "num_train_timesteps", "seed", "presegmentation_weight")


def bundle_info(folder: Path, size: Sequence[int] | None = None) -> dict[str, Any]:
    """Read ``metadata.json`` and ``inference.json`` of a bundle.

    A value that would have to be computed stays as the text that stands there.

    Args:
        folder: of the bundle.
        size: voxels of a scan at the bundle's spacing, for the cost of it; by default the median scan that a created
            bundle keeps in ``docs/fingerprint.json``, else none.

    Returns:
        what it does, as JSON.

    Raises:
        UserError: when a file is missing or no JSON, or the size does not fit.
    """
    metadata, config = (_read(folder / "configs" / name) for name in ("metadata.json", "inference.json"))
    network = _part(config, config.get("network_def"))
    segmenter, denoiser = (_part(config, _mapping(network).get(key)) for key in ("segmenter", "denoiser"))
    settings = {key: _part(config, config[key]) for key in _SETTINGS if key in config}
    if not _is_number(settings.get("end_step")):
        settings["end_step"] = _end_step(config, settings.get("start_step"))
    window, overlap = _part(config, config.get("roi_size")), _part(config, config.get("overlap", 0))
    return {
        **{key: metadata.get(key) for key in _TEXTS},
        "labels": config.get("labels") or _channels(metadata, "outputs", "pred"),
        "channels": config.get("channel_def") or _channels(metadata, "inputs", "image"),
        "missing_channels": config.get("missing_channels"),
        "fourth_dimension": config.get("fourth_dimension"),
        "spacing_mm": _part(config, config.get("spacing")),
        "window": window,
        "overlap": overlap,
        **settings,
        "segmenter": _network(segmenter, segmenter_parameters),
        "denoiser": _network(denoiser, denoiser_parameters),
        "cost": _cost(settings, window, overlap, size or _median_scan(folder, config)),
        "files": {name: (folder / "models" / name).is_file() for name in ("model.pt", "calibration.json")},
    }


def as_lines(found: Mapping[str, Any]) -> list[str]:
    """Say it to a reader."""
    labels = ", ".join(f"{key} {name}" for key, name in _mapping(found["labels"]).items())
    channels = ", ".join(str(name) for name in _mapping(found["channels"]).values())
    cost = found["cost"]
    networks = [_network_line(found[key]) for key in ("segmenter", "denoiser")]
    lines = [
        f"{found['name']} {found['version']}: {found['task']}",
        f"labels: {labels}",
        f"channels: {channels}",
        f"spacing: {_by(found['spacing_mm'])} mm; window: {_by(found['window'])} voxels, overlap {found['overlap']}",
        f"chain: T' = {found.get('start_step')} of {found.get('num_train_timesteps')}, ends at "
        f"{found.get('end_step')}, {found.get('steps')} steps, {found.get('members')} members",
        f"segmenter: {networks[0]}; denoiser: {networks[1]}",
        f"cost of a window: 1 segmenter and {cost['denoiser_evaluations_per_window']} denoiser evaluations",
    ]
    if "size" in cost:
        lines.append(
            f"cost of a scan of {_by(cost['size'])} voxels: {cost['windows']} windows, up to "
            f"{cost['denoiser_evaluations']} denoiser evaluations; fewer where windows have nothing to decide"
        )
    there = [name for name, is_there in found["files"].items() if is_there]
    lines.append(
        f"weights: {'there' if 'model.pt' in there else 'none, train it first'}"
        f"; calibration: {'there' if 'calibration.json' in there else 'none'}"
    )
    lines.append(f"use: {found['intended_use']}")
    return lines


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); name the folder of a bundle") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: found a {type(content).__name__}, expected an object; name the folder of a bundle")
    return content


def _part(config: Mapping[str, Any], value: Any, depth: int = 0) -> Any:
    """Follow ``@`` references; all else stays as it is, expressions too."""
    if isinstance(value, str) and value.startswith("@") and depth < 20:
        target: Any = config
        for name in value[1:].replace("#", "::").split("::"):
            target = target.get(name) if isinstance(target, dict) else None
        return value if target is None else _part(config, target, depth + 1)
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _end_step(config: Mapping[str, Any], start: Any) -> Any:
    """Return the index at which the chain ends, of :func:`monai_pdddpm.schedulers.early_end` and its default share."""
    definition = config.get("end_step")
    share = _part(config, _mapping(definition).get("share"))
    return round(share * start) if _is_number(share) and _is_number(start) else definition


def _channels(metadata: Mapping[str, Any], side: str, name: str) -> Mapping[str, Any]:
    form = _mapping(metadata.get("network_data_format"))
    return _mapping(_mapping(_mapping(form.get(side)).get(name)).get("channel_def"))


def _network(definition: Any, count: Any) -> dict[str, Any]:
    definition = _mapping(definition)
    try:
        parameters = count(definition)
    except (KeyError, TypeError, ValueError, AttributeError):  # a size that is an expression
        parameters = None
    return {"class": definition.get("_target_"), "parameters": parameters}


def _network_line(network: Mapping[str, Any]) -> str:
    count = network["parameters"]
    return f"{str(network['class']).rpartition('.')[2]}{f', {count / 1e6:.2f} M weights' if count else ''}"


def _cost(settings: Mapping[str, Any], window: Any, overlap: Any, size: Sequence[int] | None) -> dict[str, Any]:
    steps, members = settings.get("num_steps"), settings.get("members")
    known = isinstance(steps, int) and isinstance(members, int)
    each = steps * members if known and settings.get("start_step") != 0 else 0 if known else None  # type: ignore[operator]
    cost: dict[str, Any] = {"denoiser_evaluations_per_window": each}
    plain = isinstance(window, list) and all(_is_number(side) for side in window) and _is_number(overlap)
    if size is not None and plain and each is not None:
        if len(size) != len(window) or min(size) < 1:
            raise UserError(f"--size: found {list(size)}, expected {len(window)} numbers of voxels from 1 up; fix it")
        windows = window_count(size, window, overlap)
        cost |= {"size": list(size), "windows": windows, "denoiser_evaluations": windows * each}
    return cost


def _median_scan(folder: Path, config: Mapping[str, Any]) -> list[int] | None:
    try:
        seen, spacing = _read(folder / "docs" / "fingerprint.json"), config.get("spacing")
        shape, sizes = seen["shape"]["median"], seen["spacing_mm"]["median"]
        if not isinstance(spacing, list):
            return [round(n) for n in shape]
        return [max(1, round(n * mm / new)) for n, mm, new in zip(shape, sizes, spacing, strict=True)]
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _by(values: Any) -> str:
    if not isinstance(values, list):
        return str(values)
    return " x ".join(f"{value:g}" if _is_number(value) else str(value) for value in values)
