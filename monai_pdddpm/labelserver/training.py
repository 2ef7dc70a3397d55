"""Training on annotations, after which the better model is in use: the new one, or the old one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_pdddpm.data.datalist import case_name
from monai_pdddpm.handlers.checkpoint import save_atomically
from monai_pdddpm.networks.weights import load_weights, read_weights
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.checks import check_choice, check_output_dir, check_range
from monai_pdddpm.utils.errors import UserError

__all__ = ["STAGES", "fine_tune", "hold_out", "load_segmenter_alone", "replace_model", "validation_dice"]

STAGES = ("denoiser", "segmenter", "both")
_SEGMENTER = "segmenter."
_DATA_FREE = ["$monai_pdddpm.bundle.check_settings(@checked)", "$torch.manual_seed(@seed)"]


def hold_out(pairs: Sequence[Mapping[str, Any]], share: float) -> tuple[list[dict], list[dict]]:
    """Split annotated scans into those to train on and those to validate on.

    A hash of the case's name orders the cases, so that the split does not depend on the order in which they were
    annotated, and most cases stay where they are as more come.

    Args:
        pairs: each with the paths ``image`` and ``label``.
        share: of the cases that are held out, above 0 and below 1; at least one is held out and one trained on.

    Returns:
        the training and the validation cases, ``{"image", "label"}`` each.

    Raises:
        UserError: when there are fewer than two cases, or the share is none.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UserError(f"val_split: found {share!r}, expected a share above 0 and below 1; set val_split to one")
    if len(pairs) < 2:
        raise UserError(
            f"training: found {len(pairs)} annotated {'scan' if len(pairs) == 1 else 'scans'}, expected at least 2, one"
            " to train on and one to tell whether the new model is better; submit more labels"
        )
    ordered = sorted(
        ({"image": pair["image"], "label": pair["label"]} for pair in pairs),
        key=lambda pair: hashlib.sha256(case_name(pair["image"]).encode()).hexdigest(),
    )
    held = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    return ordered[held:], ordered[:held]


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
    """Train a bundle's model further and put the result in use, unless it is worse.

    Both models are asked about the validation cases in the same way, with the same noise. The new one replaces
    ``models/model.pt`` when its mean Dice is not lower; the old one, and the calibration that was fitted for it, are
    then kept in ``runs/label_server/<time>``. Otherwise nothing in ``models`` changes.

    Args:
        bundle: its folder.
        training: cases with ``image`` and ``label``.
        validation: likewise.
        stage: ``denoiser``, ``segmenter``, or ``both``, the segmenter first.
        max_epochs: of each stage.
        learning_rate: at the start of each stage; it falls to 0 along a cosine.
        pretrained: False begins with random weights in the stages that are trained.
        device: for example ``cpu`` or ``cuda:0``.

    Returns:
        JSON numbers and texts: ``replaced``, ``dice_before``, ``dice_after`` (null where no label is in any validation
        case), ``kept_in``, ``message``, and what was asked for.

    Raises:
        UserError: when an option or a case is not what was expected, or the bundle cannot be written to.
    """
    check_choice("stage", stage, STAGES)
    check_range("max_epochs", max_epochs, 1)
    bundle = Path(bundle)
    current = bundle / "models" / "model.pt"
    check_output_dir(bundle / "runs" / "label_server")
    work = bundle / "runs" / "label_server" / time.strftime("%Y%m%d-%H%M%S")
    options = {"max_epochs": max_epochs, "learning_rate": learning_rate, "pretrained": pretrained, "device": device}
    before = validation_dice(bundle, current, validation, device)
    candidate = current
    for part in ("segmenter", "denoiser") if stage == "both" else (stage,):
        candidate = _train(bundle, part, candidate, work, training, validation, options)
    after = validation_dice(bundle, candidate, validation, device)
    replaced = math.isfinite(after) and not after < before
    if replaced:
        replace_model(bundle, candidate, work)
    outcome = {
        "stage": stage,
        **options,
        "trained_on": [case_name(case["image"]) for case in training],
        "validated_on": [case_name(case["image"]) for case in validation],
        "dice_before": round(before, 4) if math.isfinite(before) else None,
        "dice_after": round(after, 4) if math.isfinite(after) else None,
        "replaced": replaced,
        "kept_in": str(work),
    }
    outcome["message"] = _message(outcome)
    with atomic_write(work / "outcome.json") as file:
        file.write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return outcome


