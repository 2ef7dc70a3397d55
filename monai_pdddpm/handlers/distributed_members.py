"""Members of a case drawn by several processes."""

from __future__ import annotations

from ignite.engine import Events

from monai_pdddpm.engines import CaseEvaluator


class DistributedMembersHandler:
    """Let the processes without cases draw members for the first one, see :meth:`PDDDPMInferer.serve`."""

    def attach(self, engine: CaseEvaluator) -> None:
        """Serve when ``engine`` starts; after its last case dismiss the processes that serve."""
        engine.add_event_handler(
            Events.STARTED, lambda engine: engine.inferer.serve(engine.network, engine.state.device)
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.inferer.dismiss())
