"""A progress bar per epoch."""

from __future__ import annotations

from ignite.engine import Engine
from ignite.handlers.tqdm_logger import ProgressBar


class Progress:
    """Show ignite's progress bar with the loss, and nothing when the output is not a terminal."""

    def attach(self, engine: Engine) -> None:
        """Attach the bar to ``engine``."""
        bar = ProgressBar(desc="epoch", disable=None)
        bar.attach(engine, output_transform=lambda output: {"loss": output["loss"].item()})