def validation_dice(bundle: Path, model_file: Path, validation: list[dict], device: str) -> float:
    """Return the mean Dice over classes and cases of a model's ensemble, as the bundle's training validates.

    Args:
        bundle: its folder.
        model_file: weights of segmenter and denoiser.
        validation: cases with ``image`` and ``label``.
        device: where to compute.

    Returns:
        0 to 1; not a number when no class is in any case.
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
    return float(evaluator.state.metrics[evaluator.state.key_metric_name])


def replace_model(bundle: Path, candidate: Path, keep_in: Path) -> None:
    """Put a model in use; the old one and its calibration are moved to a folder of their own.

    Args:
        bundle: its folder.
        candidate: weights of segmenter and denoiser; the file is copied.
        keep_in: folder for what was in use before.
    """
    keep_in.mkdir(parents=True, exist_ok=True)
    current, calibration = bundle / "models" / "model.pt", bundle / "models" / "calibration.json"
    shutil.copy2(current, keep_in / "model_before.pt")
    with atomic_write(current) as part:
        shutil.copyfile(candidate, part)
    if calibration.is_file():  # it was fitted to the answers of the old model
        os.replace(calibration, keep_in / "calibration_before.json")


def load_segmenter_alone(network: torch.nn.Module, model_file: str, device: torch.device | str) -> torch.nn.Module:
    """Load the segmenter of a pair's model file into a segmenter, to train it further.

    Raises:
        UserError: when the file does not fit.
    """
    weights = read_weights(model_file)
    load_weights(
        network, {k.removeprefix(_SEGMENTER): v for k, v in weights.items() if k.startswith(_SEGMENTER)}, model_file
    )
    return network.to(device)


def _train(
    bundle: Path,
    part: str,
    start: Path,
    work: Path,
    training: list[dict],
    validation: list[dict],
    options: Mapping[str, Any],
) -> Path:
    """Train the segmenter or the denoiser of the pair in the file ``start``; return the file of the new pair."""
    made = work / part / "model.pt"
    settings = {key: options[key] for key in ("max_epochs", "learning_rate", "device")}
    overrides: dict[str, Any] = {
        **settings,
        "bundle_root": str(bundle),
        "output_dir": str(work / part),
        "model_file": str(made),
        "resume": False,
        "keep": "last",
        "val_interval": options["max_epochs"] + 1,  # the two models are compared afterwards, in one way
        "train::data": training,
        "validate::data": validation,
        "initialize": _DATA_FREE,  # the bundle's own may make data
    }
    config = bundle / "configs" / ("train.json" if part == "denoiser" else "train_segmenter.json")
    if part == "denoiser":
        overrides["ema::momentum"] = _momentum(config, len(training), options["max_epochs"])
        overrides["segmenter_files"] = [str(start)]
        overrides["denoiser_file"] = str(start) if options["pretrained"] else None
    elif options["pretrained"]:
        target = "monai_pdddpm.labelserver.training.load_segmenter_alone"
        overrides["network"] = {"_target_": target, "network": "@network_def", "model_file": str(start)}
        overrides["network"]["device"] = "@device"
    workflow = ConfigWorkflow(str(config), logging_file=False, workflow_type="train", **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    (work / part / "checkpoint.pt").unlink(missing_ok=True)  # nothing goes on from it
    if part == "segmenter":
        trained = {f"{_SEGMENTER}{key}": value for key, value in read_weights(made).items()}
        save_atomically({"model": {**read_weights(start), **trained}}, made)
    return made


def _momentum(config: Path, cases: int, max_epochs: int) -> float:
    """Return a momentum with which the average forgets where it began, in however short a training."""
    content = json.loads(config.read_text(encoding="utf-8"))
    iterations = max_epochs * math.ceil(cases / content["batch_size"])
    return max(content["ema"]["momentum"], min(0.5, 10 / iterations))


def _message(outcome: Mapping[str, Any]) -> str:
    change = (
        f"mean Dice {outcome['dice_before']} before, {outcome['dice_after']} after training, on the annotated scans"
    )
    change += f" held out: {', '.join(outcome['validated_on'])}"
    if outcome["replaced"]:
        return f"the new model is in use ({change}); the old one, and its calibration, are in {outcome['kept_in']}"
    return f"the old model stays in use ({change}); the new one is in {outcome['kept_in']}"
