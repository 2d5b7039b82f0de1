"""What happened to an instance, told from any point on, and then as it happens.

A subscriber reads what is recorded and is woken when there is more: nothing is kept in memory for it, and the history
is the same for whoever comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .errors import InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Awaitable

PAGE: Final = 256

STATUS_TYPES: Final[Mapping[str, str]] = {
    "queued": "workflow_queued",
    "running": "workflow_running",
    "waiting": "workflow_waiting",
    "waitingForPause": "workflow_waiting_for_pause",
    "paused": "workflow_paused",
    "complete": "workflow_completed",
    "errored": "workflow_errored",
    "terminated": "workflow_terminated",
}
TYPES: Final = frozenset({
    *STATUS_TYPES.values(), "sleep_started", "wait_started", "wait_timed_out", "rollback_started", "rollback_completed",
    "rollback_errored", *(f"{what}_{how}" for what in ("sleep", "wait", "value", "child")
                          for how in ("completed", "errored")),
    *(f"{whose}{what}_{how}" for whose in ("", "rollback_") for what in ("step", "attempt")
      for how in ("started", "completed", "errored")),
})  # fmt: skip
EVENTS_OF_A_LINE: Final = 4
"""So many events may be told of what is on record under one number: each has a number of its own."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something on record: what it is, and of a step that has ended, how. `started` is when that began, if known."""

    number: int
    at: int
    what: str
    state: str
    name: str | None
    count: int | None
    attempt: int | None
    due: int | None
    error: Mapping[str, str] | None
    started: int | None


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One thing that happened. `id` is the cursor that continues after it."""

    id: int
    type: str
    timestamp_ms: int
    name: str | None = None
    count: int | None = None
    attempt: int | None = None
    due_ms: int | None = None
    """When the next attempt is made, the sleep is over, or the wait gives up."""
    error: Mapping[str, str] | None = None

    @property
    def retry_delay_ms(self) -> int | None:
        """How long it is until the next attempt, if there is one."""
        failed = self.type.endswith("attempt_errored") and self.due_ms is not None
        return max((self.due_ms or 0) - self.timestamp_ms, 0) if failed else None

    def plain(self, instance_id: str) -> dict[str, Any]:
        """As a dict under Cloudflare's names, without what it does not have."""
        told = {
            "eventId": self.id, "type": self.type, "timestamp": self.timestamp_ms, "instanceId": instance_id,
            "stepName": self.name, "stepCount": self.count, "attempt": self.attempt, "due": self.due_ms,
            "retryDelayMs": self.retry_delay_ms, "error": None if self.error is None else dict(self.error),
        }  # fmt: skip
        return {key: value for key, value in told.items() if value is not None}


def check_cursor(cursor: object) -> int:
    """Where to go on: the `id` of the last event that was dealt with, None for the beginning."""
    if cursor is None:
        return -1
    if type(cursor) is not int or not 0 <= cursor < 2**63:
        raise InvalidCursor
    return cursor


def check_types(types: object) -> frozenset[str]:
    """Which events are wanted; all of them if none are named."""
    if types is None:
        return frozenset()
    given = [types] if isinstance(types, str) else types
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in given):
        raise TypeError(f"event types are a list of texts, not {types!r:.80}")
    if strange := sorted(set(given) - TYPES):
        raise ValueError(f"{strange[0]!r:.80} is no type of event; there are {', '.join(sorted(TYPES))}")
    return frozenset(given)


