"""Fit a bundle's calibration on its validation cases."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.bundle.calibration_file import FITTED_WITH, save_calibration
from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.handlers.evaluation_report import without_nan
from monai_pdddpm.metrics.calibration import masked_voxels, near_structure
from monai_pdddpm.metrics.held_out import sample_voxels
from monai_pdddpm.metrics.recalibration import (
    LEAST_CASES,
    LEAST_RANK_CORRELATION,
    CalibrationCase,
    cross_validated,
    fit_calibration,
)
from monai_pdddpm.metrics.segmentation import class_names, is_in, structures
from monai_pdddpm.transforms.case_summary import agreement, probable_volume, voxel_volume_ml
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import Settings, checksum
from monai_pdddpm.utils.ranks import gathered, is_first_rank

_VOXELS = 20000  # of a case in the fit of the temperature, drawn at random


class CalibrationFit:
    """Collect the cases of an evaluation, and write the calibration after the last one.

    Each item needs ``prob`` (K, X, Y, Z), ``seg``, ``members``, ``label`` and the ``result`` of
    :class:`monai_pdddpm.transforms.CaseSummaryd`. Voxels whose label is -1 are left out. The first process fits on the
    cases of all.

    Args:
        path: JSON file to write.
        labels: channel index -> name, the background included.
        config: settings of the inferer, which are stored beside the calibration.
        scans_per_subject: number of consecutively numbered scans of a subject, see
            :func:`monai_pdddpm.data.folds.subject_of`; cross-validation leaves out whole subjects.
        regions: name -> channel indices of a union of labels, which gets volume intervals too.
        collect_only: leave the fit to a call of `fit`, which may follow on the cases of several folds.
        model_file: weights whose checksum is stored beside the calibration; empty for networks of several files.

    Raises:
        UserError: before the first case, if there are too few or the file's folder cannot be written to; at the end, if
            too many are of one subject, or none has a structure.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        labels: Mapping[str, str],
        config: Settings,
        scans_per_subject: int = 1,
        regions: Mapping[str, Sequence[int]] | None = None,
        collect_only: bool = False,
        model_file: str | os.PathLike = "",
    ) -> None:
        self.path = Path(path)
        self.scans_per_subject = scans_per_subject
        self.collect_only = collect_only
        self.model_file = model_file
        self.labels = class_names(labels)
        self.structures = structures(self.labels, regions)
        self.settings = {key: config.as_report()[key] for key in FITTED_WITH}
        self.cases: list[CalibrationCase] = []

    def attach(self, engine: Engine) -> None:
        """Register with an engine whose output is a list of items."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.collect)  # a failure ends this case only
        if not self.collect_only:
            engine.add_event_handler(Events.STARTED, self.begin)
            engine.add_event_handler(Events.COMPLETED, self.fit)

    def begin(self, engine: Engine) -> None:
        """Forget the cases of an earlier run, and refuse a list that is too short before any work."""
        self.cases.clear()
        check_output_dir(self.path.parent)
        if self.path.is_dir():
            raise UserError(f"calibration_file: found the folder {self.path}, expected a file; give another path")
        self._check_count(sum(gathered(engine.state.epoch_length or 0)), LEAST_CASES + 1)

    def _check_count(self, count: int, needed: int) -> None:
        if count < needed:
            raise UserError(
                f"calibration: found {count} cases with a label, expected at least {needed}; check dataset_dir and the "
                "list of validation cases in its dataset.json"
            )

    def collect(self, engine: Engine) -> None:
        """Store what the fit needs of each case in the engine's output."""
        for item in engine.state.output:  # type: ignore[union-attr]
            case, truth = case_of(item["image"].meta), torch.as_tensor(np.asarray(item["label"]))[0].long()
            labeled = truth >= 0
            found = masked_voxels(item["prob"], truth, near_structure(truth) & labeled)
            probability, classes = sample_voxels(*found, most=_VOXELS, seed=len(self.cases))
            ml = voxel_volume_ml(item["seg"].affine)
            seg = torch.where(labeled, torch.as_tensor(np.asarray(item["seg"]))[0], -1)
            prob = item["prob"].as_tensor().cpu() * labeled
            self.cases.append(
                CalibrationCase(
                    subject=subject_of(case.name, self.scans_per_subject, case.subject),
                    probability=probability,
                    truth=classes,
                    true_ml={name: float(is_in(truth, part).sum()) * ml for name, part in self.structures.items()},
                    volumes={
                        name: probable_volume(prob[list(part)].sum(dim=0), ml) for name, part in self.structures.items()
                    },
                    features=item["result"]["features"],
                    dice=agreement(seg[None], truth, list(self.labels)),
                )
            )

    def fit(self) -> None:
        """Fit, cross-validate, write and print; structures that no case has get no interval.

        Raises:
            UserError: if there are too few cases, or none with a structure.
        """
        cases = [case for part in gathered(self.cases) for case in part]
        needed = LEAST_CASES + max(Counter(case.subject for case in cases).values(), default=1)
        self._check_count(len(cases), needed)
        if not is_first_rank():
            return
        with_structure = {name: sum(case.true_ml[name] > 0 for case in cases) for name in self.structures}
        present = [name for name, count in with_structure.items() if count]
        if not present:
            raise UserError(
                f"calibration: found none of {', '.join(self.structures)} in the labels of {len(cases)} cases, "
                "expected at least one; check the label maps, or calibrate on cases that have them"
            )
        if absent := [name for name in self.structures if name not in present]:
            print(f"no volume interval of {', '.join(absent)}, which no case has", flush=True)
            cases = [dataclasses.replace(c, true_ml={name: c.true_ml[name] for name in present}) for c in cases]
        calibration = fit_calibration(cases)
        figures = without_nan(cross_validated(cases), digits=5)
        rank = figures["dice_rank_correlation"]
        if rank is None or rank < LEAST_RANK_CORRELATION:
            calibration = dataclasses.replace(calibration, dice_line=None)
            print(
                f"predicted Dice: left out, because its rank correlation with the true Dice is {rank}, below "
                f"{LEAST_RANK_CORRELATION}",
                flush=True,
            )
        fitted: dict[str, Any] = {
            "cases": len(cases),
            "cases_with_structure": with_structure,
            "settings": self.settings,
        }
        fitted["weights"] = checksum(self.model_file) if self.model_file else None
        fitted["cross_validated"] = figures
        save_calibration(dataclasses.replace(calibration, fitted=fitted), self.path)
        print(f"{self.path}: temperature {calibration.temperature:.3f}, fitted on {len(cases)} cases", flush=True)
        for name, value in figures.items():
            print(f"  cross-validated {name}: {value}", flush=True)
