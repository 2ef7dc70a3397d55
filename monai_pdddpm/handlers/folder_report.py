"""A page for all cases of a run, and a note of each that failed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path

from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.datalist import case_name
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.utils.atomic_write import atomic_write, remove_partial_files
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.provenance import FAILURES
from monai_pdddpm.utils.ranks import is_first_rank
from monai_pdddpm.visualize.report import write_report

logger = logging.getLogger(__name__)


class FolderReport:
    """Write ``index.html`` over all cases of the output folder when a run ends, failures or not.

    A case that fails leaves ``failures/<case>.json`` (case, file, error), which goes when the case is done later; so
    the page knows of failures of earlier runs, and of other processes that write to the same folder. An ``index.html``
    that this program did not write is left alone, with a warning. What a killed run had begun to write is removed.

    Args:
        output_dir: one folder a case below it.
        write: false turns the handler off.
    """

    def __init__(self, output_dir: str | os.PathLike[str], write: bool = True) -> None:
        self.output_dir = Path(output_dir)
        self.write = write
        self._told = 0

    def attach(self, engine: CaseEvaluator) -> None:
        """Follow the cases of an engine."""
        if self.write:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._done)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, engine: CaseEvaluator) -> None:
        self._told = 0

    def _done(self, engine: CaseEvaluator) -> None:
        for item in engine.state.output:
            self._path(case_name(str(item["image"].meta["filename_or_obj"]))).unlink(missing_ok=True)

    def _note(self, engine: CaseEvaluator) -> None:
        for failure in engine.failures[self._told :]:
            path = self._path(failure["case"])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as part:
                    part.write_text(json.dumps(failure, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            except (OSError, UserError) as error:  # the cases after this one count for more
                logger.warning("%s: its failure could not be noted (%s)", failure["case"], error)
        self._told = len(engine.failures)

    def _finish(self, engine: CaseEvaluator) -> None:
        if not is_first_rank():  # by now the cases of all processes are done: CaseReport waited for them
            return
        for folder in (self.output_dir, self.output_dir / FAILURES):
            remove_partial_files(folder)
        with contextlib.suppress(OSError):  # not there, or not empty
            (self.output_dir / FAILURES).rmdir()
        try:
            print(f"all cases at a glance: {write_report(self.output_dir)}")
        except UserError as error:  # the results are there, which counts
            logger.warning("no index.html written: %s", error)

    def _path(self, case: str) -> Path:
        return self.output_dir / FAILURES / f"{case}.json"
