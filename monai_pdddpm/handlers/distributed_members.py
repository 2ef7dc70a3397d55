"""The place of helping processes in a run whose members are spread."""

from __future__ import annotations

from ignite.engine import Events

from monai_pdddpm.engines import CaseEvaluator


class DistributedMembersHandler:
    """Let the processes without cases help the first one, as :class:`monai_pdddpm.inferers.SpreadInferer` does."""

    def attach(self, engine: CaseEvaluator) -> None:
        """Serve when ``engine`` starts, and dismiss those that serve after its last case."""
        engine.add_event_handler(
            Events.STARTED, lambda engine: engine.inferer.serve(engine.network, engine.state.device)
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.inferer.dismiss())
