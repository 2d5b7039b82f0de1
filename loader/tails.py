"""What a worker did, told to whoever tails it: one event for each invocation after its answer, and lines as they come.

A tail is a function of the host's or an entrypoint, perhaps of another tenant's, which defines `tail(events)`. It
cannot fail the invocation and holds it up by nothing: events wait in a bounded queue, and what is beyond is counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from cloister.ipc import CodecError, RemoteError, TooManyCalls
from cloister.sandbox import LimitExceeded, LogLine, SandboxError

_log = logging.getLogger("cloister.tail")
_LEVELS: Final = {"stderr": logging.WARNING, "warning": logging.WARNING, "error": logging.ERROR, "debug": logging.DEBUG}
MOST_LINES: Final = 256
MOST_BYTES: Final = 128 * 1024
"""Of lines in one event."""
MOST_WAITING: Final = 1024
"""Events, and as many lines, of one sandbox that wait for slow tails."""
PATIENCE: Final = 30.0
"""Seconds that a tail may take for what it is given at once."""
_AT_ONCE: Final = 64
Outcome = Literal["ok", "exception", "limit", "died", "canceled"]


@dataclass(frozen=True, slots=True)
class TailLine:
    """One line that a tenant printed or logged, or an exception that it did not catch.

    `level` is stdout, stderr, debug, info, warning or error; `invocation` counts calls in one sandbox, 0 is its start.
    """

    tenant_id: str
    sandbox: int
    level: str
    text: str
    invocation: int
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TailEvent:
    """One invocation. `error` is class, message and the tenant's own traceback of what it raised; `limit` says which
    limit it crossed. `cpu_ms` is of its sandbox meanwhile, whose other calls it includes. `left_out` are lines beyond
    what one event holds; lines of work that went on after the answer are for streaming tails only."""

    tenant_id: str
    sandbox: int
    invocation: int
    entrypoint: str | None
    method: str
    outcome: Outcome
    time_ms: int
    wall_ms: float
    cpu_ms: float
    logs: tuple[TailLine, ...] = ()
    left_out: int = 0
    error: tuple[str, str, str] | None = None
    limit: str = ""

    def plain(self) -> dict[str, Any]:
        """For a tenant, under Cloudflare's names."""
        errors = [] if self.error is None else [dict(zip(("name", "message", "stack"), self.error, strict=True))]
        return {
            "scriptName": self.tenant_id, "entrypoint": self.entrypoint, "event": {"rpcMethod": self.method},
            "outcome": self.outcome, "eventTimestamp": self.time_ms, "wallTime": self.wall_ms, "cpuTime": self.cpu_ms,
            "logs": [_plain(line) for line in self.logs], "truncated": self.left_out > 0, "limit": self.limit,
            "exceptions": [{**error, "timestamp": self.time_ms} for error in errors],
        }  # fmt: skip


class TailWorker(Protocol):
    """An entrypoint that defines `tail(events)`."""

    async def handle(self, event: Literal["queue", "tail"], subject: Any) -> Any:
        """Hand it events."""


Tail = Callable[[TailEvent], object] | TailWorker
StreamingTail = Callable[[TailLine], object] | TailWorker


