"""What a worker did, told to whoever tails it: one event for each invocation after its answer; or as it happens, with a
beginning, lines and an end.

A tail is a function of the host's or an entrypoint, perhaps of another tenant's, which defines `tail(events)`. That a
worker takes such events is told to functions only: entrypoints that tail themselves or one another would have no end.
How a tail is told is `courier`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from cloister.ipc import CodecError, RemoteError, TooManyCalls
from cloister.sandbox import LimitExceeded, LogLine, SandboxError

from .courier import AT_ONCE, Courier, TailWorker

_log = logging.getLogger("cloister.tail")
_LEVELS: Final = {"stderr": logging.WARNING, "warning": logging.WARNING, "error": logging.ERROR, "debug": logging.DEBUG}
MOST_LINES: Final = 256
MOST_BYTES: Final = 128 * 1024
"""Of lines in one event."""
_ABOUT: Final = 100
"""Characters of what is said beside."""
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
class TailStart:
    """An invocation begins: what a streaming tail hears before its lines. A `TailEvent` without lines is its end."""

    tenant_id: str
    sandbox: int
    invocation: int
    entrypoint: str | None
    method: str
    time_ms: int

    def plain(self) -> dict[str, Any]:
        """For a tenant, under Cloudflare's names."""
        return {
            "type": "onset", "scriptName": self.tenant_id, "sandbox": self.sandbox, "invocation": self.invocation,
            "entrypoint": self.entrypoint, "event": {"rpcMethod": self.method}, "timestamp": self.time_ms,
        }  # fmt: skip


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
            "type": "outcome", "scriptName": self.tenant_id, "sandbox": self.sandbox, "invocation": self.invocation,
            "entrypoint": self.entrypoint, "event": {"rpcMethod": self.method},
            "outcome": self.outcome, "eventTimestamp": self.time_ms, "wallTime": self.wall_ms, "cpuTime": self.cpu_ms,
            "logs": [_plain(line) for line in self.logs], "truncated": self.left_out > 0, "limit": self.limit,
            "exceptions": [{**error, "timestamp": self.time_ms} for error in errors],
        }  # fmt: skip


Told = TailStart | TailLine | TailEvent
Tail = Callable[[TailEvent], object] | TailWorker
StreamingTail = Callable[[Told], object] | TailWorker


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
        self._tails = [Courier(tail, TailEvent.plain, _size) for tail in tails]
        self._streaming = [Courier(tail, _plain, _size, as_it_happens=True) for tail in streaming]
        self._count = 0
        self._open: dict[int, _Lines] = {}
        self._tailing: deque[int] | None = None  # which takes as much as all the rest, and few are tails
        """The latest invocations in which it was a tail itself."""

    def hear(self, line: LogLine) -> None:
        """One more line. Without tails it goes to the host's own log."""
        known = 0 <= line.invocation <= self._count  # it is the tenant's process that says of which it is
        invocation = line.invocation if known else 0
        entry = TailLine(self._tenant_id, self._sandbox, line.level, line.text, invocation, line.time_ms)
        if (kept := self._open.get(invocation)) is not None:
            kept.add(entry)
        self._stream(entry)  # not to who prints it, or it would be told to it again
        if not self._streaming and not self._tails:
            text = line.text.replace("\n", "\n    | ")  # so that no tenant can write a line that looks like another's
            _log.log(_LEVELS.get(line.level, logging.INFO), "%s: %s", self._tenant_id, text)

    def follow(
        self, entrypoint: str | None, method: str, call: Awaitable[bytes], *, tailing: bool = False
    ) -> Awaitable[bytes]:
        """The same call, with what comes of it told to the tails. To be awaited at once, or in the order of the calls:
        the sandbox counts them as they arrive. `tailing`: it takes what it was told as a tail itself."""
        if not self._tails and not self._streaming:
            return call
        return self._followed(entrypoint, method, call, tailing)

    async def _followed(self, entrypoint: str | None, method: str, call: Awaitable[bytes], tailing: bool) -> bytes:
        self._count += 1
        number, lines = self._count, _Lines()
        began, cpu, now = time.perf_counter(), self._cpu_seconds(), int(time.time() * 1000)
        self._open[number] = lines
        if tailing:
            self._tailing = self._tailing or deque(maxlen=AT_ONCE)
            self._tailing.append(number)
        about: dict[str, Any] = {
            "tenant_id": self._tenant_id, "sandbox": self._sandbox, "invocation": number, "entrypoint": entrypoint,
            "method": method, "time_ms": now,
        }  # fmt: skip
        self._stream(TailStart(**about))
        failure: BaseException | None = None
        try:
            return await call
        except (CodecError, TooManyCalls) as error:
            self._count -= 1  # it was never sent
            failure = error
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            del self._open[number]
            event = TailEvent(
                **about, outcome=_outcome(failure), error=_error(failure), logs=tuple(lines.kept),
                left_out=lines.left_out, wall_ms=round((time.perf_counter() - began) * 1000, 3),
                cpu_ms=round((self._cpu_seconds() - cpu) * 1000, 3),
                limit=str(failure) if isinstance(failure, LimitExceeded) else "",
            )  # fmt: skip
            self._stream(dataclasses.replace(event, logs=()))
            for courier in self._tails if self._count >= number else ():
                if courier.direct or not tailing:
                    courier.take(event)

    def _stream(self, told: Told) -> None:
        for courier in self._streaming:
            if courier.direct or told.invocation not in (self._tailing or ()):
                courier.take(told)


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


def _plain(told: Told) -> dict[str, Any]:
    if not isinstance(told, TailLine):
        return told.plain()
    found = dataclasses.asdict(told)
    return {**found, "type": "log", "scriptName": told.tenant_id, "message": [told.text], "timestamp": told.time_ms}


def _size(told: Told) -> int:
    """Characters of it, about."""
    match told:
        case TailLine():
            return _ABOUT + len(told.text)
        case TailEvent():
            return _ABOUT + sum(map(_size, told.logs)) + sum(map(len, told.error or ()))
    return _ABOUT
