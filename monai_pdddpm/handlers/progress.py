"""Progress bars, and small handlers that adapt ignite to MONAI's bundles."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from ignite.handlers.tqdm_logger import ProgressBar

from monai_pdddpm.engines import CaseEvaluator


class Progress:
    """Show a bar over the iterations of an epoch of training, with the loss; print the time left after each epoch."""

    def attach(self, engine: Engine) -> None:
        """Attach the bar to ``engine``."""
        bar = ProgressBar(desc="epoch", disable=None)
        bar.attach(engine, output_transform=lambda output: {"loss": output["loss"].item()})
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.print_time_left)

    def begin(self, engine: Engine) -> None:
        """Remember when and at which epoch this run started."""
        self._start = time.monotonic(), engine.state.epoch

    def print_time_left(self, engine: Engine) -> None:
        """Print the time that the remaining epochs take at the mean rate of this run."""
        state, (start, first) = engine.state, self._start
        left = (time.monotonic() - start) / (state.epoch - first) * (int(state.max_epochs or 0) - state.epoch)
        text = f"{left / 3600:.1f} hours" if left > 5400 else f"{left / 60:.0f} minutes"
        print(f"epoch {state.epoch} of {state.max_epochs}: about {text} left", flush=True)


class CaseProgress:
    """Show a bar over the cases of an inference or evaluation."""

    def attach(self, engine: Engine) -> None:
        """Attach the bar to ``engine``."""
        ProgressBar(desc="cases", disable=None, persist=True, unit="case").attach(engine)


class TrackedLoss:
    """Reduce a trainer's output to the loss, where ``--tracking mlflow`` looks for it.

    MONAI's tracking expects the list of items that a trainer makes by splitting its batch; ours keeps the batch whole.
    Attach this handler after all others that need more than the loss.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output is a dictionary with ``loss``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replace the output by ``[{"loss": ...}]``."""
        state: Any = engine.state  # ignite types the output as a number
        state.output = [{"loss": state.output["loss"]}]


class ReraiseExceptions:
    """Raise the exceptions of a validation unchanged, Ctrl-C included, so that only the trainer logs them.

    Attach this handler before MONAI's ``StatsHandler``, which would log the traceback first.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a validation's ``engine``."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: Engine, error: BaseException) -> NoReturn:
        """Raise ``error``."""
        raise error


class Attached:
    """Attach a handler that is defined elsewhere in the configuration.

    MONAI's checks of a bundle expect a dictionary for each handler, so a list of handlers cannot hold a reference.
    """

    def __init__(self, handler: EMAHandler) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Attach the handler to ``engine``."""
        self.handler.attach(engine)


class DistributedMembersHandler:
    """Let the processes without cases draw members for the first one, see :meth:`PDDDPMInferer.serve`."""

    def attach(self, engine: CaseEvaluator) -> None:
        """Serve when ``engine`` starts; after its last case dismiss the processes that serve."""
        engine.add_event_handler(
            Events.STARTED, lambda engine: engine.inferer.serve(engine.network, engine.state.device)
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.inferer.dismiss())
