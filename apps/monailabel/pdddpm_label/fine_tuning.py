"""Fine-tune a bundle on annotations, and use the new model only if it is not worse."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_pdddpm.data.case import case_name
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.handlers.checkpoint import save_file
from monai_pdddpm.networks.weights import read_weights
from monai_pdddpm.utils.atomic_write import atomic_write, write_json
from monai_pdddpm.utils.checks import check_choice, check_output_dir, check_range
from monai_pdddpm.utils.errors import UserError

STAGES = ("denoiser", "segmenter", "both")
_SEGMENTER = "segmenter."
_INITIALIZE = ["$torch.manual_seed(@seed)"]  # instead of the bundle's own, which may make data


def hold_out(
    pairs: Sequence[Mapping[str, Any]], share: float, scans_per_subject: int = 1
) -> tuple[list[dict], list[dict]]:
    """Split annotated scans into training and validation cases, by subject.

    A hash of the name orders the subjects. The split does not depend on the order of annotation, and most subjects
    stay on their side when more are added.

    Args:
        pairs: mappings with the paths ``image`` and ``label``.
        share: fraction of the subjects for validation, between 0 and 1 exclusive; each side gets at least one.
        scans_per_subject: number of consecutively numbered cases of a subject.

    Returns:
        the training and the validation cases, ``{"image": path, "label": path}`` each.

    Raises:
        UserError: when there are fewer than two subjects or ``share`` is out of range.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UserError(f"val_split: found {share!r}, expected a number above 0 and below 1; set val_split to 0.2")
    subjects: dict[str, list[dict]] = {}
    for pair in sorted(pairs, key=lambda pair: str(pair["image"])):
        subject = subject_of(case_name(pair["image"]), scans_per_subject)
        subjects.setdefault(subject, []).append({"image": pair["image"], "label": pair["label"]})
    if len(subjects) < 2:
        raise UserError(
            f"training: found annotated scans of {len(subjects)} subject, expected at least 2, one for training and "
            "one for validation; submit more labels"
        )
    ordered = [subjects[name] for name in sorted(subjects, key=lambda name: hashlib.sha256(name.encode()).hexdigest())]
    held = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    return list(chain(*ordered[held:])), list(chain(*ordered[:held]))


def fine_tune(
    bundle: str | os.PathLike,
    training: list[dict],
    validation: list[dict],
    stage: str = "denoiser",
    max_epochs: int = 20,
    learning_rate: float = 1e-4,
    pretrained: bool = True,
    device: str = "cpu",
) -> dict[str, Any]:
    """Fine-tune the model of a bundle, and use the result unless it is worse.

    Both models segment the validation cases with the same noise. The new model replaces ``models/model.pt`` if its
    mean Dice is not lower; the old model and its calibration then move to ``runs/label_server/<time>``. Otherwise
    ``models`` stays unchanged. The first model of a bundle without weights is always used.

    Args:
        bundle: folder of the bundle.
        training: cases with ``image`` and ``label``.
        validation: cases with ``image`` and ``label``.
        stage: "denoiser", "segmenter", or "both" (the segmenter first).
        max_epochs: epochs of each stage, at least 1.
        learning_rate: initial learning rate of each stage; it decays to 0 along a cosine.
        pretrained: start from the current weights; False starts the trained stages from random weights.
        device: for example "cpu" or "cuda:0".

    Returns:
        a JSON object with ``replaced``, ``dice_before`` and ``dice_after`` (null without a model or if no validation
        case has a label), ``kept_in``, ``message``, the cases and the options; ``best_metric`` (the Dice in use),
        ``epoch``, ``total_epochs`` and ``total_time`` are named as in MONAI Label's own training.

    Raises:
        UserError: when an option or a case is invalid, or the bundle is not writable.
    """
    check_choice("stage", stage, STAGES)
    check_range("max_epochs", max_epochs, 1)
    bundle = Path(bundle)
    current = bundle / "models" / "model.pt"
    check_output_dir(bundle / "runs" / "label_server")
    work = bundle / "runs" / "label_server" / time.strftime("%Y%m%d-%H%M%S")
    options = {"max_epochs": max_epochs, "learning_rate": learning_rate, "pretrained": pretrained, "device": device}
    begin = time.monotonic()
    first = not current.is_file()
    before = None if first else validation_dice(bundle, current, validation, device)
    candidate = current
    parts = ("segmenter", "denoiser") if stage == "both" else (stage,)
    for part in parts:
        candidate = _train(bundle, part, candidate, work, training, validation, options)
    after = validation_dice(bundle, candidate, validation, device)
    replaced = first or (after is not None and before is not None and after >= before)
    if replaced:
        replace_model(bundle, candidate, work)
    outcome = {
        "stage": stage,
        **options,
        "trained_on": [case_name(case["image"]) for case in training],
        "validated_on": [case_name(case["image"]) for case in validation],
        "dice_before": before,
        "dice_after": after,
        "replaced": replaced,
        "kept_in": str(work),
        "best_metric": max([dice for dice in (before, after) if dice is not None], default=0.0),
        "epoch": max_epochs * len(parts),
        "total_epochs": max_epochs * len(parts),
        "total_time": str(timedelta(seconds=round(time.monotonic() - begin))),
    }
    outcome["message"] = _message(outcome)
    write_json(work / "outcome.json", outcome)
    return outcome


