"""A record of the runs that wrote to an output folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ignite.engine import Events

from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.utils.atomic_write import remove_partial_files
from monai_pdddpm.utils.provenance import RUNS, read_runs
from monai_pdddpm.utils.ranks import is_first_rank

from .case_report import write_json

logger = logging.getLogger(__name__)


class ProvenanceHandler:
    """Write down in ``run.json`` of the output folder which code, weights and settings a run goes with.

    A run that is the same as one that is there, such as one that goes on after a kill, adds nothing. A ``run.json``
    that this program did not write is left alone, with a warning.

    Args:
        output_dir: one folder a case below it.
        record: from :func:`monai_pdddpm.data.provenance_record`.
    """

    def __init__(self, output_dir: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        self.path = Path(output_dir) / RUNS
        self.record = dict(record)

    def attach(self, engine: CaseEvaluator) -> None:
        """Write before the first case."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: CaseEvaluator) -> None:
        """Add the run, when it has cases to do."""
        if not engine.state.epoch_length or not is_first_rank():
            return
        runs = read_runs(self.path.parent)
        if runs is None:
            logger.warning("%s: not of this program, so this run is not recorded; move it elsewhere", self.path)
        elif self.record["id"] not in (run["id"] for run in runs):
            remove_partial_files(self.path.parent, self.path.suffix)
            begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
            write_json(self.path, {"runs": [*runs, {"begun": begun, **self.record}]})
