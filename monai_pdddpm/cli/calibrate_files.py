"""``calibrate-files``: calibrated maps from the probabilities that several networks wrote, without training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, CopyItemsd
from torch.utils.data import DataLoader

from monai_pdddpm.bundle.calibration_file import load_calibration
from monai_pdddpm.cli import Result
from monai_pdddpm.cli.datasets import DataSet, LabeledCase
from monai_pdddpm.cli.first_stage import folder_stage
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.data.checks import CheckImaged, CheckLabeld
from monai_pdddpm.data.datalist import check_names
from monai_pdddpm.data.dataset import CaseDataset, case_collate
from monai_pdddpm.data.loading import LoadImageScand
from monai_pdddpm.data.presegmentations import find_presegmentation
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.handlers import CalibrationFit, CaseFiles, CaseProgress, EvaluationReport, RunFiles
from monai_pdddpm.inferers.file_ensemble import FileEnsembleInferer
from monai_pdddpm.metrics.recalibration import LEAST_CASES
from monai_pdddpm.transforms import (
    CaseSummaryd,
    EnsembleMapsd,
    LabelValuesd,
    LoadPresegmentationd,
    SaveImageMapsd,
    SegmentationMetricsd,
)
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import provenance_record


def run(options: argparse.Namespace) -> Result:
    """Run ``calibrate-files``."""
    data = read_dataset(options.dataset)
    return calibrate_files(data, options.probabilities, options.output_dir)


def calibrate_files(data: DataSet, folders: Sequence[Path], output_dir: Path) -> Result:
    """Calibrate an ensemble from files on the labeled cases, and write maps, reports and a page for the others.

    The calibration is fitted and evaluated on the labeled cases that all folders have; it is valid for networks that
    were not trained on them. The answer is the mean of the networks' probabilities. It is an ensemble like that of a
    bundle, with the same statistics, calibration, maps, reports and page.

    Raises:
        UserError: if the folder for the results is not empty, labels have no names, two cases or folders are the same,
            there are too few labeled cases; or, after the last case, if a case failed.
    """
    file = output_dir / "calibration.json"
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise UserError(f"{output_dir}: found files in it, expected a new or empty folder; give another --output_dir")
    if not data.labels:
        raise UserError(f"{data.source}: found no names of labels, expected them; add labels to dataset.json")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"probabilities: found {', '.join(map(str, folders))}, expected each folder once; remove one")
    check_names([{"image": case.case} for case in data.cases])
    check_output_dir(output_dir)
    labeled, left_out, notes = [], [], [note for folder in folders for note in folder_stage(folder, data).notes]
    for case in data.labeled:
        try:
            for folder in folders:
                find_presegmentation(folder, case.case.name)
            labeled.append(case)
        except UserError as error:
            left_out.append(str(error))
    notes += [str(finding) for finding in data.findings if finding.kind == "no-label"]
    notes += [f"{len(left_out)} labeled cases are left out, the first since {left_out[0]}"] if left_out else []
    for note in notes:
        print(f"warning: {note}", flush=True)
    if len(labeled) <= LEAST_CASES:
        raise UserError(
            f"{data.source}: found {len(labeled)} labeled cases with probabilities of each network, expected at least "
            f"{LEAST_CASES + 1}; predict more"
        )
    new = [case for case in data.cases if case.list_key == "test"]
    pipeline = _Pipeline(data, [str(folder.absolute()) for folder in folders])
    pipeline.calibrate(labeled, output_dir)
    if new:
        pipeline.write_maps(new, output_dir)
    summary = output_dir / "evaluation_summary.json"
    content = {"calibration": str(file), "evaluation": str(summary), "labeled": len(labeled)}
    lines = [f"written: {path}" for path in (file, output_dir / "evaluation_cases.csv", summary)]
    lines += [f"written: {output_dir / 'index.html'}, {len(new)} cases" if new else "no case without a label is listed"]
    return Result(content | {"cases": len(new), "notes": notes}, lines)


class _Pipeline:
    """The parts of a bundle's inference, with files in place of networks."""

    def __init__(self, data: DataSet, folders: Sequence[str]) -> None:
        self.labels = {str(index): name for index, name in enumerate(data.labels.values())}
        self.values, self.ignored = list(data.labels), data.ignored
        self.spec = ScanSpec(channels=len(data.channels), missing="zero")
        self.inferer = FileEnsembleInferer(len(self.labels), folders)
        self.load = LoadPresegmentationd(folders, {str(value): name for value, name in data.labels.items()})

    def calibrate(self, cases: Sequence[LabeledCase], output_dir: Path) -> None:
        """Write ``calibration.json`` and the two files of the evaluation."""
        label = [LoadImageScand("label", channels=None), CheckLabeld("label", self.values, self.ignored)]
        metrics = SegmentationMetricsd(("preseg", "prob"), labels=self.labels)
        maps = [CaseSummaryd("seg", self.labels), metrics]
        handlers = [
            CalibrationFit(output_dir / "calibration.json", self.labels, self.inferer.config),
            EvaluationReport(output_dir),
        ]
        self._run(cases, [*label, LabelValuesd("label", self.values, self.ignored)], 1.0, maps, handlers)

    def write_maps(self, cases: Sequence[LabeledCase], output_dir: Path) -> None:
        """Write maps, reports and the page."""
        file = output_dir / "calibration.json"
        calibration = load_calibration(file)
        record = provenance_record(
            output_dir, ", ".join(self.inferer.config.folders), file, True, self.inferer.config, self.spec.missing
        )
        save = SaveImageMapsd(output_dir, self.labels, self.values)
        maps = [CaseSummaryd("seg", self.labels, calibration), save]
        files = CaseFiles(output_dir, self.labels, record, label_values=self.values)
        given = {"cases": len(cases), "unused": []}
        handlers = [files, RunFiles(output_dir, record, given=given)]
        self._run(cases, [], calibration.temperature, maps, handlers)

    def _run(
        self,
        cases: Sequence[LabeledCase],
        more: Sequence[Any],
        temperature: float,
        maps: Sequence[Any],
        handlers: Sequence[Any],
    ) -> None:
        before = [LoadImageScand("image", self.spec), CheckImaged("image", self.spec), CopyItemsd("image", 1, "scan")]
        entries: list[dict[str, Any]] = [
            {"image": c.case, "subject": c.subject} | ({"label": c.label} if more else {}) for c in cases
        ]
        dataset = CaseDataset(entries, Compose([*before, *more, self.load]))
        evaluator = CaseEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(dataset, batch_size=1, collate_fn=case_collate),
            network=torch.nn.Identity(),
            inferer=self.inferer,
            postprocessing=Compose([EnsembleMapsd("pred", len(self.labels), temperature), *maps]),
            val_handlers=[CaseProgress(), *handlers],
        )
        evaluator.run()
