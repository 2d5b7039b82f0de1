"""Outcomes that a test decides, in place of those that a workflow would come to: results, errors, timeouts, events.

What is recorded looks as if it had happened, so whatever is made of the records need not know. A workflow that runs
elsewhere is supervised in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.ipc import values

from .errors import WaitTimeout
from .records import ErrorRecord, EventRecord, Outcome
from .rules import MAX_CHUNK, describe

if TYPE_CHECKING:
    from .records import StepConfig

_EVER = 1 << 30


@dataclass(slots=True)
class _Planned:
    """So many of the next attempts of a step end so."""

    times: int
    value: bytes | None = None
    stream: bytes | None = None
    error: ErrorRecord | None = None
    late: bool = False


class Mocks:
    """Give it to an engine: `Engine(path, mocks=Mocks())`. Steps are named by name, and by count where it matters.

    `skip_sleeps` and `skip_retry_delays`: nothing is waited for, and everything else happens. `evict`: a run is put
    aside after each outcome that it records, so that all that follows is a replay.
    """

    def __init__(self, *, skip_sleeps: bool = False, skip_retry_delays: bool = False, evict: bool = False) -> None:
        self.skip_sleeps, self.skip_retry_delays, self.evict = skip_sleeps, skip_retry_delays, evict
        self._steps: dict[tuple[str, int | None], list[_Planned]] = {}
        self._events: dict[str, list[bytes]] = {}
        self._unheard: set[str] = set()

    def step_result(self, name: str, result: Any, *, count: int | None = None) -> None:
        """The step returns this without running. Once for a step."""
        self._plan(name, count, _Planned(_EVER, value=values.dumps(result)))

    def step_stream(self, name: str, data: bytes, *, count: int | None = None) -> None:
        """The step returns a stream of this without running. Once for a step."""
        self._plan(name, count, _Planned(_EVER, stream=data))

    def step_error(
        self, name: str, error: Exception | tuple[str, str], *, count: int | None = None, times: int | None = None
    ) -> None:
        """So many of its next attempts (all by default) raise this; the others run."""
        record = describe(error) if isinstance(error, Exception) else ErrorRecord(*error)
        self._plan(name, count, _Planned(_EVER if times is None else times, error=record))

    def step_timeout(self, name: str, *, count: int | None = None, times: int | None = None) -> None:
        """So many of its next attempts (all by default) take too long."""
        self._plan(name, count, _Planned(_EVER if times is None else times, late=True))

    def event(self, type: str, payload: Any) -> None:  # noqa: A002 - the name it has everywhere
        """The next wait for this type that has none gets this event."""
        self._events.setdefault(type, []).append(values.dumps(payload))

    def event_timeout(self, name: str) -> None:
        """Waits of this name time out at once."""
        self._unheard.add(name)

    def _plan(self, name: str, count: int | None, planned: _Planned) -> None:
        before = self._steps.setdefault((name, count), [])
        if any(plan.times == _EVER for plan in before):
            raise ValueError(f"it is decided already how step {name!r} ends")
        before.append(planned)

    # What a journal asks

    def outcome(self, name: str, count: int, attempt: int, config: StepConfig) -> Outcome | None:
        """How an attempt ends, if that is decided."""
        for key in ((name, count), (name, None)):
            for plan in self._steps.get(key, ()):
                if plan.times > 0:
                    plan.times -= plan.times < _EVER
                    error = _timeout(config) if plan.late else plan.error
                    if plan.stream is not None:
                        return Outcome(name, count, attempt, size=len(plan.stream))
                    return Outcome(name, count, attempt, None, plan.value, error)
        return None

    def pieces(self, name: str, count: int) -> list[bytes]:
        """The stream that a step returns, if that is decided, as it is recorded."""
        plans = [*self._steps.get((name, count), ()), *self._steps.get((name, None), ())]
        data = next((plan.stream for plan in plans if plan.stream is not None), b"")
        return [data[start : start + MAX_CHUNK] for start in range(0, len(data), MAX_CHUNK)]

    def wait(self, name: str, event_type: str, now: int, allowed_ms: int) -> EventRecord | WaitTimeout | None:
        """What a wait comes to, if that is decided."""
        if name in self._unheard:
            return WaitTimeout(allowed_ms)
        waiting = self._events.get(event_type)
        return EventRecord(event_type, waiting.pop(0), now) if waiting else None


def _timeout(config: StepConfig) -> ErrorRecord:
    limit = WaitTimeout(config.timeout_ms)
    return ErrorRecord(limit.name, limit.message)
