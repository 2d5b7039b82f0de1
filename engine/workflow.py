"""The binding of one registered workflow, and handles on its instances: what a host calls.

Both are addresses without state of their own. A scope is part of the address: what is in another one does not
exist.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloister.ipc import values

from .attempt import current_attempt
from .errors import InstanceAlreadyExists, InstanceFailed
from .records import FINAL, Address, Encoded, ErrorRecord, EventRecord, Key, Status, StepKind
from .rules import check_id, check_name, encode
from .scheduler import End, Scheduler
from .store import Store

if TYPE_CHECKING:
    import asyncio

MAX_BATCH = 100

_NO_PARAMS = values.dumps({})


class Workflow:
    """The raw binding: sees every scope, so it is for the host. Obtained from `Engine.workflow`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.name = scheduler.workflow_name
        self._scheduler = scheduler

    async def create(self, options: Mapping[str, Any] | None = None, /, *, scope: str = "", **more: Any) -> Instance:
        """Create an instance; it is durable on return. Options are `id` and `params`; a dict may have others.

        In a step, one that is given no id has the same one in each attempt, so that it is created once.

        Raises `InstanceAlreadyExists`, `InvalidInstanceId`, `PayloadTooLarge`, `StorageError`.
        """
        if strange := more.keys() - {"id", "params"}:
            raise TypeError(f"create() has no option {min(strange)!r}")
        given = {**(options or {}), **more}
        derived = given.get("id") is None and current_attempt() is not None
        instance_id, params = _entry(given)
        address = Address(self.name, check_name(scope, what="scope"), instance_id)
        try:
            await self._scheduler.create(address, params)
        except InstanceAlreadyExists:
            if not derived:
                raise
        return Instance(self._scheduler, address)

    async def create_batch(self, entries: Sequence[Mapping[str, Any]], /, *, scope: str = "") -> list[Instance]:
        """Create 1 to 100 instances in one transaction. Ids that exist already are skipped and left out."""
        check_name(scope, what="scope")
        if not isinstance(entries, Sequence) or not 1 <= len(entries) <= MAX_BATCH:
            raise ValueError(f"a batch is a list of 1 to {MAX_BATCH} instances to create")
        rows = [_entry(entry) for entry in entries]
        created = await self._scheduler.create_batch(scope, rows)
        return [Instance(self._scheduler, Address(self.name, scope, created_id)) for created_id in created]

    async def get(self, id: str, *, scope: str = "") -> Instance:  # noqa: A002 - the name it has everywhere
        """A handle on an instance that exists; else `InstanceNotFound`, in another scope or not."""
        address = Address(self.name, check_name(scope, what="scope"), check_id(id))
        await self._scheduler.writer.submit(Store.find, address)
        return Instance(self._scheduler, address)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}>"


