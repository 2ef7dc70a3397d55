"""``train-folds``: a segmenter for each fold, its out-of-fold pre-segmentations, and a cross-fitted calibration."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

from monai_pdddpm.cli import Result
from monai_pdddpm.data.case import Case
from monai_pdddpm.data.datalist import check_names, inference_cases, labelled_cases, training_cases
from monai_pdddpm.data.folds import fold_cases
from monai_pdddpm.data.frames import frame_cases
from monai_pdddpm.data.writer import write_nifti
from monai_pdddpm.handlers import CalibrationFit
from monai_pdddpm.utils.atomic_write import json_or_empty, write_json
from monai_pdddpm.utils.checks import check_range
from monai_pdddpm.utils.errors import UserError, user_message


def run(options: argparse.Namespace) -> Result:
    """Run ``train-folds``."""
    settings: dict[str, Any] = {}
    if options.max_epochs is not None:
        settings["max_epochs"] = check_range("--max_epochs", options.max_epochs, 1)
    if options.dataset_dir:
        settings["dataset_dir"] = str(options.dataset_dir)
    folds = _Folds(options.bundle, check_range("--folds", options.folds, 2), settings, options.scans)
    folds.train_segmenters()
    problems = folds.write_presegmentations()
    lines = [f"written: {folds.output}, for --presegmentation_dir"]
    if options.calibrate:
        lines.append(f"written: {folds.calibrate()}")
    content = {"presegmentations": str(folds.output), "folds": options.folds, "problems": problems}
    return Result(content, lines, problems)


class _Folds:
    """The folds of a bundle's training cases; finished trainings and cases are not repeated.

    ``settings`` are those of each training. Results are named after cases, so names are unique, ``scans`` included.
    """

    def __init__(self, bundle: Path, folds: int, settings: dict[str, Any], scans: Path | None = None) -> None:
        self.configs, self.root = bundle / "configs", bundle.absolute()
        if not (self.configs / "train_segmenter.json").is_file():
            raise UserError(f"{bundle}: found no configs/train_segmenter.json, expected it; name a bundle that has one")
        self.output, self.settings = self.root / "runs" / "folds", settings
        first = self._workflow("train_segmenter", kind="train", **settings).parser
        self.scan = first.get_parsed_content("scan")
        self.dataset_dir = str(first.get_parsed_content("dataset_dir"))
        scans_per_subject = first.get("scans_per_subject", 1)  # bundles of earlier versions have none
        training = training_cases(self.dataset_dir, scans_per_subject=scans_per_subject)
        self.cases = fold_cases(training, folds, scans_per_subject=scans_per_subject)
        self.others = labelled_cases(self.dataset_dir, "validation", scans_per_subject)
        self.others += inference_cases(scans, channels=self.scan.channels) if scans else []
        check_names([*self.cases, *self.others])
        self.folds = range(folds)
        self._check_earlier()

    def _check_earlier(self) -> None:
        """Refuse to resume trainings of other folds, whose networks saw cases that they are to leave out now."""
        file, now = self.output / "folds.json", [[Case.of(case["image"]).name, case["fold"]] for case in self.cases]
        if file.exists() and json_or_empty(file).get("folds") != now:
            raise UserError(
                f"{file}: found other folds or cases of an earlier run, expected {len(self.folds)} folds of "
                f"{len(now)} cases; give the same --folds and --dataset_dir, or move {self.root / 'runs'} away"
            )
        write_json(file, {"folds": now})

    def _workflow(self, *names: str, kind: str = "infer", **settings: Any) -> ConfigWorkflow:
        files = [str(self.configs / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, workflow_type=kind, bundle_root=str(self.root), **settings)
        workflow.initialize()
        return workflow

    def _weights(self, fold: int) -> str:
        """Return the file of a fold's segmenter."""
        return str(self.root / "runs" / f"segmenter_fold{fold}" / "segmenter.pt")

    def train_segmenters(self) -> None:
        """Write ``runs/segmenter_fold<k>``."""
        for fold in self.folds:
            print(f"fold {fold}: segmenter", flush=True)
            place = {"output_dir": str(self.root / "runs" / f"segmenter_fold{fold}")}
            settings = place | self.settings | {"folds": len(self.folds), "fold": fold}
            self._workflow("train_segmenter", kind="train", **settings).run()

    def write_presegmentations(self) -> list[str]:
        """Write out-of-fold probabilities of the training cases; of validation cases and scans, the folds' mean.

        Returns:
            one line for each run in which cases failed; these have no mean.
        """
        problems = []
        for fold in self.folds:
            own = [case for case in self.cases if case["fold"] == fold]
            place = self.output / f"fold_{fold}" / "validation"
            problems += self._segment(fold, own, place)
            for case in own if self.scan.has_frames else ():
                _write_mean([place], place, Case.of(case["image"]).name)
            problems += self._segment(fold, self.others, self.output / "members" / str(fold))
        for case in self.others:
            folders = [self.output / "members" / str(fold) for fold in self.folds]
            _write_mean(folders, self.output, Case.of(case["image"]).name)
        return problems

    def _segment(self, fold: int, cases: list[dict[str, Any]], place: Path) -> list[str]:
        """Write the probabilities of a fold's segmenter; return a line if cases failed."""
        listed = [{"image": case["image"]} for case in cases]
        network = {"_target_": "monai_pdddpm.bundle.load_segmenter", "network": "@network_def", "device": "@device"}
        settings: dict[str, Any] = {"start_step": 0, "members": 1, "calibrated": False, "outputs": "prob"}
        settings |= {"output_dir": str(place), "cases": listed, "model_file": self._weights(fold)}
        settings["network"] = network | {"candidates": "@model_file"}
        try:
            self._workflow("inference", **settings).run()
        except Exception as error:  # MONAI may wrap it
            if (message := user_message(error)) is None:
                raise
            return [f"fold {fold}: {message}"]
        return []

    def calibrate(self) -> Path:
        """Train a denoiser for each fold, and fit ``models/calibration.json`` on the out-of-fold answers of all."""
        fits = list(self._fits())
        fits[-1].cases = [case for fit in fits for case in fit.cases]
        fits[-1].fit()
        return fits[-1].path

    def _fits(self) -> Iterator[CalibrationFit]:
        """Return the fit of each fold, with its cases collected."""
        for fold in self.folds:
            print(f"fold {fold}: denoiser", flush=True)
            place = self.root / "runs" / f"denoiser_fold{fold}"
            files: dict[str, Any] = {"output_dir": str(place), "model_file": str(place / "model.pt")}
            files["segmenter_files"] = self._weights(fold)
            both = files | self.settings | {"folds": len(self.folds), "fold": fold}
            self._workflow("train", kind="train", **both).run()
            own = [case for case in self.cases if case["fold"] == fold]
            settings = {
                "model_file": files["model_file"],
                "data": frame_cases(own, self.scan),
                "handlers::1::collect_only": True,
                "handlers::1::model_file": "",
            }
            workflow = self._workflow("inference", "calibrate", **settings)
            workflow.run()
            yield next(h for h in workflow.parser.get_parsed_content("handlers") if isinstance(h, CalibrationFit))


def _write_mean(folders: Sequence[Path], place: Path, name: str) -> None:
    """Write the mean of a case that all folders have, of each frame of a time series to its own file."""
    files = [folder / name / f"{name}_prob.nii.gz" for folder in folders]
    if not all(file.is_file() for file in files):
        return
    images: list[Any] = [nib.load(file) for file in files]
    mean = np.mean([np.moveaxis(np.asarray(image.dataobj), -1, 0) for image in images], axis=0)  # (K, X, Y, Z[, T])
    for frame in range(mean.shape[4]) if mean.ndim > 4 else (None,):
        file = place / f"{name}{'' if frame is None else f' frame {frame}'}.nii.gz"
        write_nifti(file, mean if frame is None else mean[..., frame], images[0].header, highest=1.0)
