"""A run's journal as a capability: what a sandbox may ask of the engine, over the wire, for the one run it was given.

Which run it is follows from the capability; nothing that a sandbox says can name another. The engine checks each value.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from cloister.engine import ErrorRecord, Journal, Outcome, StepConfig, StepRecord, WaitTimeout
from cloister.ipc import CapabilityError, PayloadError, values
from cloister.ipc.capabilities import Channel

SILENCE: Final = 60.0
"""Seconds that a run may be silent for beyond the longest timeout of its steps, unless it waits for the engine."""
INLINE: Final = 4 * 1024 * 1024
"""Bytes of recorded values that travel with a run. Of those beyond, the guest asks for the ones it comes to."""
_numbers = itertools.count(1)
_SMALL: Final = 64  # bytes for which asking is not worth a round trip
_ENDED = frozenset({"done", "failed"})
_RECORDS: Final = {"settle": "do", "sleep": "sleep", "wait_for_event": "wait"}


class JournalTarget:
    """See `cloister.engine.Journal`; the arguments are a list, in its order."""

    uncounted = True
    """What a run asks here is the engine's business, and no subrequest of the tenant's."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.number = next(_numbers)
        self._asking = 0
        configs = [StepConfig(), *(record.config for record in journal.history if record.config is not None)]
        self._longest = max(config.timeout_ms for config in configs) / 1000
        self._heard = asyncio.get_running_loop().time()
        self._records: dict[tuple[str, str, int], StepRecord] = {
            (record.kind, record.name, record.count): record for record in journal.history
        }
        self._recorded: set[tuple[str, str, object]] = {
            key for key, record in self._records.items() if record.state in _ENDED
        }
        self.on_record: Callable[[], None] = lambda: None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """None."""
        return {}

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """One question."""
        arguments = values.loads(payload)
        function = _QUESTIONS.get(method)
        if function is None or not isinstance(arguments, list):
            raise CapabilityError(f"a journal has no method {method!r}")
        self._asking += 1
        try:
            result: bytes = await function(self, *arguments)
            if method in _RECORDS:
                self._count(method, *arguments[:3])
            return result
        except TypeError as error:
            raise PayloadError(f"{method} takes other arguments: {error}") from error
        finally:
            self._asking -= 1
            self._heard = asyncio.get_running_loop().time()

    def _count(self, method: str, name: str, count: int, attempt: object) -> None:
        """A record forgives what the run has used so far: each does it once."""
        key = (_RECORDS[method], name, count if method != "settle" else (count, attempt))
        if key not in self._recorded:
            self._recorded.add(key)
            self.on_record()

    @asynccontextmanager
    async def watch(self, end: Callable[[str], None]) -> AsyncIterator[None]:
        """End the worker when the run neither asks nor answers for longer than any of its steps may take."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if self._asking:
                self._heard = loop.time()
            if loop.time() - self._heard > self._longest + SILENCE:
                end(f"the sandbox was ended: its run has been silent for {loop.time() - self._heard:.0f} s")
            else:
                timer = loop.call_later(SILENCE, look)

        timer = loop.call_later(SILENCE, look)
        try:
            yield
        finally:
            timer.cancel()

    async def _settle(
        self,
        name: str,
        count: int,
        attempt: int,
        config: object,
        value: bytes,
        error: object,
        retryable: bool,
        within: str | None = None,
    ) -> bytes:
        resolved = await self._journal.configure(config) if config is not None else None
        if error is None:
            outcome = Outcome(name, count, attempt, resolved, value=value, within=within)
        else:
            outcome = Outcome(
                name, count, attempt, resolved, error=_error(error), retryable=bool(retryable), within=within
            )
        verdict = await self._journal.settle(outcome)
        return values.dumps([verdict.state, _plain(verdict.error)])

    async def _configure(self, config: object) -> bytes:
        resolved = await self._journal.configure(config)
        self._longest = max(self._longest, resolved.timeout_ms / 1000)
        return values.dumps(_shown(resolved))

    async def _attempt(self, name: str, count: int) -> bytes:
        return values.dumps(await self._journal.attempt(name, count))

    async def _recall(self, kind: str, name: str, count: int) -> bytes:
        record = self._records.get((kind, name, count))
        if record is not None:
            return values.dumps([record.value, _plain(record.error)])
        raise PayloadError(f"there is no recorded value of {kind} {name!r}")

    async def _started(self, name: str, count: int, attempt: int) -> bytes:
        self._journal.started(name, count, attempt)
        return values.dumps(None)

    async def _stopped(self, name: str, count: int) -> bytes:
        self._journal.stopped(name, count)
        return values.dumps(None)

    async def _sleep(self, name: str, count: int, duration: object, until: object, within: str | None = None) -> bytes:
        await self._journal.sleep(name, count, duration=duration, until=until, within=within)
        return values.dumps(None)

    async def _wait_for_event(
        self, name: str, count: int, kind: str, timeout: object, within: str | None = None
    ) -> bytes:
        try:
            event = await self._journal.wait_for_event(name, count, kind, timeout, within=within)
        except WaitTimeout as error:
            return values.dumps({"error": [error.name, str(error), ""]})
        return event.encode()


_QUESTIONS: Final[dict[str, Callable[..., Any]]] = {
    "settle": JournalTarget._settle,
    "configure": JournalTarget._configure,
    "attempt": JournalTarget._attempt,
    "recall": JournalTarget._recall,
    "started": JournalTarget._started,
    "stopped": JournalTarget._stopped,
    "sleep": JournalTarget._sleep,
    "wait_for_event": JournalTarget._wait_for_event,
}


def history(journal: Journal) -> list[Any]:
    """The records as a guest reads them: kind, name, count, state, attempts, value, error, config, enclosing step.

    In place of a value that is to be asked for, or of an error's, stands its size.
    """
    left = INLINE
    shown: list[list[Any]] = []
    for record in journal.history:
        value: bytes | int | None = record.value
        error = _plain(record.error)
        size = len(record.value or b"") + sum(len(part.encode()) for part in error or ())
        left -= size
        if left < 0 and size > _SMALL and record.state in _ENDED:
            value, error = size, None
        config = _shown(record.config) if record.config is not None else None
        shown.append(
            [record.kind, record.name, record.count, record.state, record.attempts, value, error, config, record.within]
        )
    return shown


def resolved() -> dict[str, Any]:
    """The configuration of a step that gives none."""
    return _shown(StepConfig())


def _shown(config: StepConfig) -> dict[str, Any]:
    retries = {"limit": config.limit, "delay": config.delay_ms, "backoff": config.backoff}
    return {"retries": retries, "timeout": config.timeout_ms}


def _plain(error: ErrorRecord | None) -> list[str] | None:
    return None if error is None else [error.name, error.message, error.trace]


def _error(error: object) -> ErrorRecord:
    match error:
        case [str(name), str(message), str(trace)]:
            return ErrorRecord(name, message, trace)
    raise PayloadError("an error is a name, a message and a traceback")
