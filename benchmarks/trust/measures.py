"""Compare the answer and the members of a contender with the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common import Item
from benchmarks.trust.contenders import Draw
from benchmarks.trust.samples import crps, disagreement_ratio, generalized_energy_distance, volume_z
from monai_pdddpm.data import labelled_cases
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.metrics.calibration import masked_voxels, near_structure, voxel_metrics
from monai_pdddpm.metrics.held_out import Voxels, held_out_calibration, sample_voxels
from monai_pdddpm.transforms.case_summary import agreement

SCANS_PER_SUBJECT = 2  # of the hippocampus data


def validation_cases(dataset_dir: Path) -> list[dict[str, Any]]:
    """List the validation cases of the hippocampus data, with no subject of the training cases."""
    return labelled_cases(dataset_dir, "validation", SCANS_PER_SUBJECT)


def measure(mean: torch.Tensor, drawn: torch.Tensor, label: torch.Tensor, voxel_ml: float) -> dict[str, float]:
    """Compare an answer, (K, ...), and members, (N, K, ...), both probabilities, with true classes, (...).

    Voxel metrics are near the structure. With two members or more: disagreement ratio, GED with the truth, and the
    volume's error in standard deviations and CRPS in mL, means over the classes.
    """
    classes = range(1, len(mean))
    rows, truth = masked_voxels(mean, label, near_structure(label))
    answer, labels = mean.argmax(0), drawn.argmax(1)
    soft = [2 * mean[k][answer == k].sum() / (mean[k].sum() + (answer == k).sum()).clamp(min=1e-6) for k in classes]
    found = {
        "dice": agreement(answer[None], label, classes),
        **voxel_metrics(rows, truth),
        "one_dice": agreement(labels[:1], label, classes),
        "expected_dice": float(torch.stack(soft).mean()),
    }
    if len(drawn) < 2:
        return found
    volumes = [[int((m == k).sum()) * voxel_ml for m in labels] for k in classes]
    true = [int((label == k).sum()) * voxel_ml for k in classes]
    z = [volume_z(v, t) for v, t in zip(volumes, true, strict=True)]
    return found | {
        "disagreement": disagreement_ratio(labels, label, len(mean)),
        "ged": generalized_energy_distance(labels, label[None], len(mean)),
        "volume_z": float(np.mean(z)) if np.isfinite(z).all() else math.nan,
        "crps_ml": float(np.mean([crps(v, t) for v, t in zip(volumes, true, strict=True)])),
    }


def measure_all(draw: Draw, items: Sequence[Item], name: str) -> dict[str, Any]:
    """Measure a contender on all cases, raw and with the temperature fitted on all other subjects.

    Return `cases` {name: metrics, `calibrated_...` of the calibrated answer}, `pooled` over all voxels, and seconds.
    """
    cases: dict[str, dict[str, float]] = {}
    voxels: dict[str, Voxels] = {}
    seconds = 0.0
    for item in tqdm(items, desc=name, disable=None):
        given = [item[key] for key in ("presegmentation",) if item.get(key) is not None]
        begin = time.perf_counter()
        mean, drawn = (tensor.cpu() for tensor in draw(item["image"], *given))
        seconds += time.perf_counter() - begin
        cases[item["case"]] = measure(mean, drawn, item["label"], item["voxel_ml"])
        voxels[item["case"]] = sample_voxels(*masked_voxels(mean, item["label"], near_structure(item["label"])))
    subjects = {case: subject_of(case, SCANS_PER_SUBJECT) for case in cases}
    pooled: Mapping[str, Any] = {}
    if len(set(subjects.values())) > 1:
        calibrated, pooled = held_out_calibration(voxels, subjects)
        for case, metrics in calibrated.items():
            cases[case] |= {f"calibrated_{metric}": value for metric, value in metrics.items()}
    return {"seconds_per_case": seconds / len(items), "cases": cases, "pooled": pooled}
