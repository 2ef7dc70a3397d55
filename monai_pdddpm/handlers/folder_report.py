"""Write the page for all cases of a run, and a note of each failed case."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path

from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.case import case_of
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.utils.atomic_write import atomic_write, remove_partial_files
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES
from monai_pdddpm.utils.ranks import is_first_rank
from monai_pdddpm.visualize.report import write_report

logger = logging.getLogger(__name__)


class FolderReport:
    """Write ``index.html`` for all cases of the output folder when a run ends, also after failures.

    A failed case leaves ``failures/<case>.json`` (case, file, error), which is removed when the case succeeds later. So
    the page also shows failures of earlier runs, and of other processes that write to the same folder. An
    ``index.html`` of another program is kept, with a warning. Partial files of a killed run are removed.

    Args:
        output_dir: folder with one folder for each case.
        write: False turns the handler off.
    """

    def __init__(self, output_dir: str | os.PathLike[str], write: bool = True) -> None:
        self.output_dir = Path(output_dir)
        self.write = write
        self._noted = 0

    def attach(self, engine: CaseEvaluator) -> None:
        """Follow the cases of an engine; attach it after the handlers that write the files of a case."""
        if self.write:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._remove_notes)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_notes)
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, engine: CaseEvaluator) -> None:
        self._noted = 0

    def _remove_notes(self, engine: CaseEvaluator) -> None:
        for item in engine.state.output:
            self._path(case_of(item["image"].meta).name).unlink(missing_ok=True)

    def _write_notes(self, engine: CaseEvaluator) -> None:
        for failure in engine.failures[self._noted :]:
            path = self._path(failure["case"])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as part:
                    part.write_text(json.dumps(failure, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            except (OSError, UserError) as error:  # the next cases matter more than this note
                logger.warning("%s: the note of its failure cannot be written (%s)", failure["case"], error)
        self._noted = len(engine.failures)

    def _finish(self, engine: CaseEvaluator) -> None:
        if not is_first_rank():  # CaseReport has waited for the cases of all processes
            return
        for folder in (self.output_dir, self.output_dir / FAILURES):
            remove_partial_files(folder)
        with contextlib.suppress(OSError):  # missing or not empty
            (self.output_dir / FAILURES).rmdir()
        try:
            print(f"overview of all cases: {write_report(self.output_dir)}")
        except UserError as error:  # the results are complete without the page
            logger.warning("no index.html written: %s", error)

    def _path(self, case: str) -> Path:
        return self.output_dir / FAILURES / f"{case}.json"
