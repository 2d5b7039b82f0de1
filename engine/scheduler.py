"""Which instances of one workflow run: as many as its concurrency, those that ran before first, then in
order.

The queue is in the store. Here are only the runs that are alive, and one timer for the earliest deadline of
all the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from .background import Background
from .clock import Clock, Timer, resolve
from .endings import End, Endings
from .errors import StorageError
from .records import Address, Claim, ErrorRecord, Key, Pull, Standing, Status
from .run import Run
from .slots import Slots
from .store import ending, queue
from .timetable import Occasion, Timetable

if TYPE_CHECKING:
    from .entrypoint import WorkflowEntrypoint
    from .history import Watchers
    from .mocks import Mocks
    from .options import Retention
    from .reader import Reader
    from .schedules import Schedule
    from .sharing import WorkflowLimits
    from .store.kin import Answer
    from .writer import Writer

_log = logging.getLogger("cloister.engine")


class Scheduler:
    """The runs of one workflow."""

    def __init__(
        self,
        workflow_name: str,
        entrypoint: type[WorkflowEntrypoint],
        env: Any,
        concurrency: int,
        retention: Retention,
        limits: WorkflowLimits,
        schedules: tuple[Schedule, ...],
        *,
        writer: Writer,
        reader: Reader,
        watchers: Watchers,
        clock: Clock,
        linger: float,
        mocks: Mocks | None = None,
    ) -> None:
        self.workflow_name, self.entrypoint, self.env = workflow_name, entrypoint, env
        self.writer, self.reader, self.clock, self.linger, self.mocks = writer, reader, clock, linger, mocks
        self.retention, self.watchers = retention, watchers
        self.active: dict[Address, Run] = {}
        self.troubles: dict[Address, str] = {}
        self.started = self.parked = self.completed = self.losses = self.postponements = 0
        self.steps = limits.steps
        self.slots, self.endings = Slots(concurrency, limits), Endings()
        self.background = Background(writer, clock)
        self._doomed: Counter[Address] = Counter()
        self._backlog = True  # until the store has said otherwise
        self._pulling = self._again = self._doubt = False
        self._timer: Timer | None = None
        self._wake_at = 0
        first = writer.submit(queue.recover, workflow_name, clock.now(), retention)  # before anything is asked of it
        longest = retention.longest_ms()
        for schedule in schedules:  # what is wrong with one is said now, not when it fires
            schedule.creation(0, longest)
        work = self.background
        occasion = Occasion(workflow_name, longest, clock, work.insist, self.queued, work.spawn, writer.submit)
        self.timetable = Timetable(schedules, occasion)
        work.spawn(self._recover(first))

    async def _recover(self, first: asyncio.Future[None]) -> None:
        try:
            await first
        except StorageError:
            await self.background.nap()
            await self.background.insist(queue.recover, self.workflow_name, self.clock.now(), self.retention)
        self.queued()
        await self.timetable.open()

    async def close(self) -> None:
        """Stop the runs without counting them as lost; they are queued for the next owner of the database."""
        self.background.close()
        self.timetable.close()
        if self._timer is not None:
            self._timer.cancel()
        finishing = [run.task for run in self.active.values() if run.finishing]
        for run in tuple(self.active.values()):
            if run.stop("closed"):
                self.background.spawn(self.retire(run, ()))
        try:
            await self.background.ended(finishing)
        finally:
            self.endings.close()

    def answered(self, answer: Answer) -> None:
        """What a step of an instance awaits has ended."""
        if (run := self.active.get(answer.parent)) is not None:
            run.journal.deliver(answer.name, answer.count, answer.value, "child")

    def ended_with(self, address: Address, error: ErrorRecord) -> None:
        """An instance was ended by what another one did."""
        run = self.active.get(address)
        if run is not None and run.stop("terminated"):
            self.background.spawn(self.bury(run))
        self.ended(address, End(Status.TERMINATED, None, error))

    # The queue

    def admits(self, scope: str) -> bool:
        """Whether a new instance may start at once: a slot is free, and nobody waits in the store who could have it."""
        if self._backlog or self._pulling or self.background.closed:
            return False
        return self.slots.admits(scope)

    def queued(self) -> None:
        """Some instance is queued in the store."""
        self._backlog = True
        if self._pulling:
            self._again = True
        elif self.slots.free() > 0:
            self._pump()

    def look(self, *, doubtful: bool) -> None:
        """Something was changed that may be to be run; or, if that is doubtful, nobody knows what the store holds."""
        if doubtful:
            self._doubt = True
        else:
            self._backlog = True
        self._pump()

    def _pump(self) -> None:
        if self._pulling:
            self._again = True
        elif not self.background.closed:
            self._pulling = True
            self.background.spawn(self._pull())

    async def _pull(self) -> None:
        while not self.background.closed:
            self._again = False
            if self._doubt and not self.slots.reserved:
                alive = tuple(run.number for run in self.active.values())
                await self.background.insist(queue.reclaim, self.workflow_name, alive, self.clock.now())
                self._doubt = False
            turn = self.slots.turn()
            try:
                pull = await self.writer.submit(queue.pull, self.workflow_name, self.clock.now(), turn)
            except StorageError:
                self._doubt = True
                await self.background.nap()
                continue
            self._take(pull)
            more = pull.backlog or self.slots.relents()  # while it was asked
            if not (pull.overdue or self._again or (more and self.slots.free() > 0)):
                break
        self._pulling = False

    def _take(self, pull: Pull) -> None:
        self._backlog = pull.backlog
        self.slots.gave(pull)
        for claim in pull.claims:
            self.start(claim)
        for address, reason in pull.unread:
            self._tell(address, f"could not be read, and is tried again later: {reason}")
        self._alarm(pull.wake_at)

    def start(self, claim: Claim) -> None:
        if self.background.closed:
            self.background.spawn(self._give_back(claim))
        elif claim.address not in self._doomed:
            self.started += 1
            self.slots.take(claim.address.scope)
            self.active[claim.address] = Run(claim, self)

    async def _give_back(self, claim: Claim) -> None:
        await self.background.insist(queue.release, claim.number, (), self.clock.now())

    def _alarm(self, wake_at: int | None) -> None:
        if wake_at is None or self.background.closed or (self._timer is not None and self._wake_at <= wake_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = wake_at
        self._timer = self.clock.call_at(wake_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pump()

    def doom(self, address: Address) -> None:
        """No run of this instance begins until it is spared."""
        self._doomed[address] += 1

    def spare(self, address: Address) -> None:
        self._doomed[address] -= 1
        self._doomed += Counter()  # forget those at nought

    # How runs end

    async def finished(self, run: Run, status: Status, output: bytes | None, error: ErrorRecord | None) -> None:
        now = self.clock.now()
        await self.background.insist(ending.finish, run.number, status, output, error, now, run.journal.childless)
        self.completed += 1
        self.leave(run)
        self.ended(run.address, End(status, output, error))

    def ended(self, address: Address, end: End) -> None:
        self.troubles.pop(address, None)
        self.endings.tell(address, end)

    def parkable(self, run: Run, waits: tuple[Key, ...]) -> None:
        if run.stop("parked" if waits else "paused"):
            self.parked += 1
            self.background.spawn(self.retire(run, waits))

    def lost(self, run: Run, reason: str) -> None:
        if run.stop("lost"):
            self.losses += 1
            self._tell(run.address, f"lost its run, and goes on from its records: {reason}")
            self.background.spawn(self.account(run, reason))

    def postponed(self, run: Run, reason: str, at_once: bool) -> None:
        if run.stop("postponed"):
            self.postponements += 1
            if not at_once:
                self._tell(run.address, f"could not be run, and is tried again later: {reason}")
            self.background.spawn(self.retire(run, ()) if at_once else self._put_off(run))

    async def _put_off(self, run: Run) -> None:
        await run.ended()
        standing = await self.background.insist(queue.postpone, run.number, run.journal.progressed, self.clock.now())
        self.leave(run)
        if standing is not None:
            self.react(standing)

    async def retire(self, run: Run, waits: tuple[Key, ...]) -> None:
        await run.ended()
        standing = await self.background.insist(queue.release, run.number, waits, self.clock.now())
        self.leave(run)
        if standing is not None:
            self.react(standing)

    async def account(self, run: Run, reason: str) -> None:
        """Count a lost run, and see to it that the instance runs again."""
        await run.ended()
        progressed = run.journal.progressed
        standing = await self.background.insist(queue.lose, run.number, progressed, reason, self.clock.now())
        self.leave(run)
        if standing is not None:
            self.react(standing)
            if standing.status is Status.ERRORED:
                self.ended(run.address, End(Status.ERRORED, None, standing.error))

    async def bury(self, run: Run) -> None:
        await run.ended()
        self.leave(run)

    def _tell(self, address: Address, trouble: str) -> None:
        """What keeps an instance from going on is no part of its history, but somebody should hear of it."""
        self.troubles[address] = trouble
        quoted = trouble.replace("\n", "\n    | ")  # it may be what a workflow has said
        _log.warning("%s %r of %r %s", address.workflow, address.id, address.scope, quoted)

    def leave(self, run: Run) -> None:
        if run.stopping not in {"lost", "postponed"}:
            self.troubles.pop(run.address, None)
        if self.active.pop(run.address, None) is not None:
            self.slots.give_back(run.address.scope)
        resolve(run.left)
        if self._backlog or run.address.scope in self.slots.held:
            self._pump()

    def react(self, standing: Standing) -> None:
        if standing.status is Status.QUEUED:
            self.queued()
        elif standing.status is Status.WAITING:
            self._alarm(standing.wake_at)
