"""The settings given to a command, checked before it runs: keys, ranges, and paths, which are taken literally."""

from __future__ import annotations

import difflib
import inspect
import os
import pydoc
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigItem, ConfigParser, ConfigWorkflow

from monai_pdddpm.bundle.setting_ranges import LISTS, RANGES, check_setting
from monai_pdddpm.utils.atomic_write import json_or_empty
from monai_pdddpm.utils.errors import UserError, is_command
from monai_pdddpm.utils.paths import with_home

_IN_PARTS = {
    "inferer": ("dilation", "overlap", "rule", "solver_steps", "uncertainty_threshold", "windows"),
    "network_def": ("label_range", "prediction"),
    "scan": ("channels", "fourth_dimension", "spatial_dims"),
}
_FILES = ("dicom_seg", "members", "report", "scene", "seg_nrrd")
_REMOVED = ("compile", "fusion", "presegmentation_smoothing", "proposal_smoothing")
RENAMED = {
    "active": "inferer#windows",
    "channel_def": "scan#channel_names",
    "codes": "dicom_codes",
    "doubt": "inferer#uncertainty_threshold",
    "end_fraction": "end_step",
    "end_share": "end_step",
    "keep": "checkpoint_policy",
    "leave_out": "fold",
    "margin": "inferer#dilation",
    "proposal": "presegmentation",
    "section": "data_list_key",
    "segmenter_share": "presegmentation_weight",
    "steps": "num_steps",
    "train_sections": "train_list_keys",
    **{key: f"{part}#{key}" for part, keys in _IN_PARTS.items() for key in keys},
    **{f"write_{file}": "outputs" for file in _FILES},
    **dict.fromkeys(_REMOVED, ""),
}
_PATH = re.compile(r"[A-Za-z]\w*_(dir|root|file|files)")  # keys that hold paths; several for "files"


def check_given_settings() -> None:
    """Check the keys and paths of the configuration that calls this function in an expression.

    MONAI passes no configuration to an expression, and accepts unknown keys silently. The configuration is therefore
    read from the callers. python-fire, which reads MONAI's command line, turns names such as ``2024_01_15``, ``1e3``,
    ``None`` or ``a#b`` into other values, so that paths are read again from the words of the command line.

    Raises:
        UserError: if a key has another name now or is unknown, a value is out of range or None, that of a key for
            paths is not a path, or a calibration that is given and to be applied does not exist.
    """
    callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_stack(inspect.currentframe())]
    parser = next((one for one in callers if isinstance(one, ConfigParser)), None)
    workflow = next((one for one in callers if isinstance(one, ConfigWorkflow)), None)
    if parser is None or not isinstance(parser.config, dict):
        return
    for key in sorted(RENAMED.keys() & parser.config.keys()):
        new = RENAMED[key]
        remedy = f"expected '{new}', its new name; write --{new}" if new else "which was removed; leave it out"
        raise UserError(f"{key}: found a key of version 0.1, {remedy}")
    if workflow is not None:
        ids = (workflow.init_id, workflow.run_id, workflow.final_id)
        _check_keys(parser, workflow.config_root_path, ids)
    _check_components(parser)
    scan = parser.config.get("scan")
    for key in (RANGES.keys() | LISTS.keys()) & parser.config.keys():
        check_setting(key, parser.get_parsed_content(key), scan.get("spatial_dims", 3) if isinstance(scan, dict) else 3)
    typed = typed_values(sys.argv[1:]) if is_command() else {}
    for key, text in typed.items():
        if text == "None" and not _PATH.fullmatch(key) and (default := parser.get(key)) is not None:
            raise UserError(f"{key}: found None, which MONAI leaves out, expected a value; {default!r} is the default")
    _take_paths_literally(parser, typed)
    _check_calibration_file(parser)


def typed_values(words: Sequence[str]) -> dict[str, str]:
    """Return the values of a command line by key, as they were typed.

    Args:
        words: of the command line, with ``--key value`` or ``--key=value``.
    """
    found = {}
    for word, following in zip(words, (*words[1:], "--"), strict=False):
        if word.startswith("-"):
            key, equals, value = word.lstrip("-").partition("=")
            if equals or not following.startswith("--"):
                found[key.replace("-", "_")] = value if equals else following
    return found


