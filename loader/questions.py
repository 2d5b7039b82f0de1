"""What a run asks of its journal and of nobody else: arguments as they came over the wire, and the answer encoded.

The engine checks each argument, so that here they are only handed on in their order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from cloister.engine import Journal, StepKind, WaitTimeout
from cloister.ipc import values

from .history import error_record, plain

_NOTHING: Final = values.dumps(None)


async def _attempt(journal: Journal, name: str, count: int, kind: StepKind = "do") -> bytes:
    return values.dumps(await journal.attempt(name, count, kind))


async def _begin(journal: Journal, name: str, count: int) -> bytes:
    known = await journal.begin(name, count)
    if known is None:
        return _NOTHING
    more = {"size": known.size} if known.size is not None else None
    return values.dumps([known.value or b"", plain(known.error), known.retryable, more])


async def _give_up(journal: Journal, name: str, count: int) -> bytes:
    await journal.give_up(name, count)
    return _NOTHING


async def _put_chunk(journal: Journal, name: str, count: int, attempt: int, number: int, data: bytes) -> bytes:
    await journal.put_chunk(name, count, attempt, number, data)
    return _NOTHING


async def _chunk(journal: Journal, name: str, count: int, number: int) -> bytes:
    return values.dumps(await journal.chunk(name, count, number))


async def _keep(journal: Journal, name: str, count: int, value: bytes, within: str | None = None) -> bytes:
    await journal.keep(name, count, value, within)
    return _NOTHING


async def _undo(journal: Journal, error: object) -> bytes:
    await journal.undo(error_record(error))
    return _NOTHING


async def _undone(journal: Journal, words: str) -> bytes:
    await journal.undone(words)
    return _NOTHING


async def _sleep(
    journal: Journal, name: str, count: int, duration: object, until: object, within: str | None = None
) -> bytes:
    await journal.sleep(name, count, duration=duration, until=until, within=within)
    return _NOTHING


async def _wait_for_event(
    journal: Journal, name: str, count: int, kind: str, timeout: object, within: str | None = None
) -> bytes:
    try:
        event = await journal.wait_for_event(name, count, kind, timeout, within=within)
    except WaitTimeout as error:
        return values.dumps({"error": [error.name, str(error), ""]})
    return event.encode()


QUESTIONS: Final[Mapping[str, Callable[..., Awaitable[bytes]]]] = {
    "attempt": _attempt,
    "begin": _begin,
    "give_up": _give_up,
    "put_chunk": _put_chunk,
    "chunk": _chunk,
    "keep": _keep,
    "undo": _undo,
    "undone": _undone,
    "sleep": _sleep,
    "wait_for_event": _wait_for_event,
}
"""By what they are called on the wire."""
