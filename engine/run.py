"""One run of an instance: a task that calls the entrypoint, and the journal that it writes to.

A run ends in one of two ways. It finishes: the entrypoint returned or raised. Or it is stopped: the journal
is shut first, so that nothing it still does is recorded, then the task is cancelled. It knows not what comes
after: it tells its scheduler.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any, Protocol

from .entrypoint import WorkflowEntrypoint
from .errors import RunInterrupted, RunPostponed
from .journal import LiveJournal
from .records import TERMINATED, Claim, ErrorRecord, Key, Status, WorkflowContext, WorkflowEvent
from .rules import describe, encode
from .step import WorkflowStep

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .clock import Clock
    from .history import Watchers
    from .mocks import Mocks
    from .writer import Writer

GRACE_SECONDS = 5.0
"""How long a cancelled run may take to end. After that it is abandoned: it runs on, and records nothing."""


class RunKeeper(Protocol):
    """What a run tells whoever started it."""

    entrypoint: type[WorkflowEntrypoint]
    env: Any
    writer: Writer
    clock: Clock
    linger: float
    mocks: Mocks | None
    steps: int
    watchers: Watchers

    async def finished(self, run: Run, status: Status, output: bytes | None, error: ErrorRecord | None) -> None: ...
    def parkable(self, run: Run, waits: tuple[Key, ...]) -> None: ...
    def lost(self, run: Run, reason: str) -> None: ...
    def postponed(self, run: Run, reason: str, at_once: bool) -> None: ...


class Run:
    """A live run. `stopping` says why it is being stopped, once it is."""

    def __init__(self, claim: Claim, keeper: RunKeeper) -> None:
        self.number = claim.number
        self.address = claim.address
        self.stopping: str | None = None
        self.finishing = False
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once nothing more is written about this run."""
        self._keeper = keeper
        self.journal = LiveJournal(
            claim,
            self,
            writer=keeper.writer,
            clock=keeper.clock,
            linger=keeper.linger,
            mocks=keeper.mocks,
            steps=keeper.steps,
            watched=keeper.watchers.watched,
        )
        self.task = asyncio.get_running_loop().create_task(self._run(claim))

    async def _run(self, claim: Claim) -> None:
        output, error, status = None, None, Status.COMPLETE
        try:
            output = encode(await self._call(claim), "the output")
        except RunPostponed as postponement:
            if self.stopping is None:
                self._keeper.postponed(self, str(postponement), postponement.at_once)
            return
        except RunInterrupted as interruption:
            if self.stopping is None:
                self._keeper.lost(self, str(interruption))
            return
        except asyncio.CancelledError as cancellation:
            if self.stopping is not None:  # put aside, as happens all the time: nobody asks where it was
                return
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._keeper.lost(self, "the host cancelled it")
                return
            error, status = describe(cancellation), Status.ERRORED
        except Exception as failure:  # noqa: BLE001 - whatever a workflow raises is how it ended
            if self.stopping is not None:
                return
            error, status = describe(failure), Status.ERRORED
        if self.stopping is None:
            if (undoing := self.journal.undoing) is not None:
                terminated = undoing.name == TERMINATED.name
                output, error, status = None, undoing, Status.TERMINATED if terminated else Status.ERRORED
            self.finishing = True
            self.journal.close("the run has ended")
            await self._keeper.finished(self, status, output, error)

    def _call(self, claim: Claim) -> Awaitable[Any]:
        keeper, address = self._keeper, claim.address
        context = WorkflowContext(*address, claim.run, claim.code_digest)
        created = dt.datetime.fromtimestamp(claim.created / 1000, dt.UTC)
        event = WorkflowEvent(claim.params, created, address.id, address.workflow, claim.schedule)
        step = WorkflowStep(self.journal, keeper.clock)
        return step.course.conduct(keeper.entrypoint(context, keeper.env).run(event, step))

    def stop(self, reason: str) -> bool:
        """Shut the journal and cancel. False if the run is ending already."""
        if self.finishing or self.stopping is not None:
            return False
        self.stopping = reason
        self.journal.close(f"the run was stopped: {reason}")
        self.task.cancel(reason)
        return True

    async def ended(self) -> None:
        """Wait for the task to end, within bounds."""
        if self.task.done():
            return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resolve(*_: object) -> None:
            if not over.done():
                over.set_result(None)

        self.task.add_done_callback(resolve)
        timer = self._keeper.clock.call_later(GRACE_SECONDS, resolve)
        try:
            await over
        finally:
            timer.cancel()
            self.task.remove_done_callback(resolve)

    # What the journal says

    def on_parkable(self, waits: tuple[Key, ...]) -> None:
        self._keeper.parkable(self, waits)

    def on_drained(self) -> None:
        self._keeper.parkable(self, ())

    def on_lost(self, reason: str) -> None:
        self._keeper.lost(self, reason)

    def on_postponed(self, reason: str) -> None:
        self._keeper.postponed(self, reason, False)
