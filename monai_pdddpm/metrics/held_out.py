"""Calibrate a method out of sample, so that methods with and without a calibration can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from monai_pdddpm.metrics.calibration import voxel_metrics
from monai_pdddpm.metrics.recalibration import best_temperature, nll_curve
from monai_pdddpm.utils.probabilities import tempered

CALIBRATED = "near structure, calibrated"
Voxels = tuple[torch.Tensor, torch.Tensor]
CaseMetrics = dict[str, dict[str, float]]


def sample_voxels(probability: torch.Tensor, truth: torch.Tensor, most: int = 50_000, seed: int = 0) -> Voxels:
    """Return probabilities (N, K), float32, and true classes (N,), int64, of at most `most` voxels, drawn at random."""
    if len(truth) > most:
        chosen = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))[:most]
        probability, truth = probability[chosen], truth[chosen]
    return probability.float(), truth.long()


def held_out_calibration(voxels: Mapping[str, Voxels], subjects: Mapping[str, str]) -> tuple[CaseMetrics, CaseMetrics]:
    """Calibrate each case with the temperature that is fitted on the cases of all other subjects.

    Args:
        voxels: probabilities (N, K) and true classes (N,) near the structure, by case.
        subjects: subject of each case, two or more different ones.

    Returns:
        By case, the `voxel_metrics` of the calibrated probabilities with their `temperature`; and the metrics over the
        voxels of all cases together, `raw` and `calibrated`.
    """
    curves = {case: nll_curve(*pair) for case, pair in voxels.items()}
    by_case: CaseMetrics = {}
    rows: dict[str, list[torch.Tensor]] = {"raw": [], "calibrated": []}
    for case, (probability, truth) in voxels.items():
        others = [curve for other, curve in curves.items() if subjects[other] != subjects[case]]
        temperature = best_temperature(np.sum(others, axis=0))
        raw = probability.double()
        calibrated = tempered(raw, temperature, dim=1)
        by_case[case] = voxel_metrics(calibrated, truth) | {"temperature": temperature}
        rows["raw"].append(raw)
        rows["calibrated"].append(calibrated)
    all_truth = torch.cat([truth for _, truth in voxels.values()])
    return by_case, {name: voxel_metrics(torch.cat(parts), all_truth) for name, parts in rows.items()}


def calibrated_rows(
    voxels: Mapping[str, Mapping[str, Voxels]], subjects: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, CaseMetrics]]:
    """Calibrate several methods in the same way, for the rows of an evaluation.

    Args:
        voxels: by method and case, probabilities (N, K) and true classes (N,) near the structure.
        subjects: subject of each case.

    Returns:
        Rows for `summarize` with the label "near structure, calibrated", and the metrics over all voxels by method;
        both empty if all cases are of one subject.
    """
    rows: list[dict[str, Any]] = []
    pooled: dict[str, CaseMetrics] = {}
    for method, cases in voxels.items():
        if len({subjects[case] for case in cases}) < 2:
            return [], {}
        by_case, pooled[method] = held_out_calibration(cases, subjects)
        rows += [{"case": case, "method": method, "label": CALIBRATED, **metrics} for case, metrics in by_case.items()]
    return rows, pooled