class Tails:
    """Of one sandbox."""

    def __init__(
        self,
        tenant_id: str,
        sandbox: int,
        tails: Sequence[Tail],
        streaming: Sequence[StreamingTail],
        cpu_seconds: Callable[[], float],
    ) -> None:
        self._tenant_id, self._sandbox, self._cpu_seconds = tenant_id, sandbox, cpu_seconds
        self._tails = [_Courier(tail, TailEvent.plain) for tail in tails]
        self._streaming = [_Courier(tail, _plain) for tail in streaming]
        self._count = 0
        self._open: dict[int, _Lines] = {}
        self._tailing: deque[int] = deque(maxlen=_AT_ONCE)
        """The latest invocations in which it was a tail itself."""

    def hear(self, line: LogLine) -> None:
        """One more line. Without tails it goes to the host's own log."""
        entry = TailLine(self._tenant_id, self._sandbox, line.level, line.text, line.invocation, line.time_ms)
        if (kept := self._open.get(line.invocation)) is not None:
            kept.add(entry)
        for courier in self._streaming:
            if courier.direct or line.invocation not in self._tailing:  # or what it prints would be told to it again
                courier.take(entry)
        if not self._streaming and not self._tails:
            text = line.text.replace("\n", "\n    | ")  # so that no tenant can write a line that looks like another's
            _log.log(_LEVELS.get(line.level, logging.INFO), "%s: %s", self._tenant_id, text)

    def follow(self, entrypoint: str | None, method: str, call: Awaitable[bytes]) -> Awaitable[bytes]:
        """The same call, with what comes of it told to the tails. To be awaited at once, or in the order of the calls:
        the sandbox counts them as they arrive."""
        return self._followed(entrypoint, method, call) if self._tails or self._streaming else call

    async def _followed(self, entrypoint: str | None, method: str, call: Awaitable[bytes]) -> bytes:
        self._count += 1
        number, lines = self._count, _Lines()
        began, cpu, now = time.perf_counter(), self._cpu_seconds(), int(time.time() * 1000)
        self._open[number] = lines
        if method == "tail":
            self._tailing.append(number)
        failure: BaseException | None = None
        try:
            return await call
        except (CodecError, TooManyCalls):
            self._count -= 1  # it was never sent
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            del self._open[number]
            if (
                self._tails and self._count >= number and method != "tail"
            ):  # or tails that tail one another would have no end
                event = TailEvent(
                    tenant_id=self._tenant_id, sandbox=self._sandbox, invocation=number, entrypoint=entrypoint,
                    method=method, outcome=_outcome(failure), time_ms=now, logs=tuple(lines.kept),
                    wall_ms=round((time.perf_counter() - began) * 1000, 3), left_out=lines.left_out,
                    cpu_ms=round((self._cpu_seconds() - cpu) * 1000, 3), error=_error(failure),
                    limit=str(failure) if isinstance(failure, LimitExceeded) else "",
                )  # fmt: skip
                for courier in self._tails:
                    courier.take(event)


class _Lines:
    """The lines of one invocation, as many as an event holds."""

    def __init__(self) -> None:
        self.kept: list[TailLine] = []
        self.left_out = self._bytes = 0

    def add(self, line: TailLine) -> None:
        self._bytes += len(line.text)
        if len(self.kept) >= MOST_LINES or self._bytes > MOST_BYTES:
            self.left_out += 1
        else:
            self.kept.append(line)


_under_way: set[asyncio.Task[None]] = set()


class _Courier:
    """Brings what is told to one tail, in order, and loses what that does not take in time."""

    def __init__(self, tail: Any, plain: Callable[[Any], dict[str, Any]]) -> None:
        self._tail, self._plain = tail, plain
        self.direct = not hasattr(type(tail), "handle")
        self._waiting: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None
        self._lost = 0

    def take(self, told: Any) -> None:
        """One more event, or line. A function hears of a line at once, where nothing waits before it."""
        if self.direct and self._task is None and isinstance(told, TailLine):
            told = self._call(told)
            if not inspect.isawaitable(told):
                return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(told)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._bring())
            _under_way.add(self._task)
            self._task.add_done_callback(_under_way.discard)

    def _call(self, told: Any) -> object:
        try:
            return self._tail(told)
        except Exception:  # noqa: BLE001 - a tail must not cost the tenant its answer
            _log.exception("a tail raised")
            return None

    async def _bring(self) -> None:
        try:
            while self._waiting:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    _log.warning("%d events came faster than a tail took them, and were dropped", lost)
                try:
                    async with asyncio.timeout(PATIENCE):
                        await self._give()
                except Exception:  # noqa: BLE001 - the same
                    _log.exception("a tail raised")
        finally:
            self._task = None

    async def _give(self) -> None:
        if self.direct:
            told = self._waiting.popleft()
            result = told if inspect.isawaitable(told) else self._tail(told)
            if inspect.isawaitable(result):
                await result
            return
        events = [self._plain(self._waiting.popleft()) for _ in range(min(len(self._waiting), _AT_ONCE))]
        await self._tail.handle("tail", events)


def _outcome(failure: BaseException | None) -> Outcome:
    match failure:
        case None:
            return "ok"
        case LimitExceeded():
            return "limit"
        case SandboxError():
            return "died"
        case asyncio.CancelledError():
            return "canceled"
    return "exception"


def _error(failure: BaseException | None) -> tuple[str, str, str] | None:
    if failure is None or isinstance(failure, asyncio.CancelledError):
        return None
    if isinstance(failure, RemoteError):
        return failure.name, failure.message, failure.trace
    return type(failure).__name__, str(failure), ""


def _plain(line: TailLine) -> dict[str, Any]:
    found = dataclasses.asdict(line)
    return {**found, "message": [line.text], "timestamp": line.time_ms}
