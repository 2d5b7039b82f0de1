"""What a host holds of a tenant's worker: a stub that costs nothing, and entrypoints to call.

`run` is where a durable run meets a sandbox: the history goes in with the call, the journal goes in as a capability,
and a sandbox that dies on the way is no news to the run but an interruption.
"""

from __future__ import annotations

import functools
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from cloister.engine import Encoded, Journal, Rehearsal, RunInterrupted, RunPostponed, WorkflowEvent, WorkflowStep
from cloister.ipc.stubs import Link
from cloister.sandbox import Limits, SandboxClosed, SandboxError, SandboxUnavailable, SandboxUnused

from . import mail
from .boots import TRIES, tried
from .code import load_code
from .errors import InvalidCode, LoaderClosed, LoadFailed, NoCapacity, RestartBackedOff, TenantError, TenantThrottled
from .history import history, resolved, state
from .http.headers import Malformed
from .http.messages import Request, Response
from .journal import JournalTarget
from .methods import CodePolicy, Event, Methods, asked, check_entrypoint
from .quoting import quoted
from .worker import Worker

if TYPE_CHECKING:
    from .code import GetCode
    from .desk import Desk
    from .pool import Key

_NOT_NOW: Final = (
    LoadFailed, InvalidCode, LoaderClosed, NoCapacity, RestartBackedOff, TenantThrottled, SandboxUnavailable,
)  # fmt: skip
"""What keeps a run from going on and says nothing about the run."""
_log = logging.getLogger("cloister.loader")
_A_LONG_TIME = 24 * 3600.0
_durable = functools.lru_cache(Limits.without_wall)  # the same few, for each run


class WorkerStub:
    """A tenant's worker, warm or not. From `Loader.get` or `Loader.load`."""

    def __init__(self, desk: Desk, key: Key, get_code: GetCode) -> None:
        self._desk = desk
        self._key = key
        self._get_code = get_code

    @property
    def tenant_id(self) -> str:
        """Whose worker it is."""
        return self._key.tenant_id

    def get_entrypoint(
        self, name: str | None = None, *, props: Any = None, limits: Limits | None = None, code: CodePolicy = "pinned"
    ) -> Entrypoint:
        """An entrypoint class by name, `Default` without one. `props` become its `ctx.props`; the lower limits win.

        `code` says what a workflow goes on with that was begun on other code than the tenant's newest: with that
        ("pinned"), with the newest ("latest"), or with the newest if a rehearsal shows that it comes by everything that
        is recorded ("migrate").
        """
        check_entrypoint(name, limits, code)
        return Entrypoint(self, name, props, limits, code)

    def __repr__(self) -> str:
        return f"<WorkerStub {self.tenant_id!r}>"


