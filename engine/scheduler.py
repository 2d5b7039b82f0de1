"""Which instances of one workflow run: as many as its concurrency, those that ran before first, then in
order.

The queue is in the store. Here are only the runs that are alive, and one timer for the earliest deadline of
all the others. What an acknowledged write means for a live run is done in the order of acknowledgement, by
callbacks, so that it happens whether or not the caller still waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from .clock import Clock, Timer, resolve
from .errors import CreationRateExceeded, EngineClosed, EngineError, InstanceNotFound, RunOver, StorageError
from .records import Address, Claim, ErrorRecord, Key, Pull, Standing, Status
from .run import TERMINATED, Run
from .schedules import Schedule
from .sharing import Allowance, Turn, WorkflowLimits
from .store import control, ending, events, instances, queue, undoing
from .store.kin import Answer
from .store.store import Store
from .store.surgery import fork, override
from .store.wipe import delete, restart
from .timetable import Occasion, Timetable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .history import Watchers
    from .mocks import Mocks
    from .options import Creation, Retention
    from .reader import Reader
    from .step import WorkflowEntrypoint
    from .writer import Writer

STORAGE_NAP_SECONDS = 1.0
_log = logging.getLogger("cloister.engine")

P = ParamSpec("P")
T = TypeVar("T")


class End(NamedTuple):
    """How an instance ended."""

    status: Status
    output: bytes | None = None
    error: ErrorRecord | None = None


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
        self._concurrency = concurrency
        self.steps = limits.steps
        self._limits, self._allowance = limits, Allowance(limits)
        self._reserved = 0
        self._busy: Counter[str] = Counter()  # of each scope, those reserved included
        self._held: set[str] = set()  # scopes that have something queued, and all that they may running
        self._last: str | None = None  # the scope that got the last slot
        self._doomed: Counter[Address] = Counter()
        self._backlog = True  # until the store has said otherwise
        self._pulling = self._again = self._doubt = self._closed = False
        self._timer: Timer | None = None
        self._wake_at = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._naps: set[asyncio.Future[None]] = set()
        self._listeners: dict[Address, list[asyncio.Future[End]]] = {}
        first = writer.submit(
            queue.recover, workflow_name, clock.now(), retention
        )  # before whatever is asked of the workflow
        longest = retention.longest_ms()
        for schedule in schedules:  # what is wrong with one is said now, not when it fires
            schedule.creation(0, longest)
        occasion = Occasion(workflow_name, longest, clock, self._insist, self.queued, self._spawn, writer.submit)
        self.timetable = Timetable(schedules, occasion)
        self._spawn(self._recover(first))

    async def _recover(self, first: asyncio.Future[None]) -> None:
        try:
            await first
        except StorageError:
            await self._nap()
            await self._insist(queue.recover, self.workflow_name, self.clock.now(), self.retention)
        self.queued()
        await self.timetable.open()

    async def close(self) -> None:
        """Stop the runs without counting them as lost; they are queued for the next owner of the database."""
        self._closed = True
        self.timetable.close()
        if self._timer is not None:
            self._timer.cancel()
        for nap in self._naps:
            nap.set_result(None)
        ending = [run.task for run in self.active.values() if run.finishing]
        for run in tuple(self.active.values()):
            if run.stop("closed"):
                self._spawn(self._retire(run, ()))
        try:
            while self._tasks or ending:
                await asyncio.wait({*self._tasks, *ending})
                ending = []
        finally:
            for listeners in self._listeners.values():
                for listener in listeners:
                    if not listener.done():
                        listener.set_exception(EngineClosed())
                        listener.exception()  # whoever waits is told; if nobody does, that is no news

    # Verbs of the binding: each reacts to the acknowledgement, then answers

    async def create(self, address: Address, creation: Creation) -> None:
        now = self.clock.now()
        self._allowance.take(address.scope, 1, now)
        claim = self._admits(address.scope)
        if claim:
            self._reserve(address.scope, 1)
        write = self.writer.submit(instances.create, self.workflow_name, address.scope, creation, now, claim)

        def created(write: asyncio.Future[int]) -> None:
            if claim:
                self._reserve(address.scope, -1)
            if not self._stored(write):
                return
            if claim:
                self._start(Claim(write.result(), address, 1, creation.params, now))
            elif self._limits.full(self._busy[address.scope]):
                self._held.add(address.scope)
            else:
                self.queued()

        await _after(write, created)

    async def create_batch(self, creations: list[tuple[str, Creation]]) -> list[bool]:
        """Which of them were created, each in its scope; the others exist already."""
        for scope, count in Counter(scope for scope, _ in creations).items():
            self._allowance.take(scope, count, self.clock.now())
        write = self.writer.submit(instances.create_batch, self.workflow_name, creations, self.clock.now())

        def created(write: asyncio.Future[list[bool]]) -> None:
            if self._stored(write):
                self.queued()

        return await _after(write, created)

    async def terminate(self, address: Address) -> None:
        run = self.active.get(address)
        self._doomed[address] += 1
        write = self.writer.submit(control.terminate, address, TERMINATED, self.clock.now())
        stopped = run is not None and run.stop("terminated")

        def terminated(write: asyncio.Future[None]) -> None:
            self._doomed[address] -= 1
            self._doomed += Counter()
            failed = not self._stored(write)
            if not failed:
                self._ended(address, End(Status.TERMINATED, None, TERMINATED))
            if run is not None and stopped:
                self._spawn(self._account(run, "storage failed") if failed else self._bury(run))

        await _after(write, terminated)

    async def undo(self, address: Address) -> None:
        """Terminate, taking back the steps first: that is what the instance's next run does."""
        write = self.writer.submit(undoing.undo_later, address, TERMINATED, self.clock.now())
        run = self.active.get(address)
        stopped = run is not None and run.journal.undoing is None and run.stop("to be taken back")

        def begun(write: asyncio.Future[Standing]) -> None:
            failed = not self._stored(write)
            live = self.active.get(address)  # it may have been claimed meanwhile
            if run is not None and stopped:
                self._spawn(self._account(run, "storage failed") if failed else self._retire(run, ()))
            elif not failed and live is not None and live.journal.undoing is None and live.stop("to be taken back"):
                self._spawn(self._retire(live, ()))
            elif not failed and write.result().status is Status.TERMINATED:
                self._ended(address, End(Status.TERMINATED, None, TERMINATED))
            elif not failed:
                self._react(write.result())

        await _after(write, begun)

    async def restart(self, address: Address, step: Key | None) -> None:
        self._allowance.take(address.scope, 1, self.clock.now())
        await asyncio.shield(self._spawn(self._alone(address, restart, step)))

    async def override(self, address: Address, *what: Any) -> None:
        await asyncio.shield(self._spawn(self._alone(address, override, *what)))

    async def allowed(self, scope: str) -> None:
        """Wait until the scope may create one more instance, and count it."""
        while True:
            try:
                return self._allowance.take(scope, 1, self.clock.now())
            except CreationRateExceeded as refusal:
                if refusal.retry_after_ms is None:
                    raise
                await self.clock.sleep(refusal.retry_after_ms / 1000)

    async def fork(self, address: Address, step: Key | None, creation: Creation) -> bool:
        """Whether an instance of that id did not exist before."""
        self._allowance.take(address.scope, 1, self.clock.now())
        made = await asyncio.shield(self.writer.submit(fork, address, step, creation, self.clock.now()))
        self.queued()
        return made

    async def delete(self, address: Address) -> None:
        await asyncio.shield(self._spawn(self._alone(address, delete)))
        for listener in self._listeners.pop(address, ()):
            if not listener.done():
                listener.set_exception(InstanceNotFound(f"instance {address.id!r} was deleted"))
                listener.exception()

    async def _alone(self, address: Address, verb: Callable[..., None], *more: Any) -> None:
        """Do this to an instance once its run has ended, before the next one begins."""
        self._doomed[address] += 1
        try:
            while (run := self.active.get(address)) is not None:
                if run.stop("stopped for good"):
                    await run.ended()
                    self._leave(run)
                else:
                    await asyncio.shield(run.left)
            await self.writer.submit(verb, address, *more, self.clock.now())
            self._backlog = True
        except EngineError:  # what it was doing goes on after all
            self._doubt = True
            raise
        finally:
            self._doomed[address] -= 1
            self._doomed += Counter()  # forget those at nought
            self._pump()

    async def pause(self, address: Address) -> None:
        await self._control(control.pause, address)

    async def resume(self, address: Address) -> None:
        await self._control(control.resume, address)

    async def _control(self, verb: Callable[[Store, Address, int], Standing], address: Address) -> None:
        write = self.writer.submit(verb, address, self.clock.now())

        def changed(write: asyncio.Future[Standing]) -> None:
            if not self._stored(write):
                return
            standing, run = write.result(), self.active.get(address)
            if run is not None and standing.status is Status.WAITING_FOR_PAUSE:
                run.journal.drain()
            elif run is not None and standing.status is Status.RUNNING:
                run.journal.undrain()
            self._react(standing)

        await _after(write, changed)

    async def send_event(self, address: Address, event_type: str, event: bytes, event_id: str | None, now: int) -> None:
        write = self.writer.submit(events.send_event, address, event_type, event, event_id, now)

        def sent(write: asyncio.Future[tuple[Standing, tuple[str, int] | None]]) -> None:
            if not self._stored(write):
                return
            standing, wait = write.result()
            run = self.active.get(address)
            if run is not None and wait is not None:
                run.journal.deliver(*wait, event)
            self._react(standing)

        await _after(write, sent)

    def answered(self, answer: Answer) -> None:
        """What a step of an instance awaits has ended."""
        if (run := self.active.get(answer.parent)) is not None:
            run.journal.deliver(answer.name, answer.count, answer.value, "child")

    def ended_with(self, address: Address, error: ErrorRecord) -> None:
        """An instance was ended by what another one did."""
        run = self.active.get(address)
        if run is not None and run.stop("terminated"):
            self._spawn(self._bury(run))
        self._ended(address, End(Status.TERMINATED, None, error))

    def _stored(self, write: asyncio.Future[Any]) -> bool:
        """Whether it was.

        A failed commit may have been stored all the same, so the store is asked what is to be run.
        """
        error = write.exception()
        if isinstance(error, StorageError):
            self._doubt = True
            self._pump()
        return error is None

    def listen(self, address: Address) -> asyncio.Future[End]:
        """A future of how the instance ends, if it has not ended yet. See `unlisten`."""
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._listeners.setdefault(address, []).append(future)
        return future

    def unlisten(self, address: Address, future: asyncio.Future[End]) -> None:
        """It is not wanted any longer. Harmless when it has been told."""
        listeners = self._listeners.get(address)
        if listeners is not None and future in listeners:
            listeners.remove(future)
            if not listeners:
                del self._listeners[address]

    def _ended(self, address: Address, end: End) -> None:
        self.troubles.pop(address, None)
        for listener in self._listeners.pop(address, ()):
            if not listener.done():
                listener.set_result(end)

    # The queue

    def _admits(self, scope: str) -> bool:
        """Whether a new instance may start at once: a slot is free, and nobody waits in the store who could have it."""
        if self._backlog or self._pulling or self._closed or scope in self._held:
            return False
        return self._free() > 0 and not self._limits.full(self._busy[scope])

    def _reserve(self, scope: str, slots: int) -> None:
        self._reserved += slots
        self._occupy(scope, slots)

    def _occupy(self, scope: str, slots: int) -> None:
        self._busy[scope] += slots
        if not self._busy[scope]:
            del self._busy[scope]

    def _free(self) -> int:
        return self._concurrency - len(self.active) - self._reserved

    def queued(self) -> None:
        """Some instance is queued in the store."""
        self._backlog = True
        if self._pulling:
            self._again = True
        elif self._free() > 0:
            self._pump()

    def _pump(self) -> None:
        if self._pulling:
            self._again = True
        elif not self._closed:
            self._pulling = True
            self._spawn(self._pull())

    async def _pull(self) -> None:
        while not self._closed:
            self._again = False
            if self._doubt and not self._reserved:
                alive = tuple(run.number for run in self.active.values())
                await self._insist(queue.reclaim, self.workflow_name, alive, self.clock.now())
                self._doubt = False
            turn = Turn(max(self._free(), 0), dict(self._busy), self._limits, self._last)
            try:
                pull = await self.writer.submit(queue.pull, self.workflow_name, self.clock.now(), turn)
            except StorageError:
                self._doubt = True
                await self._nap()
                continue
            self._take(pull)
            released = any(not self._limits.full(self._busy[scope]) for scope in self._held)  # while it was asked
            if not (pull.overdue or self._again or ((pull.backlog or released) and self._free() > 0)):
                break
        self._pulling = False

    def _take(self, pull: Pull) -> None:
        self._backlog, self._last = pull.backlog, pull.last
        self._held = set(pull.held)
        for claim in pull.claims:
            self._start(claim)
        self._alarm(pull.wake_at)

    def _start(self, claim: Claim) -> None:
        if self._closed:
            self._spawn(self._give_back(claim))
        elif claim.address not in self._doomed:
            self.started += 1
            self._occupy(claim.address.scope, 1)
            self.active[claim.address] = Run(claim, self)

    async def _give_back(self, claim: Claim) -> None:
        await self._insist(queue.release, claim.number, (), self.clock.now())

    def _alarm(self, wake_at: int | None) -> None:
        if wake_at is None or self._closed or (self._timer is not None and self._wake_at <= wake_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = wake_at
        self._timer = self.clock.call_at(wake_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pump()

    # How runs end

    async def finished(self, run: Run, status: Status, output: bytes | None, error: ErrorRecord | None) -> None:
        now = self.clock.now()
        await self._insist(ending.finish, run.number, status, output, error, now, run.journal.childless)
        self.completed += 1
        self._leave(run)
        self._ended(run.address, End(status, output, error))

    def parkable(self, run: Run, waits: tuple[Key, ...]) -> None:
        if run.stop("parked" if waits else "paused"):
            self.parked += 1
            self._spawn(self._retire(run, waits))

    def lost(self, run: Run, reason: str) -> None:
        if run.stop("lost"):
            self.losses += 1
            self._tell(run, f"lost its run, and goes on from its records: {reason}")
            self._spawn(self._account(run, reason))

    def postponed(self, run: Run, reason: str, at_once: bool) -> None:
        if run.stop("postponed"):
            self.postponements += 1
            if not at_once:
                self._tell(run, f"could not be run, and is tried again later: {reason}")
            self._spawn(self._retire(run, ()) if at_once else self._put_off(run))

    async def _put_off(self, run: Run) -> None:
        await run.ended()
        standing = await self._insist(queue.postpone, run.number, run.journal.progressed, self.clock.now())
        self._leave(run)
        if standing is not None:
            self._react(standing)

    async def _retire(self, run: Run, waits: tuple[Key, ...]) -> None:
        await run.ended()
        standing = await self._insist(queue.release, run.number, waits, self.clock.now())
        self._leave(run)
        if standing is not None:
            self._react(standing)

    async def _account(self, run: Run, reason: str) -> None:
        """Count a lost run, and see to it that the instance runs again."""
        await run.ended()
        progressed = run.journal.progressed
        standing = await self._insist(queue.lose, run.number, progressed, reason, self.clock.now())
        self._leave(run)
        if standing is not None:
            self._react(standing)
            if standing.status is Status.ERRORED:
                self._ended(run.address, End(Status.ERRORED, None, standing.error))

    async def _bury(self, run: Run) -> None:
        await run.ended()
        self._leave(run)

    def _tell(self, run: Run, trouble: str) -> None:
        """What keeps an instance from going on is no part of its history, but somebody should hear of it."""
        self.troubles[run.address] = trouble
        _log.warning("%s %r of %r %s", run.address.workflow, run.address.id, run.address.scope, trouble)

    def _leave(self, run: Run) -> None:
        if run.stopping not in {"lost", "postponed"}:
            self.troubles.pop(run.address, None)
        if self.active.pop(run.address, None) is not None:
            self._occupy(run.address.scope, -1)
        resolve(run.left)
        if self._backlog or run.address.scope in self._held:
            self._pump()

    def _react(self, standing: Standing) -> None:
        if standing.status is Status.QUEUED:
            self.queued()
        elif standing.status is Status.WAITING:
            self._alarm(standing.wake_at)

    async def _insist(self, verb: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Write what must be written, however long the storage fails.

        None if the instance ended first, or we close.
        """
        while True:
            try:
                return await self.writer.submit(verb, *args, **kwargs)
            except (RunOver, EngineClosed):
                return None
            except StorageError:
                if self._closed:
                    return None
                await self._nap()

    async def _nap(self) -> None:
        nap: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.clock.call_later(STORAGE_NAP_SECONDS, lambda: resolve(nap))
        self._naps.add(nap)
        try:
            await nap
        finally:
            timer.cancel()
            self._naps.discard(nap)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _after(write: asyncio.Future[T], react: Callable[[asyncio.Future[T]], None]) -> asyncio.Future[T]:
    """What was written, once it has been reacted to: that happens whether or not anybody still waits."""
    told: asyncio.Future[T] = write.get_loop().create_future()

    def written(write: asyncio.Future[T]) -> None:
        try:
            react(write)
        finally:
            error = write.exception()
            if not told.done():
                if error is None:
                    told.set_result(write.result())
                else:
                    told.set_exception(error)

    write.add_done_callback(written)
    return told
