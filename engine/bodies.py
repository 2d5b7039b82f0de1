"""How a step is performed in place: attempt after attempt, each with its context and within its limits, and what comes
of it is recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cloister.ipc import values
from cloister.ipc.errors import CodecError

from . import attempt as attempts
from . import authors, streams
from .authors import Function
from .errors import (
    NonRetryableDelayError,
    NonRetryableError,
    PayloadTooLarge,
    QuotaExceeded,
    RunInterrupted,
    RunOver,
    StepFailed,
    StreamError,
    WaitTimeout,
    revive,
)
from .records import DEFAULT_CONFIG, ErrorRecord, Outcome, StepConfig, StepRecord
from .rules import DELAY_SECONDS, check_size, describe

if TYPE_CHECKING:
    from .clock import Clock
    from .protocol import Journal
    from .replay import Replay


_HOPELESS = (NonRetryableError, CodecError, PayloadTooLarge, QuotaExceeded, StreamError)


@dataclass(slots=True)
class Signs:
    """The signs of life of a step's attempts: what the last one said, and what begins the time to the next anew."""

    said: bytes | None = None
    renew: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the body of a step is told if it takes an argument."""

    name: str
    count: int
    attempt: int
    config: StepConfig
    token: int = 0
    """Larger than that of every earlier attempt, those that were lost included: for stores that fence."""
    details: Any = None
    """What the last heartbeat of an earlier attempt said."""
    _journal: Journal | None = field(default=None, repr=False, compare=False)
    _signs: Signs = field(default_factory=Signs, repr=False, compare=False)

    async def heartbeat(self, details: Any = None) -> bool:
        """Say that the attempt goes on, and what the next one should know, up to 16 KiB: durable on return. False when
        the body had better come to an end, since somebody waits for it to pause the instance.
        """
        assert self._journal is not None
        self._signs.renew()
        said = values.dumps(details)
        wanted = await self._journal.beat(self.name, self.count, self.attempt, said, self.config)
        self._signs.said = said
        self._signs.renew()
        return wanted


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A result that is recorded already, piece by piece."""

    size: int


async def performed(
    journal: Journal,
    clock: Clock,
    name: str,
    count: int,
    record: StepRecord | None,
    config: object,
    body: Function,
    replay: Replay,
) -> Any:
    """Run a step's body until an attempt succeeds or none is left; its result as it was stored. `record` is of the
    attempts that earlier runs have made; the outcome takes its turn in `replay`.
    """
    signs = Signs()
    resolved = DEFAULT_CONFIG if config is None else await journal.configure(config)
    if record is not None:
        resolved = record.config or resolved
        signs.said = record.value
    within = enclosing(journal)
    attempt = 1 if record is None else await journal.attempt(name, count)
    while True:
        outcome = await journal.begin(name, count) if journal.supervised else None
        if outcome is None:
            journal.started(name, count, attempt)
            replay.skip(name, count, before=attempt)
            token = attempts.Attempt(*where(journal), name, count, attempt, journal.claims)
            details = None if signs.said is None else values.loads(signs.said, trusted=True)
            context = StepContext(name, count, attempt, resolved, token.token, details, journal, signs)
            outcome = await _attempted(journal, clock, body, context, config, token)
        else:
            outcome = dataclasses.replace(outcome, config=resolved)
        outcome.within = within
        try:
            verdict = await journal.settle(outcome)
        except (PayloadTooLarge, QuotaExceeded) as refusal:  # as it will be next time
            error = describe(refusal)
            outcome = dataclasses.replace(outcome, value=None, size=None, error=error, retryable=False)
            verdict = await journal.settle(outcome)
        if verdict.state != "retry":
            await replay.arrived()
        if verdict.state == "done":
            return read_result(journal, name, count, outcome.value, outcome.size)
        if verdict.state == "failed" and verdict.error is not None:
            raise revive(verdict.error)
        attempt = await journal.attempt(name, count)


