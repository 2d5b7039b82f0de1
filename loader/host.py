"""The parts tied together for the common case: one engine, one loader, one workflow, and a function that finds code."""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self

from cloister.engine import FINAL, Engine, PinnedCode, Rehearsal, Schedule, Status, Workflow, WorkflowLimits
from cloister.sandbox import Policy

from .audit import Audit
from .binding import DynamicWorkflowBinding, wrap_schedule, wrap_workflow_binding
from .code import WorkerCode
from .config import LoaderConfig
from .dispatch import create_dynamic_workflow_entrypoint
from .entrypoint import Entrypoint, WorkerStub
from .errors import LoaderClosed
from .http.asgi import Application, asgi
from .http.asked import HttpLimits
from .loader import Loader, check_callable
from .methods import CodePolicy
from .quota import Quotas, Weights
from .stop import served

_UNFINISHED = sorted(set(Status) - FINAL)
FetchCode = Callable[[str], WorkerCode | Awaitable[WorkerCode]]


class Host:
    """`async with Host("app.db", get_code=fetch) as host: await host.tenant("t-42").greet("Alice")`.

    `get_code(tenant_id)` gives a tenant's code. Each tenant finds its own workflow binding in its env as `WORKFLOWS`;
    what it creates there is run by the class `entrypoint` of its own code. For `concurrency`, `limits`, `retention` and
    `schedules`, of which each has the tenant's id as its scope, see `cloister.engine.Engine.workflow`; for `code`,
    `WorkerStub.get_entrypoint`; for `config`, `quotas`, `audit` and the numbers that take precedence, `Loader`. The
    weights of `quotas` hold for runs that resume as well, unless `limits` has its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        get_code: FetchCode,
        entrypoint: str = "TenantWorkflow",
        workflow_name: str = "dynamic-workflow",
        concurrency: int = 256,
        limits: WorkflowLimits | None = None,
        retention: object = None,
        schedules: Sequence[Schedule] = (),
        max_sandboxes: int | None = None,
        spares: int | None = None,
        admission_timeout: float | None = None,
        policy: Policy | None = None,
        config: LoaderConfig | None = None,
        quotas: Quotas | None = None,
        code: CodePolicy = "pinned",
        transport: Literal["sockets", "libzmq"] = "sockets",
        engine: Engine | None = None,
        audit: Audit | None = None,
    ) -> None:
        check_callable("get_code", get_code, "from a tenant's id to its WorkerCode")
        self._get_code = get_code
        self._code_policy = code
        self._entrypoint = entrypoint
        self._name = workflow_name
        self._schedules = [wrap_schedule(schedule, {"tenant_id": schedule.scope}) for schedule in schedules]
        self.engine = engine or Engine(path)
        self.loader = Loader(
            max_sandboxes=max_sandboxes, spares=spares, admission_timeout=admission_timeout, policy=policy,
            config=config, quotas=quotas, transport=transport, audit=audit,
        )  # fmt: skip
        limits = limits or WorkflowLimits()
        if quotas is not None and not limits.weights:
            limits = dataclasses.replace(limits, weights=Weights(self.loader.quota))
        self._options: dict[str, Any] = {"concurrency": concurrency, "limits": limits, "retention": retention}
        self._stack = AsyncExitStack()
        self._workflows: Workflow | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # Opened in this order so that at the end runs are stopped before their sandboxes are.
            await stack.enter_async_context(self.loader)
            await stack.enter_async_context(self.engine)
            runner = create_dynamic_workflow_entrypoint(
                lambda context: self.worker(context.metadata["tenant_id"]).get_entrypoint(
                    self._entrypoint, code=self._code_policy
                )
            )
            self._workflows = self.engine.workflow(self._name, runner, schedules=self._schedules, **self._options)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def worker(self, tenant_id: str) -> WorkerStub:
        """The tenant's worker."""
        return self.loader.get(tenant_id, lambda: self._code(tenant_id))

    def tenant(self, tenant_id: str) -> Entrypoint:
        """The tenant's default entrypoint."""
        return self.worker(tenant_id).get_entrypoint()

    def asgi(self, tenant_id: str, *, limits: HttpLimits | None = None, strip_root_path: bool = False) -> Application:
        """The tenant's `fetch` as an ASGI application, to be mounted under Starlette or FastAPI. See `http.asgi`."""
        return asgi(self.tenant(tenant_id), limits=limits, strip_root_path=strip_root_path)

    def workflows(self, tenant_id: str) -> DynamicWorkflowBinding:
        """The tenant's workflow binding."""
        return wrap_workflow_binding(self._raw(), {"tenant_id": tenant_id})

    def _raw(self) -> Workflow:
        if self._workflows is None:
            raise LoaderClosed("use the host inside `async with Host(...) as host`")
        return self._workflows

    async def begin_each(
        self, entries: Sequence[tuple[str, WorkerCode | PinnedCode, Mapping[str, Any]]], /
    ) -> list[bool]:
        """Create an instance for each of up to 1,000 tenants in one transaction, tied to this code of its tenant's from
        the start: a list of (tenant id, code, options). Which of them were created; the others exist already.
        """
        return await self._raw().create_each(
            [
                (
                    tenant_id,
                    self.workflows(tenant_id).wrapped(options),
                    code if isinstance(code, PinnedCode) else code.pinned(),
                )
                for tenant_id, code, options in entries
            ]
        )

    def evict(self, tenant_id: str) -> bool:
        """End the tenant's sandboxes at once. See `Loader.evict`."""
        return self.loader.evict(tenant_id)

    async def redeploy(self, tenant_id: str) -> bool:
        """Switch the tenant to what `get_code` gives now. See `Loader.redeploy`."""
        return await self.loader.redeploy(tenant_id)

    async def drain(self, tenant_id: str | None = None, *, timeout: float | None = None) -> bool:
        """Let calls and runs come to their end, of one tenant or of all. See `Loader.drain`. A run that does not is put
        aside, and goes on when its host is opened again."""
        return await self.loader.drain(tenant_id, timeout=timeout)

    async def serve(self, *signals: signal.Signals) -> bool:
        """Until one of the signals comes, SIGTERM and SIGINT without any; then drain, for `config.drain_s` at most, or
        until another one comes. True if everything came to its end in time."""
        return await served(lambda timeout: self.drain(timeout=timeout), signals)

    async def rehearse(self, tenant_id: str, code: WorkerCode) -> dict[str, Rehearsal]:
        """Before a deploy: whether each unfinished instance of the tenant could go on with this code, by its id. Their
        histories are replayed in a sandbox; no step runs, and nothing is recorded.
        """
        own = {"WORKFLOWS": self.workflows(tenant_id), **code.env}
        stub = self.loader.load(dataclasses.replace(code, env=own))
        runner = create_dynamic_workflow_entrypoint(lambda _: stub.get_entrypoint(self._entrypoint))
        found: dict[str, Rehearsal] = {}
        page, binding = None, self.workflows(tenant_id)
        while page is None or page.cursor is not None:
            page = await binding.list(status=_UNFINISHED, cursor=None if page is None else page.cursor)
            for summary in page.instances:
                found[summary.id] = await (await binding.get(summary.id)).rehearse(runner)
        return found

    async def _code(self, tenant_id: str) -> WorkerCode:
        found: Any = self._get_code(tenant_id)
        code = await found if inspect.isawaitable(found) else found
        if not isinstance(code, WorkerCode):
            return code  # type: ignore[no-any-return] # the loader says what is wrong with it
        return dataclasses.replace(code, env={"WORKFLOWS": self.workflows(tenant_id), **code.env})
