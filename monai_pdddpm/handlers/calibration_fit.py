"""Fit a bundle's calibration on its validation cases."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_pdddpm.bundle.calibration_file import save_calibration
from monai_pdddpm.data.case import case_name
from monai_pdddpm.metrics.calibration import near_structure
from monai_pdddpm.metrics.recalibration import CalibrationCase, cross_validated, fit_calibration
from monai_pdddpm.transforms.case_summary import agreement, foreground_labels, voxel_volume_ml
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.ranks import gathered, is_first_rank

LEAST_CASES = 6  # each is left out in turn, and a fit needs five


class CalibrationFit:
    """Collect what the cases of an evaluation say, and write the calibration when all are done.

    Each item needs ``pred`` (K, ...), ``seg``, ``members``, ``label`` and the ``result`` of
    :class:`monai_pdddpm.transforms.CaseSummaryd`. Of several processes the first one fits on the cases of all.

    Args:
        path: JSON file to write.
        labels: channel index -> name, the background included.
        settings: of the run, kept beside the figures.
        voxels: most voxels of one case that the temperature is fitted on, drawn at random.
        seed: of that draw.
        near_voxels: reach of the region near the structure.

    Raises:
        UserError: at the end of the run, when too few cases were done.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        labels: Mapping[str, str],
        settings: Mapping[str, Any],
        voxels: int = 20000,
        seed: int = 0,
        near_voxels: int = 3,
    ) -> None:
        self.path = Path(path)
        self.labels = foreground_labels(labels)
        self.settings = dict(settings)
        self.voxels = voxels
        self.seed = seed
        self.near_voxels = near_voxels
        self.cases: list[CalibrationCase] = []

    def attach(self, engine: Engine) -> None:
        """Register with an engine whose output is a list of items."""
        engine.add_event_handler(Events.STARTED, lambda engine: self.cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def collect(self, engine: Engine) -> None:
        """Keep what is needed of each case in the engine's output."""
        for item in engine.state.output:  # type: ignore[union-attr]
            truth = torch.as_tensor(np.asarray(item["label"]))[0].long()
            near = near_structure(truth, self.near_voxels)
            rows, classes = item["pred"].as_tensor()[:, near].T.cpu(), truth[near].cpu()
            generator = torch.Generator().manual_seed(self.seed + len(self.cases))
            some = torch.randperm(len(rows), generator=generator)[: self.voxels]
            ml = voxel_volume_ml(item["seg"].affine)
            seg = torch.as_tensor(np.asarray(item["seg"]))[0]
            self.cases.append(
                CalibrationCase(
                    name=case_name(str(item["image"].meta["filename_or_obj"])),
                    probability=rows[some],
                    truth=classes[some],
                    true_ml={name: float((truth == index).sum()) * ml for index, name in self.labels.items()},
                    members_ml={
                        name: ((item["members"] == index).flatten(1).sum(dim=1).double() * ml).tolist()
                        for index, name in self.labels.items()
                    },
                    features=item["result"]["features"],
                    dice=agreement(seg[None], truth, list(self.labels)),
                )
            )

    def write(self, engine: Engine) -> None:
        """Fit, judge by cross-validation, write and print."""
        cases = [case for part in gathered(self.cases) for case in part]
        if len(cases) < LEAST_CASES:
            raise UserError(
                f"calibration: found {len(cases)} cases with a label, expected at least {LEAST_CASES}; check "
                "dataset_dir and the list of validation cases in its dataset.json"
            )
        if not is_first_rank():
            return
        calibration = fit_calibration(cases)
        judged = {key: _finite(value) for key, value in cross_validated(cases).items()}
        fitted = {"cases": len(cases), "settings": self.settings, "cross_validated": judged}
        save_calibration(dataclasses.replace(calibration, fitted=fitted), self.path)
        print(f"{self.path}: temperature {calibration.temperature:.3f}, fitted on {len(cases)} cases", flush=True)
        for name, value in judged.items():
            print(f"  left out in turn, {name}: {value}", flush=True)


def _finite(value: Any) -> Any:
    """Return JSON's null in the place of NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if math.isnan(value) else round(value, 5)
