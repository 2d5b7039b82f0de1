"""The one capability that the host finds in every guest: take the tenant's code, then call into it.

boot(main, modules, env, bounds, outbound, flags)      import the tenant's main module; bounds are of address space,
                                                       descriptors and calls to the host in flight
invoke(entrypoint, method, args, kwargs, props, rest)  call a method of an entrypoint, or read a property if `args` is
                                                       False; a chain of calls has the names of all in `method`, and
                                                       the other arguments in `rest`
handle(entrypoint, event, subject, props)              hand it an event: a request, a batch of messages, tail events
object(about, storage, method, args, kwargs)           call a method of a durable object; see `objects`
run(entrypoint, event, payload, history, defaults, journal, number)
                                                       run a workflow, answering recorded steps from its history
idle(number)                                           whether that run does nothing but wait for its journal
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from cloister.ipc import values
from cloister.ipc.answer import Answer
from cloister.ipc.capabilities import end, follow
from cloister.ipc.connection import Connection
from cloister.ipc.stubs import Channel, Stub

from ..lockdown import limits
from . import entrypoints, failure, importer, scope
from .journal import Journal
from .outcomes import NonDeterminismError
from .output import Output, invocation
from .steps import WorkflowStep
from .values import JsDict


class Worker:
    """The tenant's program in this sandbox. `imported` is told when its code has been."""

    def __init__(self, output: Output, connection: Connection, imported: Callable[[], object]) -> None:
        self._output = output
        self._connection = connection
        self._imported = imported
        self._entrypoints: dict[str, type[Any]] = {}
        self._main = ""
        self._invocations = 0
        self._runs: dict[int, scope.Run] = {}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """None: the host knows what this is."""
        return {}

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """One of the calls above."""
        arguments, stubs = channel.decode(payload)
        if method == "boot":
            self._boot(*arguments)
            return channel.encode(None)
        if method == "idle":
            run = self._runs.get(*arguments)
            return channel.encode(run is None or run.only_waits(asyncio.get_running_loop()))
        self._invocations += 1
        invocation.set(self._invocations)
        scope.calls.count += 1
        result = None
        try:
            if method == "run":
                return values.dumps(await self._run(*arguments))  # to be stored: no capability outlives the run
            if method == "handle":
                return channel.encode(await self._handle(*arguments))
            result = await (self._object if method == "object" else self._invoke)(*arguments)
            return channel.encode(result)
        finally:
            scope.calls.count -= 1
            self._output.flush()
            end(stubs, result)

    def _boot(
        self, main: str, modules: dict[str, Any], env: dict[str, Any], bounds: list[int], outbound: Any = None,
        flags: list[str] | None = None,
    ) -> None:  # fmt: skip
        address_space, open_files, calls = bounds
        limits.limit_address_space(address_space)
        if open_files < limits.OPEN_FILES:
            limits.limit_open_files(open_files)
        self._connection.bound(outgoing=calls)
        tenant = importer.Tenant({name: (kind, content) for name, (kind, content) in modules.items()})
        failure.tenant_paths = tenant.paths
        importer.install(tenant)
        scope.set_env(env, outbound)
        scope.flags = frozenset(flags or ())
        try:
            module = tenant.import_main(main)
        except (SystemExit, KeyboardInterrupt) as end:
            raise _not_an_end(end) from end
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "src":
                error.add_note("the folder of the main module is where imports begin: leave `src.` out")
            raise
        finally:
            self._output.flush()
        self._main = main
        self._entrypoints = entrypoints.discover(module)
        self._imported()

    def _make(self, name: str | None, props: Any) -> Any:
        return entrypoints.find(self._entrypoints, name, self._main)(scope.Context(props, self._make), scope.env())

    def _invoke(
        self, name: str | None, method: str, args: Any, kwargs: Any, props: Any, rest: Any = None
    ) -> Coroutine[Any, Any, Any]:
        first = method if rest is None else method.partition(".")[0]
        function = entrypoints.method(self._make(name, props), first, args)
        args, kwargs = entrypoints.fit(function, args, kwargs) if kwargs else (args or (), {})
        found = result(function, *args, **kwargs)
        return found if rest is None else self._go_on(found, method, rest)

    @staticmethod
    async def _go_on(found: Awaitable[Any], method: str, rest: Any) -> Any:
        return await result(follow, await found, method, rest, begun=1)

    async def _handle(self, name: str | None, event: str, subject: Any, props: Any) -> Any:
        from . import handlers

        return await handlers.HANDLERS[event](entrypoints.method(self._make(name, props), event), subject)

    async def _object(self, about: JsDict, *arguments: Any) -> Any:
        from . import objects

        return await objects.call(entrypoints.find(self._entrypoints, about["class"], self._main), about, *arguments)

    async def _run(
        self, name: str | None, about: JsDict, payload: bytes, history: list[Any], defaults: JsDict, stub: Stub,
        number: int, state: JsDict | None = None,
    ) -> Any:  # fmt: skip
        run = self._runs[number] = scope.Run()
        given = values.loads(payload, hook=JsDict, trusted=True)
        event = JsDict(payload=JsDict() if given is None else given, **about)
        journal = Journal(stub, history, defaults, run, state)
        workflow = self._make(name, None)
        step = WorkflowStep(journal)
        task = asyncio.ensure_future(self._guarded(workflow, event, step, run))
        ended = Answer(task.get_loop())
        task.add_done_callback(lambda _: ended.settle(b""))
        try:
            if journal.state.get("frozen"):
                from . import rollback

                return await rollback.frozen(journal, task)
            await ended  # which, unlike the task, may be cancelled by itself, and goes on in the turn in which it ends
            result = task.result()
            await journal.conclude()
        except Exception as error:
            error.args = getattr(error, "__recorded__", error.args)  # its class is said beside its words
            await journal.conclude()
            if journal.undos and not journal.state.get("frozen"):
                from . import rollback

                await rollback.failed(journal, error)
            raise
        except asyncio.CancelledError:
            run.over = True
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise
        finally:
            task.cancel()
            del self._runs[number]
            run.over = True  # also for what the tenant may have left behind
        if journal.unvisited:
            missing = ", ".join(f"{kind} {name!r} ({count})" for kind, name, count in sorted(journal.unvisited))
            raise NonDeterminismError(f"the run ended without visiting steps that are recorded for it: {missing}")
        if step.neglected():
            from . import neglect

            neglect.tell(step, workflow.run)
        return result

    @staticmethod
    async def _guarded(workflow: Any, event: JsDict, step: WorkflowStep, run: scope.Run) -> Any:
        scope.current_run.set(run)
        try:
            return await result(workflow.run, event, step)
        except scope.Suspended as end:
            raise asyncio.CancelledError from end


async def result(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a tenant's function gives, be it a coroutine or not."""
    try:
        result = function(*args, **kwargs)
        return await result if type(result) is types.CoroutineType or inspect.isawaitable(result) else result
    except (SystemExit, KeyboardInterrupt) as end:
        raise _not_an_end(end) from end


def _not_an_end(end: SystemExit | KeyboardInterrupt) -> RuntimeError:
    what = f"called sys.exit({end.code!r})" if isinstance(end, SystemExit) else f"raised {end!r}"
    return RuntimeError(f"the worker {what}; only the host ends a sandbox")
