"""Everything that is written once per run: the record of the run, notes of failures, and the page of all cases."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_pdddpm.data.case import case_of
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.utils.atomic_write import remove_partial_files, write_json
from monai_pdddpm.utils.chosen_outputs import chosen_outputs
from monai_pdddpm.utils.errors import UserError, some_files, without_stops
from monai_pdddpm.utils.provenance import FAILURES, RUNS, read_runs
from monai_pdddpm.utils.ranks import gathered, is_first_rank
from monai_pdddpm.visualize.report import write_report

logger = logging.getLogger(__name__)


class RunFiles:
    """Write ``run.json``, ``failures/<case>.json``, ``index.html`` and ``cases.csv`` into the output folder.

    ``run.json`` lists code, weights and settings of each run that wrote to the folder, the number of cases that it was
    given, and what lay beside them; a run that is resumed replaces the last two. A failed case leaves a note (case,
    file, error), which is removed once the case succeeds, so that the page shows failures of earlier runs and of other
    processes too. A file of these names that this package did not write stays, with a warning.

    Args:
        output_dir: folder of the results, with one folder per case.
        record: record of the run, see :func:`monai_pdddpm.utils.provenance.provenance_record`.
        outputs: ``page`` writes notes of failures, ``index.html`` and ``cases.csv``; see
            :func:`monai_pdddpm.utils.chosen_outputs.chosen_outputs`.
        given: number of cases and what lay beside them, see :func:`monai_pdddpm.data.given_input`; the latter is named
            in a printed line, in ``run.json`` and on the page. None prints neither this line nor the summary.

    Raises:
        UserError: if an output is unknown.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        record: Mapping[str, Any],
        outputs: str | Sequence[str] = "default",
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.record = dict(record)
        self.page = "page" in chosen_outputs(outputs)
        self.given = dict(given or {"cases": 0, "unused": []})
        self._noted = self._done = 0

    def attach(self, engine: CaseEvaluator) -> None:
        """Follow the cases of an engine."""
        engine.add_event_handler(Events.STARTED, self._add_run)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._summarize)
        if self.page:
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._remove_note)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_notes)
            engine.add_event_handler(Events.COMPLETED, self._tidy)
            engine.add_event_handler(Events.COMPLETED, self._write_page)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _add_run(self, engine: CaseEvaluator) -> None:
        self._noted = self._done = 0
        if not is_first_rank():
            return
        if self.given["unused"]:
            print(f"{self.given['cases']} cases were given; not used: {some_files(self.given['unused'])}", flush=True)
        path = self.output_dir / RUNS
        runs = read_runs(self.output_dir)
        if runs is None:
            logger.warning("%s: not written by monai_pdddpm, so this run is not recorded; move the file away", path)
            return
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        earlier = [run for run in runs if run["id"] == self.record["id"]]
        run = (earlier[0] if earlier else {"begun": begun, **self.record}) | {"input": self.given}
        if run not in runs and (earlier or engine.state.epoch_length):
            remove_partial_files(self.output_dir, path.suffix)
            write_json(path, {"runs": [*(other for other in runs if other not in earlier), run]})

    def _count(self, engine: CaseEvaluator) -> None:
        self._done += len(engine.state.output)

    def _summarize(self, engine: CaseEvaluator) -> None:
        """Print what became of each case that was given."""
        parts = gathered((engine.state.epoch_length or 0, self._done, len(engine.failures)))
        pending, done, failed = (sum(numbers) for numbers in zip(*parts, strict=True))
        if is_first_rank() and (cases := self.given["cases"]):
            print(f"{cases} cases: {done} done, {failed} failed, {cases - pending} finished before", flush=True)
            if done + failed != pending:
                raise RuntimeError(f"{done + failed} of {pending} cases were processed; please report this")

    def _remove_note(self, engine: CaseEvaluator) -> None:
        for item in engine.state.output:
            self._note(case_of(item["image"].meta).name).unlink(missing_ok=True)

    def _add_notes(self, engine: CaseEvaluator) -> None:
        for failure in engine.failures[self._noted :]:
            try:
                write_json(self._note(failure["case"]), failure)
            except (OSError, UserError) as error:  # continue with the next case
                logger.warning("%s: its failure could not be noted (%s)", failure["case"], error)
        self._noted = len(engine.failures)

    def _tidy(self, engine: CaseEvaluator) -> None:
        """Remove what killed runs left; only when no process writes any more, for which `_summarize` waited."""
        if not is_first_rank():
            return
        for folder in (self.output_dir, self.output_dir / FAILURES):
            remove_partial_files(folder)
        with contextlib.suppress(OSError):  # not there, or not empty
            (self.output_dir / FAILURES).rmdir()

    def _write_page(self, engine: CaseEvaluator) -> None:
        if not is_first_rank():
            return
        try:
            print(f"overview of all cases: {write_report(self.output_dir)}")
        except (OSError, UserError) as error:  # the results are complete without the page
            logger.warning("the page of all cases is not written: %s", error)

    def _stop(self, engine: CaseEvaluator, error: BaseException) -> NoReturn:
        """Write the page of the cases so far, if any, and raise the error that ends the run, such as Ctrl-C."""
        with without_stops():  # a second Ctrl-C leaves the page alone
            if engine.failures or any(self.output_dir.glob("*/*_report.json")):
                self._write_page(engine)
        raise error

    def _note(self, case: str) -> Path:
        return self.output_dir / FAILURES / f"{case}.json"
