"""A handle on one instance: what a host asks of it, and does with it.

It holds nothing but the address, and stays valid for as long as the instance exists.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from cloister.ipc import values

from .endings import End
from .errors import InstanceAlreadyExists, InstanceFailed, revive
from .history import EVENTS_OF_A_LINE, HistoryEvent, Line, Narrator, check_cursor, check_types, follow
from .options import Creation, together
from .records import FINAL, Address, ErrorRecord, EventRecord, Key, Status
from .rehearsal import Rehearsal, rehearse
from .rules import bounded_error, check_name, check_timeout, encode, step_key
from .standing import plain_error, standing
from .store.catalogue import Catalogue, Whole
from .store.columns import pack_error
from .store.queue import peek
from .store.surgery import interventions

if TYPE_CHECKING:
    from .controls import Controls
    from .entrypoint import WorkflowEntrypoint

_NOTHING: Any = object()


class Instance:
    """A handle: it stays valid as long as the instance exists, and holds nothing but the address."""

    def __init__(self, controls: Controls, address: Address) -> None:
        self._controls, self._scheduler = controls, controls.scheduler
        self._address = address
        self.scope = address.scope
        self.id = address.id

    async def status(self) -> dict[str, Any]:
        """Where it stands: `status`, `output`, `error`, `trouble` (what keeps it from going on, in words), `labels`,
        the number of its `run`, `rollback` ("running", "complete", or in words why it stopped), and every `steps`
        entry so far.

        Times are in milliseconds: `created`, `started`, `ended`, `wakes` (while it waits), `paused` (while it is), and
        `expires`, after which it is not kept any longer.
        """
        status = await self.status_encoded()
        if status["output"] is not None:
            status["output"] = values.loads(status["output"].data, trusted=True)
        return status

    async def status_encoded(self) -> dict[str, Any]:
        """The same with the output, if there is one, as `Encoded`: for passing it on without reading it."""
        before = self._running()
        instance, rows = await self._scheduler.reader.ask(Catalogue.look, self._address)
        return standing(instance, rows, before, self._running(), self._scheduler.troubles.get(self._address))

    async def step_result(self, step: object) -> Any:
        """What a step returned (its name, or a dict of `name`, `count` and `type`): a stream all in one piece, of an
        event the payload, and of a sensitive step "[REDACTED]". What it failed with is raised; `StepNotFound` if it has
        come to nothing yet.
        """
        key = step_key(step)
        found = await self._scheduler.reader.ask(Catalogue.outcome, self._address, key)
        match found:
            case ErrorRecord():
                raise revive(found)
            case Whole(data):
                return data
        return values.loads(EventRecord.decode(found).payload if key[0] == "wait" else found, trusted=True)

    def _running(self) -> dict[Key, int]:
        """Steps in progress, which are in memory only, and since when."""
        run = self._scheduler.active.get(self._address)
        return {} if run is None else run.journal.running()

    async def rehearse(self, entrypoint: type[WorkflowEntrypoint] | None = None, *, env: Any = None) -> Rehearsal:
        """Replay what is recorded with this class, or with the one that is registered, without running a step or
        recording anything: whether the instance could go on with it. `TimeoutError` if that cannot be found out.
        """
        scheduler = self._scheduler
        claim = await scheduler.writer.submit(peek, self._address)
        kind = scheduler.entrypoint if entrypoint is None else entrypoint
        return await rehearse(claim, kind, scheduler.env if env is None else env, scheduler.writer, scheduler.clock)

    async def pause(self) -> None:
        """Let steps in flight finish, then hold. Deadlines move by the length of the pause."""
        await self._controls.pause(self._address)

    async def resume(self) -> None:
        """Go on after a pause, or call off one that has not begun yet."""
        await self._controls.resume(self._address)

    async def terminate(self, *, rollback: bool = False) -> None:
        """End it for good, now. What its steps still do is not recorded. With `rollback`, steps that have a handler for
        it are taken back first, the last one first; `status()["rollback"]` says how that ended.
        """
        await (self._controls.undo if rollback else self._controls.terminate)(self._address)

    async def restart(self, *, from_step: object = None) -> None:
        """Begin again as a new run, whatever it is doing or has done: its records and the events that nobody took are
        wiped, its params stay.

        From a step on (its name, or a dict of `name`, `count` and `type`), what began before that step keeps its
        record; `StepNotFound` if there is no such step. The code is the newest, or, from a step, what it was.
        """
        await self._controls.restart(self._address, None if from_step is None else step_key(from_step))

    async def fork(
        self, options: Mapping[str, Any] | None = None, /, *, from_step: object = None, **more: Any
    ) -> Instance:
        """Create another instance in the same scope that goes on from this one's records: those of steps that began
        before `from_step` (its name, or a dict of `name`, `count` and `type`), or all that have ended. It has the same
        params, code and time of creation, and runs by itself from then on; this one is left alone.

        Options are `id`, `labels` and `retention`. `StepNotFound`, `InstanceAlreadyExists`.
        """
        given = together(options, more, more, what="fork()")
        if strange := given.keys() - {"id", "labels", "retention"}:
            raise TypeError(f"fork() has no option {min(strange)!r}")
        creation = Creation.read(given)
        step = None if from_step is None else step_key(from_step)
        if not await self._controls.fork(self._address, step, creation):
            raise InstanceAlreadyExists(f"workflow {self._address.workflow!r} has an instance {creation.id!r} already")
        return Instance(self._controls, self._address._replace(id=creation.id))

    async def override(
        self,
        step: object,
        *,
        author: str,
        reason: str,
        result: Any = _NOTHING,
        error: tuple[str, str] | None = None,
    ) -> None:
        """Replace the outcome of a step of an unfinished instance (its name, or a dict of `name` and `count`) by a
        result, or by an error's name and message. A run that is under way is stopped, and goes on from the records;
        what they say of later steps stays. Who did it, why, and what was there before is kept: see `interventions`.

        `StepNotFound` if there is no record of the step, `InstanceFinished`.
        """
        key = step_key(step)
        if key[0] != "do":
            raise ValueError("only the outcome of a step that does something can be replaced")
        if (result is _NOTHING) == (error is None):
            raise TypeError("override() takes either a result or an error")
        account = (check_name(author, what="author"), check_name(reason, what="reason"))
        if not all(text.strip() for text in account):
            raise ValueError("override() takes an author and a reason: who reads the record is to know whose it is")
        value = None if result is _NOTHING else encode(result, "the result")
        failure = None if error is None else pack_error(_error(error))
        await self._controls.override(self._address, key, (value, failure), account)

    async def interventions(self) -> list[dict[str, Any]]:
        """What was changed by hand: dicts of `at`, `author`, `reason`, `name`, `count`, and of what was recorded
        before, the `result` or the `error`.
        """
        found = await self._scheduler.writer.submit(interventions, self._address)
        return [
            {
                "at": each.at,
                "author": each.author,
                "reason": each.reason,
                "name": each.step[1],
                "count": each.step[2],
                "result": None if each.value is None else values.loads(each.value, trusted=True),
                "error": plain_error(each.error),
            }
            for each in found
        ]

    async def delete(self) -> None:
        """Stop it and forget it, now, whatever it is doing: its id is free. Nothing is rolled back."""
        await self._controls.delete(self._address)

    async def send_event(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Send an event: options are `type`, `payload`, and `id`, by which a repeated send is recognised and
        ignored.
        """
        given = together(options, more, ("type", "payload", "id"), what="send_event()")
        if "type" not in given:
            raise TypeError("an event needs a `type`")
        event_type = check_name(given["type"], what="event type")
        event_id = given.get("id")
        if event_id is not None:
            check_name(event_id, what="event id")
        now = self._scheduler.clock.now()
        event = EventRecord(event_type, encode(given.get("payload"), "the payload of the event"), now).encode()
        await self._controls.send_event(self._address, event_type, event, event_id, now)

    def subscribe(self, cursor: int | None = None, *, types: object = None) -> AsyncIterator[HistoryEvent]:
        """What happened to it so far, then what happens, until it has ended: `async for event in i.subscribe()`.

        With a cursor (the `id` of the last event that was dealt with) only what came later. `types` names the events
        that are wanted; the iterator ends with the instance whether or not its end is among them. A restart wipes the
        outcomes of steps from the history, and of all else nothing. That a step, or an attempt of it, has begun is told
        when it does to whoever listens by then, and else together with how it ended, at the time that it began.
        Raises `InstanceNotFound`, `InvalidCursor`.
        """
        return self._follow(check_cursor(cursor), check_types(types))

    async def _follow(self, after: int, types: frozenset[str]) -> AsyncIterator[HistoryEvent]:
        scheduler = self._scheduler
        number = await scheduler.reader.ask(Catalogue.find, self._address)

        def read(*place: int) -> Awaitable[tuple[list[Line], bool]]:
            return scheduler.reader.ask(Catalogue.history, *place)

        def watched() -> None:
            if (run := scheduler.active.get(self._address)) is not None:
                run.journal.announce_all()

        begun = await scheduler.reader.ask(Catalogue.begun, number, max(after, 0) // EVENTS_OF_A_LINE)
        told = follow(number, read, scheduler.watchers, after, types, Narrator(begun), watched)
        async with contextlib.aclosing(told) as events:
            async for event in events:
                yield event

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the output; `InstanceFailed` if there is none, `TimeoutError` after
        `timeout` seconds.
        """
        timeout = check_timeout(timeout)
        ending = self._scheduler.endings.listen(self._address)
        timer = None
        try:
            run = self._scheduler.active.get(self._address)
            if run is None or run.stopping is not None:  # else it has not ended, and its end will be told
                status, output, error = await self._scheduler.reader.ask(Catalogue.ending, self._address)
                if status in FINAL:
                    return _result(End(status, output, error))
            if timeout is not None:
                timer = self._scheduler.clock.call_later(timeout, lambda: _expire(ending, timeout))
            return _result(await ending)
        finally:
            self._scheduler.endings.unlisten(self._address, ending)
            if timer is not None:
                timer.cancel()

    def __repr__(self) -> str:
        where = f" of scope {self.scope!r}" if self.scope else ""
        return f"<Instance {self.id!r}{where} of {self._scheduler.workflow_name!r}>"


def _error(given: object) -> ErrorRecord:
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        raise TypeError(f"an error is a pair of texts, its name and its message, not {given!r:.80}")
    return bounded_error(ErrorRecord(*given))


def _expire(ending: asyncio.Future[End], timeout: float) -> None:
    if not ending.done():
        ending.set_exception(TimeoutError(f"the instance has not ended within {timeout} seconds"))


def _result(end: End) -> Any:
    if end.status is Status.COMPLETE and end.output is not None:
        return values.loads(end.output, trusted=True)
    error = end.error or ErrorRecord("Error", "")
    raise InstanceFailed(error.name, error.message, error.trace)
