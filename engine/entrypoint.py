"""What a host registers: the one question that the engine asks of the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .records import WorkflowContext
    from .step import WorkflowStep


class WorkflowEntrypoint:
    """Base of what is registered with an engine.

    A new object is made for each run: nothing kept on it survives.
    """

    def __init__(self, ctx: WorkflowContext, env: Any) -> None:
        self.ctx = ctx
        self.env = env

    async def run(self, event: Any, step: WorkflowStep) -> Any:
        """The workflow.

        Only what steps return is kept; everything else happens again when the run is replayed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define run(event, step)")
