"""What a workflow written in the host's own code sees: steps by name, memoised, retried, slept between.

A thin face on a journal, which runs bodies in place; to what the run has come is its course. Whoever runs a workflow
elsewhere takes `step.journal` and does the same over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from cloister.ipc import values

from . import attempt as attempts
from . import authors
from .bodies import StepContext, enclosing, performed, read_result, where
from .course import Course
from .errors import EngineError, NonRetryableError, WaitTimeout, revive
from .protocol import Journal
from .records import DEFAULT_CONFIG, ErrorRecord, EventRecord, StepRecord
from .rollback import Undo

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
        self.course = Course(journal, clock)
        """How the run goes, for whoever runs it in place."""

    @property
    def journal(self) -> Journal:
        """The durable side.

        Whoever takes it runs the workflow elsewhere, compares the replay with the history there, and takes steps back.
        """
        self.course.leave()
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
        count, record = await self.course.visit("value", name)
        if record is not None and record.value is not None:
            return values.loads(record.value, trusted=True)
        _look_for_refusal(record)
        value = make()
        async with self.course.outcome():
            await self._journal.keep(name, count, values.dumps(value), enclosing(self._journal))
        return value

    async def sleep(self, name: str, duration: object) -> None:
        """Milliseconds, "10 seconds", or a `timedelta`."""
        count, record = await self.course.visit("sleep", name)
        await self._sleep(record, name, count, duration=duration)

    async def sleep_until(self, name: str, when: object) -> None:
        """A `datetime` or milliseconds since the epoch."""
        count, record = await self.course.visit("sleep", name)
        await self._sleep(record, name, count, until=when)

    async def _sleep(
        self, record: StepRecord | None, name: str, count: int, duration: object = None, until: object = None
    ) -> None:
        _look_for_refusal(record)
        if record is None or record.state != "done":
            async with self.course.outcome():
                await self._journal.sleep(name, count, duration=duration, until=until, within=enclosing(self._journal))

    async def wait_for_event(self, name: str, /, type: str, timeout: object = "24 hours") -> Event:  # noqa: A002
        """The next event of this type, sent before or after; `WaitTimeout` when none comes."""
        count, record = await self.course.visit("wait", name)
        if record is not None and record.error is not None and record.error.name == WaitTimeout.name:
            raise WaitTimeout.again(record.error)
        _look_for_refusal(record)
        if record is not None and record.value is not None:
            event = EventRecord.decode(record.value)
        else:
            async with self.course.outcome():
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
        count, record = await self.course.visit("child", name)
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
                async with self.course.outcome():
                    value = await journal.child(name, count, child, timeout, enclosing(journal))
            except asyncio.CancelledError:
                self._giving_up = asyncio.ensure_future(_give_up(journal, name, count))
                raise
        return ending(value)

    async def _do(self, name: str, config: object, body: Body, rollback: Body | None, rollback_config: object) -> Any:
        course = self.course
        count, record = await course.visit("do", name)
        if rollback is not None:
            if enclosing(self._journal) is not None:
                raise NonRetryableError(
                    f"step {name!r} is in the body of another one, which no replay runs again, so that nobody could"
                    " take it back: give `rollback` to that one"
                )
            context = StepContext(name, count, 1 if record is None else max(record.attempts, 1), DEFAULT_CONFIG)
            course.rollback.begun(Undo(name, count, rollback, rollback_config, context))
        if record is not None and record.error is not None and record.state == "failed":
            raise revive(record.error)
        if record is not None and record.state == "done":
            result = read_result(self._journal, name, count, record.value, record.size)
        else:
            try:
                result = await performed(self._journal, self._clock, name, count, record, config, body, course.replay)
            except asyncio.CancelledError:
                course.given_up(name, count)
                raise
        if rollback is not None:
            course.rollback.succeeded(name, count, result)
        return result


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
