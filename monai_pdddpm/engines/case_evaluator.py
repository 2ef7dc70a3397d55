"""Inference over many cases; a bad case does not stop the others."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from monai_pdddpm.data.case import Case, cases_of_batch
from monai_pdddpm.data.dataset import CaseFailure, explain_failure
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.ranks import gathered, world_size

from .prepare_batch import PrepareCase

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator with one case per batch; it collects failures instead of stopping.

    It takes the items of :class:`monai_pdddpm.data.CaseDataset`. An exception while a case is read, inferred,
    post-processed or written ends only that case and is logged; :meth:`run` raises a summary at the end.
    ``state.seconds`` holds the seconds of each stage of the current case. After a failure, handlers of
    ``ITERATION_COMPLETED`` get an empty output.

    With several processes each has its own cases, or none. All raise the summary together, after the last one is done.

    Args:
        args: as :class:`monai.engines.SupervisedEvaluator`.
        kwargs: likewise; by default, a ``presegmentation`` of the batch goes to the inferer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        default = PrepareCase({"presegmentation": "presegmentation"})
        super().__init__(*args, **{"prepare_batch": default} | kwargs)
        self.failures: list[CaseFailure] = []

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all cases.

        Raises:
            UserError: after the last case, if a case failed in any process.
        """
        self.failures = []
        if self.state.epoch_length == 0:
            # MONAI skips a run without cases, but other processes wait for the handlers of this one, and a run that was
            # killed after its last case has not written its summary
            for event in (Events.STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
                self.fire_event(event)
        else:
            super().run(global_epoch)
        done = gathered((self.state.epoch_length, self.failures))
        failures = [failure for _, part in done for failure in part]
        if failures:
            names = ", ".join(failure["case"] for failure in failures[:5])
            more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
            count = sum(count for count, _ in done)
            reason = f": {failures[0]['error']}" if count == 1 else "; the reason of each is above"
            raise UserError(f"{len(failures)} of {count} cases failed ({names}{more}){reason}")

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        if "failure" in batchdata:
            return self._fail(engine, batchdata["failure"])
        batchdata = dict(batchdata)
        engine.state.seconds = dict(batchdata.pop("seconds", [{}])[0])
        image = batchdata["image"]
        case = cases_of_batch(image.meta)[0] if isinstance(image, MetaTensor) else Case.of("image")
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # of any kind: the next cases are processed
            logger.debug("case %s", case.name, exc_info=True)
            reason = explain_failure(error, case.file)
            return self._fail(engine, CaseFailure(case=case.name, file=case.file, error=reason))

    def _fail(self, engine: SupervisedEvaluator, failure: CaseFailure) -> list:
        self.failures.append(failure)
        if self.state.epoch_length != 1 or world_size() > 1:  # the error of `run` explains a single case
            logger.error("%s: %s", failure["case"], failure["error"])
        # handlers see a case without results
        engine.state.batch, engine.state.output = [], []
        return []