@dataclass(slots=True)
class Watchers:
    """Who waits for news of which instance. `watched` is read by the store, in another thread."""

    watched: set[int] = field(default_factory=set)
    _bells: dict[int, set[asyncio.Event]] = field(default_factory=dict)

    @contextmanager
    def watch(self, number: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever something was recorded about this instance."""
        bell = asyncio.Event()
        self._bells.setdefault(number, set()).add(bell)
        self.watched.add(number)
        try:
            yield bell
        finally:
            bells = self._bells[number]
            bells.discard(bell)
            if not bells:
                del self._bells[number]
                self.watched.discard(number)

    def ring(self, numbers: frozenset[int] | None) -> None:
        """Something was recorded about these; None if nobody knows about which."""
        for number in self._bells.keys() & numbers if numbers is not None else tuple(self._bells):
            for bell in self._bells[number]:
                bell.set()


class Narrator:
    """Tells what is on record as events, in order.

    That an attempt of a step has begun is on record by itself if somebody was there to hear of it, or if it was not the
    first one. Else it is told with what came of it, so that everybody hears of the same things. `known` are attempts
    which were told of before. One that has failed comes to no other end: a step that was given its outcome by hand
    before the next one comes to that, and to nothing else.
    """

    def __init__(self, known: Iterable[Known] = ()) -> None:
        self._begun: set[_Step] = set()
        self._failed: dict[_Step, int | None] = {}
        for what, name, count, attempt in known:
            self._begun.add((_BEGINNING_OF.get(what, what), name, count))
            if what in _FAILURES:
                self._failed[what, name, count] = attempt

    def tell(self, line: Line) -> list[HistoryEvent]:
        """One line, as it is: the last of its events has the last of its numbers."""
        what, state, attempt = line.what, line.state, line.attempt
        whose = "rollback_" if what in _OF_ROLLBACKS else ""
        if what in _BEGINNINGS:
            beginning = what, line.name, line.count
            told = self._beginning(line, whose, line.at, again=beginning in self._begun)
            if attempt == 1:
                self._begun.add(beginning)
        elif what in _ATTEMPTED and (state or what in _FAILURES):
            told = self._ending(line, whose)
        else:
            if what == "queued":  # of a new run, which begins its steps anew
                self._begun.clear()
                self._failed.clear()
            told = [(_plain_type(line), line.at)]
        first = (line.number + 1) * EVENTS_OF_A_LINE - len(told)
        return [self._event(line, first + place, *each) for place, each in enumerate(told)]

    def _ending(self, line: Line, whose: str) -> list[tuple[str, int]]:
        """Of an attempt, or of its step, or of both."""
        step: _Step = ("undo" if whose else "attempt", line.name, line.count)
        told = []
        if line.attempt is None or self._failed.get(step) != line.attempt:
            told = self._unheard(line, whose)
            if line.attempt:
                told.append((f"{whose}attempt_{'completed' if line.state == 'done' else 'errored'}", line.at))
        if line.state:
            told.append((f"{whose}{_outcome('step', line.state)}", line.at))
        else:
            self._failed[step] = line.attempt
        return told

    def _unheard(self, line: Line, whose: str) -> list[tuple[str, int]]:
        """The beginning of what nobody was told of when it began."""
        beginning = _BEGUN[whose], line.name, line.count
        if line.attempt != 1 or beginning in self._begun:
            return []
        began = line.at if line.started is None else min(line.started, line.at)
        return self._beginning(line, whose, began)

    @staticmethod
    def _beginning(line: Line, whose: str, at: int, *, again: bool = False) -> list[tuple[str, int]]:
        """With its step's, unless that has begun before: an attempt that was lost with its process begins again."""
        first = [(f"{whose}step_started", at)] if line.attempt == 1 and not again else []
        return [*first, (f"{whose}attempt_started", at)]

    @staticmethod
    def _event(line: Line, number: int, kind: str, at: int) -> HistoryEvent:
        if kind.endswith(("step_started", "attempt_started")):
            attempt = line.attempt if kind.endswith("attempt_started") else None
            return HistoryEvent(number, kind, at, line.name, line.count, attempt, None, None)
        return HistoryEvent(number, kind, at, line.name, line.count, line.attempt, line.due, line.error)


_BEGUN: Final = {"": "began", "rollback_": "undo began"}
_BEGINNING_OF: Final = {"attempt": "began", "undo": "undo began"}
_BEGINNINGS: Final = frozenset(_BEGUN.values())
_FAILURES: Final = frozenset({"attempt", "undo"})
_ATTEMPTED: Final = frozenset({"do", *_FAILURES})
_OF_ROLLBACKS: Final = frozenset({"undo", "undo began"})


def _outcome(kind: str, state: str) -> str:
    return f"{kind}_completed" if state == "done" else f"{kind}_errored"


def _plain_type(line: Line) -> str:
    if line.state:
        return "wait_timed_out" if (line.what, line.state) == ("wait", "failed") else _outcome(line.what, line.state)
    if line.what == "undone":
        return "rollback_completed" if line.error is None else "rollback_errored"
    return STATUS_TYPES.get(line.what, "rollback_started" if line.what == "rollback" else f"{line.what}_started")


_Step = tuple[str, "str | None", "int | None"]
"""As what something of a step is on record, and the step's name and count."""
Known = tuple[str, "str | None", "int | None", "int | None"]
"""The same with the attempt: that the first one has begun, or which was the last to fail."""
Read = Callable[[int, int, int], "Awaitable[tuple[list[Line], bool]]"]
"""Number of an instance, a line's number, how many at most: that line and what came after it, and whether the instance
has ended."""


async def follow(
    number: int,
    read: Read,
    watchers: Watchers,
    after: int,
    types: frozenset[str],
    narrator: Narrator,
    watched: Callable[[], None],
) -> AsyncGenerator[HistoryEvent, None]:
    """Everything after the cursor, then everything as it comes, until the instance has ended. `watched` is called when
    what comes is told.
    """
    line = max(after, 0) // EVENTS_OF_A_LINE
    with watchers.watch(number) as bell:
        watched()
        while True:
            bell.clear()  # before it is read, so that what comes meanwhile is not missed
            lines, ended = await read(number, line, PAGE)
            for each in lines:
                line = each.number + 1
                for event in narrator.tell(each):
                    if event.id > after and (not types or event.type in types):
                        yield event
            if len(lines) == PAGE:
                continue
            if ended:
                return
            if not lines:
                await bell.wait()