def read_result(journal: Journal, name: str, count: int, value: bytes | None, size: int | None) -> Any:
    """What a step has returned: a value, or the stream that is recorded in pieces."""
    if value is None:
        return streams.ByteStream(journal, name, count, size or 0)
    return values.loads(value, trusted=True)


async def _attempted(
    journal: Journal, clock: Clock, body: Function, context: StepContext, given: object, mark: attempts.Attempt
) -> Outcome:
    """Run a body once, with the step's configuration as it was `given`; what came of it."""
    name, count, attempt, config = context.name, context.count, context.attempt, context.config
    inside = attempts.current.set(mark)
    try:
        result = await _call(journal, clock, body, context)
        if isinstance(result, _Recorded):
            return Outcome(name, count, attempt, config, size=result.size)
        value = values.dumps(result)
        check_size(value, f"the result of step {name!r}")
        return Outcome(name, count, attempt, config, value)
    except (RunOver, RunInterrupted):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a body raises is how the attempt ended
        hopeless = isinstance(error, _HOPELESS)
        outcome = Outcome(name, count, attempt, config, None, describe(error), not hopeless)
        if config.dynamic and not hopeless and attempt <= config.limit:
            return await _delayed(clock, outcome, context, given, error)
        return outcome
    finally:
        attempts.current.reset(inside)


async def _delayed(clock: Clock, outcome: Outcome, context: StepContext, given: object, error: Exception) -> Outcome:
    """The outcome with the delay that the author's function says."""
    function: Any = given["retries"]["delay"] if isinstance(given, dict) else None
    try:
        async with authors.limited(clock, DELAY_SECONDS):
            delay = await authors.by_name(function, {"ctx": context, "error": error})
    except authors.TooLong:
        words = f"it did not answer within {DELAY_SECONDS:g} s"
    except Exception as second:  # noqa: BLE001 - it is the author's
        words = f"it raised {type(second).__name__}: {second}"
    else:
        return dataclasses.replace(outcome, delay=delay)
    words = f"the function that says the delay of step {context.name!r} failed: {words}"
    record = ErrorRecord(NonRetryableDelayError.__name__, words)
    return dataclasses.replace(outcome, error=record, retryable=False)


async def _call(journal: Journal, clock: Clock, body: Function, context: StepContext) -> Any:
    result = body(context) if authors.takes_argument(body) else body()
    stream = streams.is_stream(result)
    if not stream and not inspect.isawaitable(result):
        return result
    try:
        async with _limits(clock, context):
            if not stream:
                result = await result
            if streams.is_stream(result):
                name, count, attempt = context.name, context.count, context.attempt
                result = _Recorded(await streams.record(journal, result, name, count, attempt))
            return result
    except authors.TooLong as late:
        raise StepFailed(WaitTimeout.name, str(late)) from None


@contextlib.asynccontextmanager
async def _limits(clock: Clock, context: StepContext) -> AsyncIterator[None]:
    """An attempt's time as a whole, and from one sign of life to the next if it has to give any."""
    whole, pulse = context.config.timeout_ms, context.config.heartbeat_ms
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(authors.limited(clock, whole / 1000, f"Execution timed out after {whole}ms"))
        if pulse is not None:
            words = f"There was no heartbeat for {pulse}ms"
            context._signs.renew = await stack.enter_async_context(authors.limited(clock, pulse / 1000, words))
        yield


def enclosing(journal: Journal) -> str | None:
    """The attempt of a step of this run in whose body the code that runs now is, as its records call it."""
    inside = attempts.current.get()
    if inside is None or (inside.workflow_name, inside.scope, inside.instance_id, inside.run) != where(journal):
        return None
    return f"{inside.attempt} {inside.count} {inside.step}"


def where(journal: Journal) -> tuple[str, str, str, int]:
    """The run, as an attempt names it."""
    return journal.workflow_name, journal.scope, journal.instance_id, journal.run
