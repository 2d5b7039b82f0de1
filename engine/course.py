"""How one run of a workflow goes in the host's own code: to which of its recorded steps it has come, and how it ends.

What a step is, and what its body does, is not known here; nor who keeps the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, Final

from .errors import (
    InstanceAlreadyExists,
    MomentTooFar,
    NonDeterminismError,
    QueueFull,
    QuotaExceeded,
    RunInterrupted,
    RunOver,
    WaitTimeout,
    revive,
)
from .replay import Replay
from .rollback import Rollback, replayed
from .rules import describe

if TYPE_CHECKING:
    from .clock import Clock
    from .protocol import Journal
    from .records import Key, StepKind, StepRecord

_ON_RECORD: Final = (InstanceAlreadyExists, MomentTooFar, QueueFull, QuotaExceeded)


class Course:
    """That of one run, by its journal."""

    __slots__ = ("_counts", "_journal", "_recorded", "elsewhere", "replay", "rollback", "unvisited")

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self.elsewhere = False
        """Whether somebody took the journal, and runs the workflow there."""
        self._counts: dict[tuple[StepKind, str], int] = {}
        self._recorded: dict[Key, StepRecord] = {(r.kind, r.name, r.count): r for r in journal.history}
        self.replay = Replay(journal.history, (journal.workflow_name, journal.instance_id), patient=not journal.frozen)
        self.unvisited = self.replay.unvisited
        """Recorded outcomes that it has yet to come to."""
        self.rollback = Rollback(journal, clock)

    def leave(self) -> None:
        """It goes on elsewhere: the replay is compared with the history there, and steps are taken back there."""
        self.replay.clear()
        self.elsewhere = True

    async def visit(self, kind: StepKind, name: str) -> tuple[int, StepRecord | None]:
        """It comes to a step: the how manyth of that name, and what is recorded of it, when it is its turn."""
        count = self._counts.get((kind, name), 0) + 1
        while (kind, name, count) in self.replay.skipped:
            count += 1
        self._counts[kind, name] = count
        key = (kind, name, count)
        record = self._recorded.get(key)
        if record is not None:
            self.unvisited.discard(key)
            if kind == "do":
                self.replay.skip(name, count, before=record.attempts + 1 if record.state == "retrying" else math.inf)
            await self.replay.recorded(key)
        return count, record

    def given_up(self, name: str, count: int) -> None:
        """Nobody will settle an attempt, nor ask for what was recorded in its body."""
        self.replay.skip(name, count)
        with contextlib.suppress(RunOver):
            self._journal.stopped(name, count)

    @contextlib.asynccontextmanager
    async def outcome(self) -> AsyncIterator[None]:
        """What comes is on record and waits for its turn; what was refused is raised as it will be in each replay."""
        try:
            yield
        except _ON_RECORD as refusal:
            await self.replay.arrived()
            raise revive(describe(refusal)) from None
        except WaitTimeout:
            await self.replay.arrived()
            raise
        await self.replay.arrived()

    def begin(self, run: Awaitable[Any]) -> asyncio.Task[Any]:
        """A replay beside whoever watches it."""
        return asyncio.ensure_future(self.replay.conduct(run))

    async def conduct(self, run: Awaitable[Any]) -> Any:
        """Await a run. When it fails, or is to be taken back, its steps are; then its error is raised."""
        journal = self._journal
        if journal.undoing is None:
            try:
                output = await self.replay.conduct(run)
                self.check()
                return output
            except (RunInterrupted, RunOver):
                raise
            except Exception as error:
                if self.rollback and not self.elsewhere:
                    await journal.undo(describe(error))
                    await self.rollback.run(describe(error), self._recorded, ())
                raise
        task = self.begin(run)
        try:
            await replayed(task, journal, self.unvisited)
            if self.elsewhere:
                return await task
            await self.rollback.run(journal.undoing, self._recorded, self.unvisited)
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
        raise revive(journal.undoing)

    def check(self) -> None:
        """After `run` returned: what an earlier run recorded must have been reached by this one too."""
        if self.unvisited:
            kind, name, count = min(self.unvisited)
            raise NonDeterminismError(
                f"the run ended without reaching {kind} {name!r} number {count}, which was recorded earlier"
                f" ({len(self.unvisited)} such); did the code change, or does it depend on time or chance?"
            )