class Instance:
    """A handle: it stays valid as long as the instance exists, and holds nothing but the address."""

    def __init__(self, scheduler: Scheduler, address: Address) -> None:
        self._scheduler = scheduler
        self._address = address
        self.scope = address.scope
        self.id = address.id

    async def status(self) -> dict[str, Any]:
        """Where it stands: `status`, `output`, `error`, `trouble` (what keeps it from going on, in words),
        times in milliseconds, `rollback` ("running", "complete", or in words why it stopped), and every `steps`
        entry so far.
        """
        status = await self.status_encoded()
        if status["output"] is not None:
            status["output"] = values.loads(status["output"].data, trusted=True)
        return status

    async def status_encoded(self) -> dict[str, Any]:
        """The same with the output, if there is one, as `Encoded`: for passing it on without reading it."""
        instance, rows = await self._scheduler.writer.submit(Store.look, self._address)
        status, output, error, created, started, ended, undoing, undone = instance
        run = self._scheduler.active.get(self._address)
        running = run.journal.running() if run is not None and status not in FINAL else {}
        steps = [_step(*row, running=running) for row in rows]
        steps += [_step(*key, "running", 1, since, None, None, running={}) for key, since in running.items()]
        return {
            "status": status,
            "output": None if output is None else Encoded(output),
            "error": _plain_error(error),
            "trouble": None if status in FINAL else self._scheduler.troubles.get(self._address),
            "created": created,
            "started": started,
            "ended": ended,
            "rollback": undone or ("running" if undoing is not None else None),
            "steps": steps,
        }

    async def pause(self) -> None:
        """Let steps in flight finish, then hold. Deadlines move by the length of the pause."""
        await self._scheduler.pause(self._address)

    async def resume(self) -> None:
        """Go on after a pause, or call off one that has not begun yet."""
        await self._scheduler.resume(self._address)

    async def terminate(self, *, rollback: bool = False) -> None:
        """End it for good, now. What its steps still do is not recorded. With `rollback`, steps that have a handler for
        it are taken back first, the last one first; `status()["rollback"]` says how that ended.
        """
        await (self._scheduler.undo if rollback else self._scheduler.terminate)(self._address)

    async def send_event(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Send an event: options are `type`, `payload`, and `id`, by which a repeated send is recognised and
        ignored.
        """
        given = {**(options or {}), **more}
        if "type" not in given:
            raise TypeError("an event needs a `type`")
        event_type = check_name(given["type"], what="event type")
        event_id = given.get("id")
        if event_id is not None:
            check_name(event_id, what="event id")
        now = self._scheduler.clock.now()
        event = EventRecord(event_type, encode(given.get("payload"), "the payload of the event"), now).encode()
        await self._scheduler.send_event(self._address, event_type, event, event_id, now)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the output; `InstanceFailed` if there is none, `TimeoutError` after
        `timeout` seconds.
        """
        ending = self._scheduler.listen(self._address)
        timer = None
        try:
            status = await self.status_encoded()
            if status["status"] in FINAL:
                error = status["error"]
                record = None if error is None else ErrorRecord(error["name"], error["message"])
                return _result(End(Status(status["status"]), status["output"] and status["output"].data, record))
            if timeout is not None:
                timer = self._scheduler.clock.call_later(timeout, lambda: _expire(ending, timeout))
            return _result(await ending)
        finally:
            ending.cancel()
            if timer is not None:
                timer.cancel()

    def __repr__(self) -> str:
        where = f" of scope {self.scope!r}" if self.scope else ""
        return f"<Instance {self.id!r}{where} of {self._scheduler.workflow_name!r}>"


def _entry(options: Mapping[str, Any]) -> tuple[str, bytes]:
    """Id and encoded params of an instance to be created."""
    if not isinstance(options, Mapping):
        raise TypeError(f"the options of an instance are a dict, not {type(options).__name__}")
    instance_id = options.get("id")
    params = encode(options["params"], "the params") if "params" in options else _NO_PARAMS
    if instance_id is not None:
        return check_id(instance_id), params
    attempt = current_attempt()
    return str(uuid.uuid4()) if attempt is None else attempt.derived_id(), params


def _expire(ending: asyncio.Future[End], timeout: float) -> None:
    if not ending.done():
        ending.set_exception(TimeoutError(f"the instance has not ended within {timeout} seconds"))


def _result(end: End) -> Any:
    if end.status is Status.COMPLETE and end.output is not None:
        return values.loads(end.output, trusted=True)
    error = end.error or ErrorRecord("Error", "")
    raise InstanceFailed(error.name, error.message)


def _plain_error(error: ErrorRecord | None) -> dict[str, str] | None:
    return None if error is None else {"name": error.name, "message": error.message}


def _step(
    kind: StepKind,
    name: str,
    count: int,
    state: str,
    attempts: int,
    started: int | None,
    ended: int | None,
    error: ErrorRecord | None,
    *,
    running: dict[Key, int],
) -> dict[str, Any]:
    """One entry of a status. A retrying step whose next attempt is in progress is running."""
    if running.pop((kind, name, count), None) is not None:
        state, attempts = "running", attempts + 1
    return {
        "kind": kind,
        "name": name,
        "count": count,
        "status": state,
        "attempts": attempts,
        "started": started,
        "ended": ended,
        "error": _plain_error(error),
    }