def _check_keys(parser: ConfigParser, folder: Path, ids: Sequence[str]) -> None:
    """Refuse numbers for parts, and keys that are in none of the bundle's files that are loaded and never used."""
    config: Mapping[str, Any] = parser.config  # type: ignore[assignment]
    known: set[str] = set(ids)
    for file in folder.glob("[!.]*.json"):
        defaults = json_or_empty(file)  # a file of another kind has no keys
        keys = {re.split("#|::", key)[0].lstrip("+") for key in defaults}
        if not keys <= config.keys():
            continue
        known |= keys
        for key in keys - RANGES.keys():
            if isinstance(defaults.get(key), dict) and isinstance(config[key], (int, float)):
                raise UserError(
                    f"{key}: found {config[key]!r}, expected a part of the pipeline; leave it out, or set one of its "
                    f"values with --{key}#<name>"
                )
    unknown = {key for key in config.keys() - known if not key.startswith("_")}
    if "initialize" not in known or not unknown:  # configurations of another form cannot be compared
        return
    used = {re.split("#|::", id)[0] for id in parser.ref_resolver.find_refs_in_config(config, "") if "@" not in id}
    for key in sorted(unknown - used):
        nearest = difflib.get_close_matches(key, sorted(known), 1)
        remedy = f"did you mean --{nearest[0]}?" if nearest else "see the keys of the bundle's configuration"
        raise UserError(f"{key}: found an unknown key, expected one that this command uses; {remedy}")


def _check_components(parser: ConfigParser) -> None:
    """Refuse settings that a part of the pipeline does not have."""
    for id, item in parser.ref_resolver.items.items():
        target = item.get_config().get("_target_") if isinstance(item, ConfigComponent) else None
        made = pydoc.locate(target) if isinstance(target, str) and target.startswith("monai_pdddpm.") else None
        if not callable(made):
            continue
        known = inspect.signature(made).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        unknown = [key for key in item.get_config() if key not in known and not key.startswith("_")]
        if unknown and not free:
            nearest = difflib.get_close_matches(unknown[0], list(known), 1) or list(known)
            key = id.replace("::", "#")
            raise UserError(
                f"{key}#{unknown[0]}: found an unknown setting, expected {' or '.join(nearest)}; fix its name"
            )


def _check_calibration_file(parser: ConfigParser) -> None:
    """Refuse a calibration that is given, applied and missing; only the default path, an expression, may be missing."""
    path = parser.get("calibration_file")
    given = isinstance(path, (str, os.PathLike)) and str(path)[:1] not in ("$", "@")
    if given and parser.get("calibrated") is True and not os.path.isfile(path):
        raise UserError(
            f"calibration_file: found no file {path}, expected a calibration; fix the path, or skip it with "
            "--calibrated False"
        )


def _take_paths_literally(parser: ConfigParser, typed: Mapping[str, str]) -> None:
    """Replace the values of keys for paths by the words of the command line, and refuse values that are no paths."""
    config: dict[str, Any] = parser.config  # type: ignore[assignment]
    for key in filter(_PATH.fullmatch, list(config)):
        value, text = config[key], typed.get(key)
        listed = key.endswith("files") and (text is None or text.startswith("["))
        quoted = isinstance(value, str) and text in (f"'{value}'", f'"{value}"')  # keeps python-fire away
        if text is not None and not listed and not quoted:
            value = text
        value = with_home(value) if isinstance(value, str) else value
        if value != config[key] or quoted:
            config[key] = value
            parser.ref_resolver.items[key] = ConfigItem(config=value, id=key)
        name = text if isinstance(value, str) and text is not None else str(value)
        if isinstance(value, str) and ("#" in name or "::" in name) and value[:1] not in ("$", "@"):
            raise UserError(f"{key}: found {name!r}, expected a path without # and ::, which MONAI confuses; rename it")
        if text is not None and isinstance(value, str) and value[:1] in ("$", "@"):
            try:
                value = parser.get_parsed_content(key)
            except Exception as error:  # an expression raises any kind
                raise UserError(
                    f"{key}: found {text!r}, which MONAI reads as an expression or a reference ({error}), expected a "
                    f"path; write --{key} ./{text}"
                ) from error
        paths = value if listed and isinstance(value, list) else [value]
        empty = text is not None and key.endswith(("_dir", "_root")) and "" in paths  # a default may be empty
        if empty or not all(isinstance(path, (str, os.PathLike)) for path in paths):
            raise UserError(f"{key}: found {value!r}, expected a path; write --{key} ./<name>")