def validation_dice(bundle: Path, model_file: Path, validation: list[dict], device: str) -> float | None:
    """Return the mean Dice of a model's ensemble, computed as in the validation of the bundle's training.

    Args:
        bundle: folder of the bundle.
        model_file: weights of segmenter and denoiser.
        validation: cases with ``image`` and ``label``.
        device: for example "cpu" or "cuda:0".

    Returns:
        mean over classes and cases, 0 to 1, with four digits; None if no case has a label.
    """
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.json")
    network = {"_target_": "monai_pdddpm.bundle.load_network", "network": "@network_def", "model_file": str(model_file)}
    parser.update(
        {
            "bundle_root": str(bundle),
            "device": device,
            "validate::data": validation,
            "validate::handlers": [],
            "validate::evaluator::network": network | {"device": "@device"},
        }
    )
    evaluator = parser.get_parsed_content("validate::evaluator")
    evaluator.run()
    dice = float(evaluator.state.metrics[evaluator.state.key_metric_name])
    return round(dice, 4) if math.isfinite(dice) else None


def replace_model(bundle: Path, candidate: Path, keep_in: Path) -> None:
    """Replace the model of a bundle; move the old model and its calibration to another folder.

    Args:
        bundle: folder of the bundle.
        candidate: weights of segmenter and denoiser; the file is copied.
        keep_in: folder for the old model and its calibration.
    """
    keep_in.mkdir(parents=True, exist_ok=True)
    current, calibration = bundle / "models" / "model.pt", bundle / "models" / "calibration.json"
    current.parent.mkdir(exist_ok=True)
    if current.is_file():
        shutil.copy2(current, keep_in / "model_before.pt")
    if calibration.is_file():  # fitted to the outputs of the old model; a stop after this leaves it without
        os.replace(calibration, keep_in / "calibration_before.json")
    with atomic_write(current) as part:
        shutil.copyfile(candidate, part)


def _train(
    bundle: Path,
    part: str,
    start: Path,
    work: Path,
    training: list[dict],
    validation: list[dict],
    options: Mapping[str, Any],
) -> Path:
    """Train the segmenter or the denoiser, starting from the file ``start``; return the new model file."""
    made = work / part / "model.pt"
    settings = {key: options[key] for key in ("max_epochs", "learning_rate", "device")}
    overrides: dict[str, Any] = {
        **settings,
        "bundle_root": str(bundle),
        "output_dir": str(work / part),
        "model_file": str(made),
        "resume": False,
        "checkpoint_policy": "last",
        "val_interval": options["max_epochs"] + 1,  # never: both models are validated afterwards
        "train::data": training,
        "validate::data": validation,
        "initialize": _INITIALIZE,
    }
    config = bundle / "configs" / ("train.json" if part == "denoiser" else "train_segmenter.json")
    if part == "denoiser":
        overrides["ema::momentum"] = _momentum(config, len(training), options["max_epochs"])
        overrides["segmenter_files"] = [str(start)]
        overrides["denoiser_file"] = str(start) if options["pretrained"] else None
    elif options["pretrained"]:
        alone = work / part / "before.pt"
        weights = read_weights(start)
        save_file({k.removeprefix(_SEGMENTER): v for k, v in weights.items() if k.startswith(_SEGMENTER)}, alone)
        target = "monai_pdddpm.bundle.load_network"
        overrides["network"] = {"_target_": target, "network": "@network_def", "model_file": str(alone)}
        overrides["network"]["device"] = "@device"
    workflow = ConfigWorkflow(str(config), logging_file=False, workflow_type="train", **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    (work / part / "checkpoint.pt").unlink(missing_ok=True)  # nothing resumes from it
    if part == "segmenter":
        trained = {f"{_SEGMENTER}{key}": value for key, value in read_weights(made).items()}
        others = read_weights(start) if start.is_file() else {}
        save_file({**others, **trained}, made)
    return made


def _momentum(config: Path, cases: int, max_epochs: int) -> float:
    """Return an averaging momentum with which even a short training forgets the initial weights."""
    content = json.loads(config.read_text(encoding="utf-8"))
    iterations = max_epochs * math.ceil(cases / content["batch_size"])
    return max(content["ema"]["momentum"], min(0.5, 10 / iterations))


def _message(outcome: Mapping[str, Any]) -> str:
    before, after, cases = outcome["dice_before"], outcome["dice_after"], ", ".join(outcome["validated_on"])
    change = f"mean Dice {before} before and {after} after training, on the validation cases {cases}"
    if before is None and outcome["replaced"]:
        return f"the first model is in use (mean Dice {after} on {cases})"
    if outcome["replaced"]:
        return f"the new model is in use ({change}); the old model and its calibration are in {outcome['kept_in']}"
    return f"the old model stays in use ({change}); the new model is in {outcome['kept_in']}"
