"""How a run goes: bars with the time left, which only a terminal shows, and the loss for MONAI's tracking."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar


class Progress:
    """Show a bar over the iterations of an epoch of training, with the loss."""

    def attach(self, engine: Engine) -> None:
        """Attach the bar to ``engine``."""
        bar = ProgressBar(desc="epoch", disable=None)
        bar.attach(engine, output_transform=lambda output: {"loss": output["loss"].item()})


class CaseProgress:
    """Show a bar over the cases of an inference or evaluation."""

    def attach(self, engine: Engine) -> None:
        """Attach the bar to ``engine``."""
        ProgressBar(desc="cases", disable=None, persist=True, unit="case").attach(engine)


class TrackedLoss:
    """Leave the loss alone in a trainer's output, where ``--tracking mlflow`` looks for it.

    MONAI's tracking expects the list of items that a trainer makes by splitting its batch; ours does not, since nothing
    else asks for it. To be attached after all handlers that need more than the loss.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output is a dictionary with ``loss``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replace the output by ``[{"loss": ...}]``."""
        state: Any = engine.state  # ignite says that the output is a number
        state.output = [{"loss": state.output["loss"]}]
