"""A run's journal as a capability: what a sandbox may ask of the engine, over the wire, for the one run it was given.

Which run it is follows from the capability; nothing that a sandbox says can name another. The engine checks each value.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from cloister.engine import Journal, Outcome, StepConfig, StepRecord, Verdict
from cloister.engine.attempt import current
from cloister.ipc import CapabilityError, PayloadError, values
from cloister.ipc.answer import Answer
from cloister.ipc.stubs import Channel

from .attempts import Attempts
from .binding import DynamicWorkflowBinding
from .history import ENDED, config_shown, error_record, plain, rare_outcome
from .pulses import Pulses
from .questions import QUESTIONS
from .silence import SILENCE
from .tickets import Tickets

_numbers = itertools.count(1)
_RECORDS: Final = {"sleep": "sleep", "wait_for_event": "wait", "keep": "value", "child": "child"}
_LONGEST_TIMEOUT: Final = StepConfig().timeout_ms / 1000  # of steps that say nothing
_DONE: Final = values.dumps(["done", None])
_SHORT: Final = 65_536
_ARGUMENTS: Final = 9  # of `settle`


class JournalTarget:
    """See `cloister.engine.Journal`; the arguments are a list, in its order."""

    uncounted = True
    """What a run asks here is the engine's business, and no subrequest of the tenant's."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.number = next(_numbers)
        self._asking = 0
        timeouts = [record.config.timeout_ms / 1000 for record in journal.history if record.config is not None]
        self._longest = max([_LONGEST_TIMEOUT, *timeouts])
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._heard = self._now()
        self._records: dict[tuple[str, str, int], StepRecord] = {
            (record.kind, record.name, record.count): record for record in journal.history
        }
        self._recorded: set[tuple[str, str, object]] = {
            key for key, record in self._records.items() if record.state in ENDED
        }
        self._attempts = Attempts(journal)
        self.on_record: Callable[[], None] = lambda: None
        self._pulses = Pulses()
        self.tickets = Tickets(self.answer)
        self.end_with(lambda reason: None)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """None."""
        return {}

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """One question."""
        if method == "child":
            return await self._child(channel, payload)
        channel.scan(payload)
        arguments = values.loads(payload, trusted=True)
        subject: Any = self._journal
        function: Any = QUESTIONS.get(method)
        if function is None:
            subject, function = self, _OF_THE_RUN.get(method)
        beside = _OF_THE_CALL.get(method)
        if (function or beside) is None or not isinstance(arguments, list):
            raise CapabilityError(f"a journal has no method {method!r}")
        if beside is not None:
            if len(arguments) != beside.takes:
                raise PayloadError(f"{method} takes {beside.takes} arguments, not {len(arguments)}")
            return await beside.function(self, channel, *arguments)
        self._asking += 1
        try:
            result = await function(subject, *arguments)
            if method == "settle":
                return self._settled(result, *arguments[:3])
            if method in _RECORDS:
                self._count(method, *arguments[:2])
            return result  # type: ignore[no-any-return]
        except TypeError as error:
            raise PayloadError(f"{method} takes other arguments") from error
        finally:
            self._asking -= 1
            self._heard = self._now()

    def pledge(self, method: str, payload: bytes, channel: Channel) -> Answer | None:
        """See `Capability`. For the commonest question of all: that a step has come to its result."""
        if method not in {"settle", "after"} or len(payload) > _SHORT:
            return None
        arguments = _read(payload, channel)
        if method == "after":
            match arguments:
                case [taken, "settle", bytes(payload)]:
                    self._took(taken)  # once, though `answer` may be asked the same
                    arguments = _read(payload, channel)
                case _:
                    return None
        if type(arguments) is not list or len(arguments) != _ARGUMENTS:
            return None
        name, count, attempt, config, value, error, retryable, more, within = arguments
        if type(attempt) is not int or attempt != 1 or retryable is not True or not (config is error is more is None):
            return None
        answer = Answer(self._loop)
        told = functools.partial(self._told, answer, name, count)
        if not self._journal.record_result(name, count, value, within, told):
            return None
        self._asking += 1
        return answer

    def _told(self, answer: Answer, name: str, count: int, error: BaseException | None) -> None:
        self._asking -= 1
        self._heard = self._now()
        if error is None:
            self._ended(name, count, 1)
            answer.settle(_DONE)
        else:
            answer.fail(error)

    def _count(self, method: str, name: str, count: int) -> None:
        """A record forgives what the run has used so far: each does it once."""
        key = (_RECORDS[method], name, count)
        if key not in self._recorded:
            self._recorded.add(key)
            self.on_record()

    def end_with(self, end: Callable[[str], None]) -> None:
        """What ends its sandbox, for a reason."""
        self._end = self._pulses.end = self.tickets.end = end

    def look(self) -> None:
        """End the worker if the run has neither asked nor answered for longer than any of its steps may take."""
        now = self._now()
        if self._asking:
            self._heard = now
        elif now - self._heard > self._longest + SILENCE:
            self._end(f"the sandbox was ended: its run has been silent for {now - self._heard:.0f} s")

    def close(self) -> None:
        """The run is over."""
        self._pulses.close()
        self.tickets.close()

    def _settle(
        self,
        name: str,
        count: int,
        attempt: int,
        config: object,
        value: bytes,
        error: object,
        retryable: bool,
        more: object = None,
        within: str | None = None,
    ) -> Awaitable[Verdict]:
        if more is not None:
            outcome = rare_outcome(Outcome(name, count, attempt, None, within=within), more, value, error, retryable)
        elif error is None:
            outcome = Outcome(name, count, attempt, None, value, within=within)
        else:
            outcome = Outcome(name, count, attempt, None, None, error_record(error), bool(retryable), within)
        return self._journal.settle(outcome) if config is None else self._settle_configured(outcome, config)

    async def _settle_configured(self, outcome: Outcome, config: object) -> Verdict:
        outcome.config = await self._journal.configure(config)
        return await self._journal.settle(outcome)

    def _settled(self, verdict: Verdict, name: str, count: int, attempt: int) -> bytes:
        self._ended(name, count, attempt)
        return _DONE if verdict.error is None else values.dumps([verdict.state, plain(verdict.error)])

    def _ended(self, name: str, count: int, attempt: int) -> None:
        """It was recorded, for the first time: the journal sees to that."""
        if self._attempts.under_way:
            self._attempts.ended(name, count, attempt)
        if self._pulses.under_way:
            self._pulses.ended(name, count)
        self.on_record()

    async def _through(self, channel: Channel, mark: str, target: int, method: str, payload: bytes) -> bytes:
        """A call of a capability on behalf of a step, which whoever is called may ask for."""
        if not isinstance(mark, str) or type(target) is not int or not isinstance(method, str):
            raise PayloadError("a call by way of a run says from which step it comes, and what is called")
        if not isinstance(payload, bytes):
            raise PayloadError("the arguments of a call are encoded")
        if current.get() is not None:  # each call begins with none
            raise PayloadError("a call by way of a run came inside another one")
        token = current.set(self._attempts.named(mark))
        try:
            return await channel.forward(target, method, payload)
        finally:
            current.reset(token)

    async def _after(self, channel: Channel, taken: object, method: str, payload: bytes) -> bytes:
        """Another question, and first what events the run has gone on with since the one before."""
        self._took(taken)
        if method in _OF_THE_CALL or not isinstance(payload, bytes):
            raise PayloadError(f"{method!r:.40} is not asked after something else")
        return await self.answer(method, payload, channel) if method else values.dumps(None)

    def _took(self, taken: object) -> None:
        if not isinstance(taken, list):
            raise PayloadError("what was taken is a list")
        for each in taken:
            match each:
                case [str(name), int(count), str(kind), timeout, None]:
                    self._journal.took(name, count, kind, timeout)
                    self._count("wait_for_event", name, count)
                case _:
                    raise PayloadError("what was taken has a name, a count, a type and a timeout")

    async def _later(self, channel: Channel, ticket: int, method: str, payload: bytes) -> bytes:
        """Another question, whose answer is told under a number."""
        if method in _OF_THE_CALL and method != "after":
            raise PayloadError(f"{method!r:.40} is not asked with a ticket")
        self.tickets.take(ticket, method, payload, channel)
        return values.dumps(None)

    async def _forget(self, channel: Channel, ticket: int) -> bytes:
        self.tickets.forget(ticket)
        return values.dumps(None)

    async def _configure(self, config: object) -> bytes:
        resolved = await self._journal.configure(config)
        self._longest = max(self._longest, resolved.timeout_ms / 1000)
        return values.dumps(config_shown(resolved))

    async def _child(self, channel: Channel, payload: bytes) -> bytes:
        """Create an instance through a binding that was granted, and wait for its end."""
        match channel.decode(payload)[0]:
            case [str(name), int(count), DynamicWorkflowBinding() as binding, dict(options), timeout, within]:
                pass
            case _:
                raise PayloadError("a child has a name, a count, a workflow binding, options, a timeout and its place")
        self._asking += 1
        token = current.set(self._attempts.named(f"1 {count} child {name}"))
        try:
            child = binding.child(options)
        finally:
            current.reset(token)
        try:
            if ("child", name, count) not in self._records:
                with self._journal.hold():
                    await binding.allowed()
            value = await self._journal.child(name, count, child, timeout, within)
        finally:
            self._asking -= 1
            self._heard = self._now()
        self._count("child", name, count)
        return value

    async def _beat(self, name: str, count: int, attempt: int, details: bytes, config: object) -> bytes:
        resolved = await self._journal.configure(config) if config is not None else None
        wanted = await self._journal.beat(name, count, attempt, details, resolved)
        self._pulses.beat(name, count)
        return values.dumps(wanted)

    async def _recall(self, kind: str, name: str, count: int) -> bytes:
        record = self._records.get((kind, name, count))
        if record is not None:
            return values.dumps([record.value, plain(record.error)])
        raise PayloadError(f"there is no recorded value of {kind} {name!r}")

    async def _started(self, name: str, count: int, attempt: int, heartbeat: int | None = None) -> bytes:
        self._journal.started(name, count, attempt)
        if heartbeat is not None:
            self._pulses.began(name, count, heartbeat)
        return values.dumps(None)

    async def _stopped(self, name: str, count: int) -> bytes:
        self._journal.stopped(name, count)
        self._pulses.ended(name, count)
        return values.dumps(None)


def _read(payload: bytes, channel: Channel) -> Any:
    """Arguments, looked at first, which for most is the same."""
    arguments = values.leaves(payload)
    if arguments is not None:
        return arguments
    channel.scan(payload)
    return values.loads(payload, trusted=True)


_OF_THE_RUN: Final[dict[str, Callable[..., Any]]] = {
    "settle": JournalTarget._settle,
    "configure": JournalTarget._configure,
    "recall": JournalTarget._recall,
    "started": JournalTarget._started,
    "stopped": JournalTarget._stopped,
    "beat": JournalTarget._beat,
}
"""Those of which more is known here than the journal itself knows."""


class _OfTheCall(NamedTuple):
    function: Callable[..., Awaitable[bytes]]
    takes: int


_OF_THE_CALL: Final = {
    "through": _OfTheCall(JournalTarget._through, 4),
    "after": _OfTheCall(JournalTarget._after, 3),
    "later": _OfTheCall(JournalTarget._later, 3),
    "forget": _OfTheCall(JournalTarget._forget, 1),
}
"""Those which need the connection that they came by, and are nothing that the run waits for."""
