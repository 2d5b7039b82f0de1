"""What a workflow written in the host's own code sees: steps by name, memoised, retried, slept between.

A thin face on a journal: it counts names, replays what is recorded, and runs bodies in place. Whoever runs a
workflow elsewhere takes `step.journal` and does the same over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from cloister.ipc import values
from cloister.ipc.errors import CodecError

from .errors import NonDeterminismError, NonRetryableError, PayloadTooLarge, StepFailed, WaitTimeout, revive
from .records import (
    EventRecord,
    Journal,
    Key,
    Outcome,
    StepConfig,
    StepKind,
    StepRecord,
    WorkflowContext,
)
from .rules import check_size, describe

if TYPE_CHECKING:
    from .clock import Clock

Body = Callable[..., Any]


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


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the body of a step is told if it takes an argument."""

    name: str
    count: int
    attempt: int
    config: StepConfig


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
        self._counts: dict[tuple[StepKind, str], int] = {}
        self._recorded: dict[Key, StepRecord] = {(r.kind, r.name, r.count): r for r in journal.history}
        self._unvisited = {key for key, record in self._recorded.items() if record.state in {"done", "failed"}}

    @property
    def journal(self) -> Journal:
        """The durable side.

        Whoever takes it runs the workflow elsewhere and compares the replay with the history there.
        """
        self._unvisited.clear()
        return self._journal

    @overload
    def do(self, name: str, body: Body, /) -> Any: ...
    @overload
    def do(self, name: str, config: object, body: Body, /) -> Any: ...
    @overload
    def do(self, name: str | None = None, /, *, config: object = None) -> Callable[[Body], Body]: ...

    def do(self, name: str | None = None, *rest: Any, config: object = None) -> Any:
        """`await step.do("name", [config], body)`, or `@step.do("name")` on a body: await what that makes.

        The body may be sync or async and may take a `StepContext`. Its result comes back as it was stored.
        """
        if rest:
            *given, body = rest
            return self._do(name or body.__name__, given[0] if given else config, body)

        def decorate(body: Body) -> Body:
            async def step() -> Any:
                return await self._do(name or body.__name__, config, body)

            return step

        return decorate

    async def sleep(self, name: str, duration: object) -> None:
        """Milliseconds, "10 seconds", or a `timedelta`."""
        count, record = await self._visit("sleep", name)
        if record is None or record.state != "done":
            await self._journal.sleep(name, count, duration=duration)

    async def sleep_until(self, name: str, when: object) -> None:
        """A `datetime` or milliseconds since the epoch."""
        count, record = await self._visit("sleep", name)
        if record is None or record.state != "done":
            await self._journal.sleep(name, count, until=when)

    async def wait_for_event(self, name: str, /, type: str, timeout: object = "24 hours") -> Event:  # noqa: A002
        """The next event of this type, sent before or after; `WaitTimeout` when none comes."""
        count, record = await self._visit("wait", name)
        if record is not None and record.error is not None:
            raise WaitTimeout.again(record.error)
        if record is not None and record.value is not None:
            event = EventRecord.decode(record.value)
        else:
            event = await self._journal.wait_for_event(name, count, type, timeout)
        return Event(event.type, values.loads(event.payload), event.timestamp_ms)

    def check_replay(self) -> None:
        """After `run` returned: what an earlier run recorded must have been reached by this one too."""
        if self._unvisited:
            kind, name, count = min(self._unvisited)
            raise NonDeterminismError(
                f"the run ended without reaching {kind} {name!r} number {count}, which was recorded earlier"
                f" ({len(self._unvisited)} such); did the code change, or does it depend on time or chance?"
            )

    async def _visit(self, kind: StepKind, name: str) -> tuple[int, StepRecord | None]:
        count = self._counts[kind, name] = self._counts.get((kind, name), 0) + 1
        key = (kind, name, count)
        record = self._recorded.get(key)
        if record is not None:
            self._unvisited.discard(key)
            await asyncio.sleep(0)  # a recorded step gives way as a live one would, so that its siblings begin as well
        return count, record

    async def _do(self, name: str, config: object, body: Body) -> Any:
        count, record = await self._visit("do", name)
        if record is not None and record.error is not None and record.state == "failed":
            raise revive(record.error)
        if record is not None and record.value is not None:
            return values.loads(record.value, trusted=True)
        resolved = DEFAULT if config is None else await self._journal.configure(config)
        if record is not None and record.config is not None:
            resolved = record.config
        attempt = 1 if record is None else await self._journal.attempt(name, count)
        while True:
            self._journal.started(name, count, attempt)
            outcome = await self._attempt(body, StepContext(name, count, attempt, resolved))
            verdict = await self._journal.settle(outcome)
            if verdict.state == "done" and outcome.value is not None:
                return values.loads(outcome.value, trusted=True)
            if verdict.state == "failed" and verdict.error is not None:
                raise revive(verdict.error)
            attempt = await self._journal.attempt(name, count)

    async def _attempt(self, body: Body, context: StepContext) -> Outcome:
        name, count, attempt, config = context.name, context.count, context.attempt, context.config
        try:
            value = values.dumps(await self._call(body, context))
            check_size(value, f"the result of step {name!r}")
            return Outcome(name, count, attempt, config, value)
        except Exception as error:  # noqa: BLE001 - whatever a body raises is how the attempt ended
            hopeless = isinstance(error, NonRetryableError | CodecError | PayloadTooLarge)
            return Outcome(name, count, attempt, config, None, describe(error), not hopeless)

    async def _call(self, body: Body, context: StepContext) -> Any:
        result = body(context) if _takes_argument(body) else body()
        if not inspect.isawaitable(result):
            return result
        deadline = asyncio.timeout(None)
        expire = asyncio.get_running_loop().time
        timer = self._clock.call_later(context.config.timeout_ms / 1000, lambda: deadline.reschedule(expire()))
        try:
            async with deadline:
                return await result
        except TimeoutError:
            if not deadline.expired():
                raise
            limit = WaitTimeout(context.config.timeout_ms)
            raise StepFailed(limit.name, limit.message) from None
        finally:
            timer.cancel()


DEFAULT = StepConfig()


def _takes_argument(body: Body) -> bool:
    """Whether the body must be given something; a parameter with a default is the author's own."""
    code = getattr(body, "__code__", None)
    if code is not None:
        bound = getattr(body, "__self__", None) is not None
        return bool(code.co_argcount - len(body.__defaults__ or ()) - bound)
    with contextlib.suppress(ValueError, TypeError):
        parameters = inspect.signature(body).parameters.values()
        return any(p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} for p in parameters)
    return False
