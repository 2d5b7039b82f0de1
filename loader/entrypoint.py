"""What a host holds of a tenant's worker: a stub that costs nothing, and entrypoints to call.

`run` is where a durable run meets a sandbox: the history goes in with the call, the journal goes in as a capability,
and a sandbox that dies on the way is no news to the run but an interruption.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from cloister.engine import Encoded, Journal, RunInterrupted, WorkflowEvent, WorkflowStep
from cloister.sandbox import Limits, SandboxError

from .errors import LoadFailed, NoCapacity
from .journal import JournalTarget, history, resolved
from .worker import Worker

if TYPE_CHECKING:
    from .loader import GetCode, Loader

_A_LONG_TIME = 24 * 3600.0


class WorkerStub:
    """A tenant's worker, warm or not. From `Loader.get` or `Loader.load`."""

    def __init__(self, loader: Loader, tenant_id: str, get_code: GetCode) -> None:
        self._loader = loader
        self._get_code = get_code
        self.tenant_id = tenant_id

    def get_entrypoint(self, name: str | None = None, *, props: Any = None, limits: Limits | None = None) -> Entrypoint:
        """An entrypoint class by name, `Default` without one. `props` become its `ctx.props`; the lower limits win."""
        return Entrypoint(self, name, props, limits)

    def __repr__(self) -> str:
        return f"<WorkerStub {self.tenant_id!r}>"


class Entrypoint:
    """Attribute access is a method of the tenant's entrypoint: `await entrypoint.greet("Alice")`.

    A call raises `TenantError` (and `CodeError`, `EntrypointNotFound`) where the tenant is at fault, `LoadFailed` where
    the host is, `LimitExceeded` and `SandboxDied` where the process was ended, `NoCapacity` where none was to be had.
    """

    def __init__(self, stub: WorkerStub, name: str | None, props: Any, limits: Limits | None) -> None:
        self._stub = stub
        self._name = name
        self._props = props
        self._limits = limits

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(f"{method!r} is not a public name; only public methods can be called from outside")

        async def call(*args: Any, **kwargs: Any) -> Any:
            stub = self._stub
            async with stub._loader.lease(stub.tenant_id, stub._get_code) as worker:
                limits = worker.code.limits.lower_of(self._limits)
                return await worker.invoke(self._name, method, list(args), kwargs, self._props, limits)

        call.__name__ = method
        return call

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Encoded:
        """Run the tenant's workflow on an engine's behalf: the result, still encoded.

        Raises what the tenant's `run` raised, or `RunInterrupted` when it was not the tenant's doing.
        """
        journal = step.journal
        try:
            return await self._run(event, journal)
        except (SandboxError, LoadFailed, NoCapacity) as error:
            raise RunInterrupted(str(error)) from error

    async def _run(self, event: WorkflowEvent, journal: Journal) -> Encoded:
        stub = self._stub
        pinned = journal.code_digest
        async with stub._loader.lease(stub.tenant_id, stub._get_code, patience=_A_LONG_TIME) as worker:
            if pinned is None or worker.digest == pinned:
                return await self._run_in(worker, event, journal)
        older = await self._older_code(journal)
        async with stub._loader.lease(stub.tenant_id, older, digest=pinned, patience=_A_LONG_TIME) as worker:
            return await self._run_in(worker, event, journal)

    async def _run_in(self, worker: Worker, event: WorkflowEvent, journal: Journal) -> Encoded:
        if journal.code_digest is None:
            journal.pin(worker.digest, worker.code.stored())
        limits = worker.code.limits.lower_of(self._limits)
        target = JournalTarget(journal)
        about = {
            "timestamp": event.timestamp.replace(tzinfo=None),
            "instanceId": event.instance_id,
            "workflowName": event.workflow_name,
        }
        arguments = [self._name, about, event.encoded_payload, history(journal), resolved(), target]
        target.on_record, answer = worker.run(arguments, limits.without_wall())
        async with target.watch(worker.end):
            return Encoded(await answer)

    async def _older_code(self, journal: Journal) -> GetCode:
        """The code that the instance started on, with the bindings and limits that the tenant has now."""
        from .loader import load_code

        stored = await journal.pinned_code()
        stub = self._stub

        async def get_code() -> Any:
            return (await load_code(stub._get_code)).with_stored(stored)

        return get_code

    def __repr__(self) -> str:
        return f"<Entrypoint {self._name or 'Default'} of {self._stub.tenant_id!r}>"