class Entrypoint(Methods):
    """Attribute access is a method of the tenant's entrypoint: `await entrypoint.greet("Alice")`.

    Calls on what it returns go along: `await entrypoint.cart("c-1").add("tea")` is one round trip. In another tenant's
    `env` it is a binding.

    A call raises `TenantError` (and `CodeError`, `EntrypointNotFound`) where the tenant is at fault, `LoadFailed` where
    the host is, `LimitExceeded` and `SandboxDied` where the process was ended, `RestartBackedOff` where that happened
    again and again, `NoCapacity` where none was to be had, `TenantThrottled` where the tenant takes more than it may.
    """

    def __init__(
        self, stub: WorkerStub, name: str | None, props: Any, limits: Limits | None, code: CodePolicy = "pinned"
    ) -> None:
        self._stub = stub
        self._name = name
        self._props = props
        self._limits = limits
        self._code = code

    def __described__(self) -> str:
        """For who records that it was called."""
        return f"{self._name or 'Default'} of {self._stub.tenant_id}"

    async def _perform(self, links: list[Link]) -> Any:
        stub = self._stub
        desk = stub._desk
        tries = TRIES
        while True:
            worker = desk.take(stub._key) or await desk.obtain(stub._key, stub._get_code)
            try:
                limits = worker.code.limits.lower_of(self._limits)
                return await worker.invoke(self._name, links, self._props, limits)
            except SandboxUnused:
                if not (tries := tries - 1):
                    raise
            finally:
                desk.give_back(worker)

    async def fetch(self, request: Request | str, /, **options: Any) -> Response:
        """Have a request answered: `await entrypoint.fetch("https://shop.example/", method="POST", body=b"...")`.

        The sandbox stays until the body of the response was read or closed. What of the request cannot be sent is
        `Malformed`, a `ValueError`, and the tenant is not asked.
        """
        given = asked(request, options)
        return await tried(lambda: self._fetch(given))

    async def _fetch(self, request: Request) -> Response:
        async with AsyncExitStack() as use:
            worker = await self._use(use)
            try:
                response = Response.received(await self._event(worker, "fetch", request.sent()))
            except Malformed as error:
                raise TenantError("Malformed", f"fetch() gave {error}") from error
            if response.web_socket is not None and (most := worker.code.limits.lower_of(self._limits).wall_ms):
                response.web_socket.wall_s = most / 1000
            if response.lasts:
                response.hold(use.pop_all())
        return response

    async def handle(self, event: Event, subject: Any) -> Any:
        """Hand it a batch of messages, what other workers did, a moment, `{"cron": ..., "scheduledTime": ...}`, or a
        mail, `{"from": ..., "to": ..., "raw": b"..."}`.

        Of a mail it gives what the worker has decided, for the host to do: `rejected`, a reason or None, `forwarded`,
        to whom with which headers, and `replied`, messages like the one that came.
        """

        async def once() -> Any:
            async with AsyncExitStack() as use:
                answer = await self._event(await self._use(use), event, subject)
            return mail.decided(answer) if event == "email" else answer

        return await tried(once)

    async def _use(self, use: AsyncExitStack) -> Worker:
        desk = self._stub._desk
        worker = desk.take(self._stub._key) or await desk.obtain(self._stub._key, self._stub._get_code)
        use.callback(desk.give_back, worker)
        return worker

    async def _event(self, worker: Worker, event: str, subject: object) -> Any:
        limits = worker.code.limits.lower_of(self._limits)
        return await worker.handle(self._name, event, subject, self._props, limits)

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Encoded:
        """Run the tenant's workflow on an engine's behalf: the result, still encoded.

        Raises what the tenant's `run` raised; `RunInterrupted` when its process was lost; `RunPostponed` when the host
        could not run it now, or evicted it.
        """
        journal, tries = step.journal, TRIES
        try:
            while True:
                try:
                    return await self._run(event, journal)
                except SandboxUnused:
                    if not (tries := tries - 1):
                        raise
        except _NOT_NOW as error:
            raise RunPostponed(str(error)) from error
        except SandboxClosed as error:  # the host's own doing, such as an eviction: it goes on elsewhere
            raise RunPostponed(str(error), at_once=True) from error
        except SandboxError as error:
            raise RunInterrupted(str(error)) from error

    async def _run(self, event: WorkflowEvent, journal: Journal) -> Encoded:
        key, get_code, desk = self._stub._key, self._stub._get_code, self._stub._desk
        if journal.code_digest is not None:
            warm = desk.warm(key)
            if warm is None or warm.digest != journal.code_digest:
                key, get_code = await self._pinned(event, journal, warm)
        worker = desk.take_for_run(key) or await desk.obtain_for_run(key, get_code, patience=_A_LONG_TIME)
        try:
            if self._code != "pinned" and journal.code_digest not in {None, worker.digest}:
                journal.pin(worker.digest, worker.stored, anew=True)
            if journal.code_digest not in {None, worker.digest}:
                raise RunPostponed("the tenant's code was changed while it was being loaded")
            return await self._run_in(worker, event, journal)
        finally:
            desk.let_go(worker)

    async def _fits(self, event: WorkflowEvent, journal: Journal) -> bool:
        """Whether the tenant's newest code comes by everything that is recorded, and so may take over."""
        stub, desk = self._stub, self._stub._desk
        worker = await desk.obtain_for_run(stub._key, stub._get_code, patience=_A_LONG_TIME)
        try:
            report = Rehearsal.read(await self._run_in(worker, event, journal.rehearsal()))
        except SandboxClosed:
            raise
        except (TenantError, SandboxError) as error:  # the newest code is at fault, and not the instance
            report = Rehearsal(False, error=str(error))
        finally:
            desk.let_go(worker)
        if not report.fits:
            _log.warning(
                "%r of %r stays on its code: %s", event.instance_id, self._stub.tenant_id, quoted(report.words)
            )
        return report.fits

    async def _pinned(self, event: WorkflowEvent, journal: Journal, warm: Worker | None) -> tuple[Key, GetCode]:
        """Where the code that the instance goes on with is to be had: the tenant's newest, if that is still the same or
        may take over, or what the journal has kept, with the bindings and limits that the tenant has now."""
        pinned = journal.code_digest or b""
        key, newest = self._stub._key, await load_code(self._stub._get_code)
        if newest.digest == pinned:
            return (key if warm is None else key._replace(digest=pinned)), lambda: newest
        if self._code == "latest" or (self._code == "migrate" and await self._fits(event, journal)):
            return self._stub._key, self._stub._get_code
        older = newest.with_stored(await journal.pinned_code())
        return key._replace(digest=pinned), lambda: older

    async def _run_in(self, worker: Worker, event: WorkflowEvent, journal: Journal) -> Encoded:
        if journal.code_digest is None:
            journal.pin(worker.digest, worker.stored)
        limits = worker.code.limits.lower_of(self._limits)
        target = JournalTarget(journal)
        about = {
            "timestamp": event.timestamp.replace(tzinfo=None),
            "instanceId": event.instance_id,
            "workflowName": event.workflow_name,
        }
        if event.schedule is not None:
            about["schedule"] = {"cron": event.schedule.cron, "scheduledTime": event.schedule.scheduled_ms}
        arguments = [self._name, about, event.encoded_payload, history(journal), resolved(), target]
        target.on_record, answer = worker.run([*arguments, target.number, state(journal)], _durable(limits))
        number = target.number  # and not the target, which has the journal
        journal.only_waits = lambda: worker.sandbox.idle(number)
        target.end_with(worker.exceed)
        target.tickets.tell, target.tickets.held = worker.sandbox.tell, worker.held
        silence = self._stub._desk.silence
        silence.watch(target)
        try:
            return Encoded(await answer)
        finally:
            silence.forget(target)
            target.close()

    def __repr__(self) -> str:
        return f"<Entrypoint {self._name or 'Default'} of {self._stub.tenant_id!r}>"
