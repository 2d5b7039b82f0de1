"""What a workflow written in the host's own code sees: steps by name, memoised, retried, slept between.

A thin face on a journal: it counts names, replays what is recorded, and runs bodies in place. Whoever runs a
workflow elsewhere takes `step.journal` and does the same over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from cloister.ipc import values

from . import attempt as attempts
from . import authors
from .bodies import StepContext, enclosing, performed, read_result, where
from .errors import (
    EngineError,
    InstanceAlreadyExists,
    MomentTooFar,
    NonDeterminismError,
    NonRetryableError,
    QueueFull,
    QuotaExceeded,
    RunInterrupted,
    RunOver,
    WaitTimeout,
    revive,
)
from .protocol import Journal
from .records import (
    DEFAULT_CONFIG,
    ErrorRecord,
    EventRecord,
    Key,
    StepKind,
    StepRecord,
)
from .replay import Replay
from .rollback import Rollback, Undo, replayed
from .rules import describe

if TYPE_CHECKING:
    from .clock import Clock
    from .workflow import Workflow

Body = authors.Function


@dataclass(frozen=True, slots=True)
class Event:
    """What `wait_for_event` returns."""

    type: str
    payload: Any
    timestamp_ms: int


class WorkflowStep:
    """The second argument of `run`."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.elsewhere = False  # whether somebody took the journal, and runs the workflow there
        self._counts: dict[tuple[StepKind, str], int] = {}
        self._recorded: dict[Key, StepRecord] = {(r.kind, r.name, r.count): r for r in journal.history}
        self._replay = Replay(journal.history, (journal.workflow_name, journal.instance_id), patient=not journal.frozen)
        self.unvisited = self._replay.unvisited
        self._rollback = Rollback(journal, clock)

    @property
    def journal(self) -> Journal:
        """The durable side.

        Whoever takes it runs the workflow elsewhere, compares the replay with the history there, and takes steps back.
        """
        self._replay.clear()
        self.elsewhere = True
        return self._journal

    @overload
    def do(self, name: str, body: Body, /, *, rollback: Body | None = None, rollback_config: object = None) -> Any: ...
    @overload
    def do(
        self, name: str, config: object, body: Body, /, *, rollback: Body | None = None, rollback_config: object = None
    ) -> Any: ...
    @overload
    def do(
        self,
        name: str | None = None,
        /,
        *,
        config: object = None,
        rollback: Body | None = None,
        rollback_config: object = None,
    ) -> Callable[[Body], Body]: ...

    def do(
        self,
        name: str | None = None,
        *rest: Any,
        config: object = None,
        rollback: Body | None = None,
        rollback_config: object = None,
    ) -> Any:
        """`await step.do("name", [config], body)`, or `@step.do("name")` on a body: await what that makes.

        The body may be sync or async and may take a `StepContext`. Its result comes back as it was stored; an
        asynchronous iterator or a generator of bytes comes back as a `ByteStream`. `rollback` takes the step back when
        the workflow fails or is terminated so: it may ask for `ctx`, `error`, `output` and `step_name`.
        """
        if rest:
            *given, body = rest
            return self._do(name or body.__name__, given[0] if given else config, body, rollback, rollback_config)

        def decorate(body: Body) -> Body:
            async def step() -> Any:
                return await self._do(name or body.__name__, config, body, rollback, rollback_config)

            return step

        return decorate

    async def now(self) -> dt.datetime:
        """The time in UTC, the same in every replay."""
        moment = await self._kept("now", self._clock.now)
        return dt.datetime.fromtimestamp(moment / 1000, dt.UTC)

    async def random(self) -> float:
        """A number from 0 to below 1, the same in every replay."""
        return float(await self._kept("random", random.random))

    async def uuid(self) -> uuid.UUID:
        """A random UUID, the same in every replay."""
        return uuid.UUID(await self._kept("uuid", lambda: str(uuid.uuid4())))

    async def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        count, record = await self._visit("value", name)
        if record is not None and record.value is not None:
            return values.loads(record.value, trusted=True)
        _look_for_refusal(record)
        value = make()
        async with self._outcome():
            await self._journal.keep(name, count, values.dumps(value), enclosing(self._journal))
        return value

    async def sleep(self, name: str, duration: object) -> None:
        """Milliseconds, "10 seconds", or a `timedelta`."""
        count, record = await self._visit("sleep", name)
        await self._sleep(record, name, count, duration=duration)

    async def sleep_until(self, name: str, when: object) -> None:
        """A `datetime` or milliseconds since the epoch."""
        count, record = await self._visit("sleep", name)
        await self._sleep(record, name, count, until=when)

    async def _sleep(
        self, record: StepRecord | None, name: str, count: int, duration: object = None, until: object = None
    ) -> None:
        _look_for_refusal(record)
        if record is None or record.state != "done":
            async with self._outcome():
                await self._journal.sleep(name, count, duration=duration, until=until, within=enclosing(self._journal))

    async def wait_for_event(self, name: str, /, type: str, timeout: object = "24 hours") -> Event:  # noqa: A002
        """The next event of this type, sent before or after; `WaitTimeout` when none comes."""
        count, record = await self._visit("wait", name)
        if record is not None and record.error is not None and record.error.name == WaitTimeout.name:
            raise WaitTimeout.again(record.error)
        _look_for_refusal(record)
        if record is not None and record.value is not None:
            event = EventRecord.decode(record.value)
        else:
            async with self._outcome():
                event = await self._journal.wait_for_event(name, count, type, timeout, within=enclosing(self._journal))
        return Event(event.type, values.loads(event.payload), event.timestamp_ms)

    async def child(
        self,
        name: str,
        workflow: Workflow,
        options: Mapping[str, Any] | None = None,
        /,
        *,
        scope: str | None = None,
        timeout: object = None,
        **more: Any,
    ) -> Any:
        """Create an instance of a workflow and await its output; `StepFailed` if it ends without one.

        Options are those of `Workflow.create`; without an id it has one that follows from this step. It is in the scope
        of this instance unless another is given. It is terminated when it takes longer than the timeout (a year by
        default), when whoever awaits it here is cancelled, and when this instance ends first.
        """
        count, record = await self._visit("child", name)
        _look_for_refusal(record)
        value = None if record is None else record.value
        if value is None:
            journal = self._journal
            inside = attempts.current.set(attempts.Attempt(*where(journal), f"child {name}", count, 1, journal.claims))
            try:
                given = {**(options or {}), **more}
                child = workflow.child(given, scope=journal.scope if scope is None else scope)
            finally:
                attempts.current.reset(inside)
            if record is None:
                with journal.hold():
                    await workflow.allowed(child.scope)
            try:
                async with self._outcome():
                    value = await journal.child(name, count, child, timeout, enclosing(journal))
            except asyncio.CancelledError:
                self._giving_up = asyncio.ensure_future(_give_up(journal, name, count))
                raise
        return ending(value)

    def check_replay(self) -> None:
        """After `run` returned: what an earlier run recorded must have been reached by this one too."""
        if self.unvisited:
            kind, name, count = min(self.unvisited)
            raise NonDeterminismError(
                f"the run ended without reaching {kind} {name!r} number {count}, which was recorded earlier"
                f" ({len(self.unvisited)} such); did the code change, or does it depend on time or chance?"
            )

    async def _visit(self, kind: StepKind, name: str) -> tuple[int, StepRecord | None]:
        count = self._counts.get((kind, name), 0) + 1
        while (kind, name, count) in self._replay.skipped:
            count += 1
        self._counts[kind, name] = count
        key = (kind, name, count)
        record = self._recorded.get(key)
        if record is not None:
            self.unvisited.discard(key)
            if kind == "do":
                self._replay.skip(name, count, before=record.attempts + 1 if record.state == "retrying" else math.inf)
            await self._replay.recorded(key)
        return count, record

    def begin(self, run: Awaitable[Any]) -> asyncio.Task[Any]:
        """A replay beside whoever watches it."""
        return asyncio.ensure_future(self._replay.conduct(run))

    async def conduct(self, run: Awaitable[Any]) -> Any:
        """Await a run. When it fails, or is to be taken back, its steps are; then its error is raised."""
        journal = self._journal
        if journal.undoing is None:
            try:
                output = await self._replay.conduct(run)
                self.check_replay()
                return output
            except (RunInterrupted, RunOver):
                raise
            except Exception as error:
                if self._rollback and not self.elsewhere:
                    await journal.undo(describe(error))
                    await self._rollback.run(describe(error), self._recorded, ())
                raise
        task = self.begin(run)
        try:
            await replayed(task, journal, self.unvisited)
            if self.elsewhere:
                return await task
            await self._rollback.run(journal.undoing, self._recorded, self.unvisited)
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
        raise revive(journal.undoing)

    def _given_up(self, name: str, count: int) -> None:
        """Nobody will settle an attempt, nor ask for what was recorded in its body."""
        self._replay.skip(name, count)
        with contextlib.suppress(RunOver):
            self._journal.stopped(name, count)

    @contextlib.asynccontextmanager
    async def _outcome(self) -> AsyncIterator[None]:
        """What comes is on record and waits for its turn; what was refused is raised as it will be in each replay."""
        try:
            yield
        except _ON_RECORD as refusal:
            await self._replay.arrived()
            raise revive(describe(refusal)) from None
        except WaitTimeout:
            await self._replay.arrived()
            raise
        await self._replay.arrived()

    async def _do(self, name: str, config: object, body: Body, rollback: Body | None, rollback_config: object) -> Any:
        count, record = await self._visit("do", name)
        if rollback is not None:
            if enclosing(self._journal) is not None:
                raise NonRetryableError(
                    f"step {name!r} is in the body of another one, which no replay runs again, so that nobody could"
                    " take it back: give `rollback` to that one"
                )
            context = StepContext(name, count, 1 if record is None else max(record.attempts, 1), DEFAULT_CONFIG)
            self._rollback.begun(Undo(name, count, rollback, rollback_config, context))
        if record is not None and record.error is not None and record.state == "failed":
            raise revive(record.error)
        if record is not None and record.state == "done":
            result = read_result(self._journal, name, count, record.value, record.size)
        else:
            try:
                result = await performed(self._journal, self._clock, name, count, record, config, body, self._replay)
            except asyncio.CancelledError:
                self._given_up(name, count)
                raise
        if rollback is not None:
            self._rollback.succeeded(name, count, result)
        return result


_ON_RECORD = (InstanceAlreadyExists, MomentTooFar, QueueFull, QuotaExceeded)


def _look_for_refusal(record: StepRecord | None) -> None:
    """What was refused is refused again."""
    if record is not None and record.error is not None:
        raise revive(record.error)


def ending(value: bytes) -> Any:
    """The output of an awaited instance; what it ended with, raised, if it has none."""
    told = values.loads(value, trusted=True)
    if told["status"] == "complete":
        return told["output"]
    raise revive(ErrorRecord(*(told["error"] or ["Error", ""])))


async def _give_up(journal: Journal, name: str, count: int) -> None:
    with contextlib.suppress(EngineError):  # if the run is over, so are its children, or it goes on and awaits them
        await journal.give_up(name, count)
