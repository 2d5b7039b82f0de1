"""Dispatch: the envelope comes off, somebody is asked whose code to run, and that code gets its own params."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.engine import Encoded, Engine, InstanceFailed, Workflow, WorkflowEntrypoint, WorkflowEvent, WorkflowStep
from cloister.engine.testing import VirtualClock
from cloister.ipc import values
from cloister.loader import (
    DispatchContext,
    Host,
    Loader,
    LoaderConfig,
    MissingDispatcherMetadataError,
    NoCapacity,
    SandboxDied,
    WorkerCode,
    create_dynamic_workflow_entrypoint,
    dispatch_workflow,
    wrap_workflow_binding,
)

WHEN = dt.datetime(2026, 5, 1, 12, 30, tzinfo=dt.UTC)
STEP = cast(WorkflowStep, object())
HERE = SimpleNamespace(env={"E": 1}, ctx=SimpleNamespace(code_digest=None))
Code = Callable[..., WorkerCode]


class Runner:
    """Remembers what it is given."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[WorkflowEvent, WorkflowStep]] = []
        self.result = result

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Any:
        self.calls.append((event, step))
        return self.result


def event(payload: Any) -> WorkflowEvent:
    return WorkflowEvent(values.dumps(payload), WHEN, "i-1", "dynamic-workflow")


def envelope(params: Any, **metadata: Any) -> WorkflowEvent:
    return event({"__dispatcherMetadata": metadata or {"tenant_id": "t"}, "params": params})


async def test_the_loader_gets_the_metadata_and_the_result_comes_back() -> None:
    """What was wrapped arrives, and what `run` returns is returned."""
    asked: list[DispatchContext] = []

    async def load(context: DispatchContext) -> Runner:
        asked.append(context)
        return Runner("done")

    assert await dispatch_workflow(HERE, envelope(1, tenant_id="t", region="eu"), STEP, load) == "done"
    assert [context.metadata for context in asked] == [{"tenant_id": "t", "region": "eu"}]


async def test_env_and_ctx_reach_the_loader_as_they_are() -> None:
    """By identity, and with the digest of the code that the instance started on."""
    here = SimpleNamespace(env={"E": 1}, ctx=SimpleNamespace(code_digest=b"digest"))
    asked: list[DispatchContext] = []

    def load(context: DispatchContext) -> Runner:
        asked.append(context)
        return Runner()

    await dispatch_workflow(here, envelope(1), STEP, load)
    assert asked[0].env is here.env
    assert asked[0].ctx is here.ctx
    assert asked[0].code_digest == b"digest"


async def test_the_runner_gets_its_own_params_with_the_original_id_and_time() -> None:
    """Unwrapped, and exactly once."""
    runner = Runner()
    await dispatch_workflow(HERE, envelope({"user": "Ann"}), STEP, lambda _: runner)
    ((inner, _),) = runner.calls
    assert (inner.payload, inner.instance_id, inner.timestamp) == ({"user": "Ann"}, "i-1", WHEN)
    assert inner.workflow_name == "dynamic-workflow"


async def test_the_step_object_arrives_by_identity() -> None:
    """Also when the params in the envelope are null."""
    runner = Runner()
    await dispatch_workflow(HERE, envelope(None), STEP, lambda _: runner)
    ((inner, step),) = runner.calls
    assert step is STEP
    assert inner.payload is None


async def test_an_object_that_is_no_envelope_raises_missing_metadata() -> None:
    """And nobody is asked for code."""
    with pytest.raises(MissingDispatcherMetadataError):
        await dispatch_workflow(HERE, event({"some": "params"}), STEP, lambda _: pytest.fail("asked for code"))


async def test_a_null_payload_raises_missing_metadata() -> None:
    """The same error."""
    with pytest.raises(MissingDispatcherMetadataError):
        await dispatch_workflow(HERE, event(None), STEP, lambda _: pytest.fail("asked for code"))


async def test_a_loader_that_is_no_coroutine_and_params_that_are_bare_text_will_do() -> None:
    """Nothing has to be async, and nothing has to be a dict."""
    runner = Runner("sync")
    assert await dispatch_workflow(HERE, envelope("just text"), STEP, lambda _: runner) == "sync"
    assert runner.calls[0][0].payload == "just text"


async def test_an_error_in_the_loader_propagates() -> None:
    """The lower-level call adds nothing and hides nothing."""

    async def load(context: DispatchContext) -> Runner:
        raise LookupError("no such tenant")

    with pytest.raises(LookupError, match="no such tenant"):
        await dispatch_workflow(HERE, envelope(1), STEP, load)


async def test_an_error_in_run_propagates() -> None:
    """As the object that was raised."""
    failure = ValueError("from the tenant")

    class Failing(Runner):
        async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Any:
            raise failure

    with pytest.raises(ValueError, match="from the tenant") as caught:
        await dispatch_workflow(HERE, envelope(1), STEP, lambda _: Failing())
    assert caught.value is failure


async def test_the_loader_is_asked_anew_for_each_dispatch() -> None:
    """Two tenants route to two runners."""
    runners = {"a": Runner("of a"), "b": Runner("of b")}
    asked: list[str] = []

    def load(context: DispatchContext) -> Runner:
        asked.append(context.metadata["tenant_id"])
        return runners[context.metadata["tenant_id"]]

    results = [await dispatch_workflow(HERE, envelope(1, tenant_id=name), STEP, load) for name in "abab"]
    assert results == ["of a", "of b", "of a", "of b"]
    assert asked == ["a", "b", "a", "b"]


def test_the_factory_returns_a_genuine_subclass_that_overrides_run() -> None:
    """It can be registered like any class, and two of them are two."""
    one = create_dynamic_workflow_entrypoint(lambda _: Runner())
    other = create_dynamic_workflow_entrypoint(lambda _: Runner())
    assert issubclass(one, WorkflowEntrypoint)
    assert one.run is not WorkflowEntrypoint.run
    assert one is not other


# With the real engine


async def test_the_engine_runs_what_the_loader_returns(engine: Engine) -> None:
    """A runner need not be a sandbox: anything with `run(event, step)` will do, and its steps are durable."""
    contexts: list[DispatchContext] = []

    class Local:
        async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Any:
            return await step.do("double", lambda: event.payload * 2)

    def load(context: DispatchContext) -> Local:
        contexts.append(context)
        return Local()

    raw = engine.workflow("w", create_dynamic_workflow_entrypoint(load), env={"host": "env"})
    instance = await wrap_workflow_binding(raw, {"tenant_id": "t", "n": 1}).create(id="x", params=21)
    assert await instance.result() == 42
    (context,) = contexts
    assert context.metadata == {"tenant_id": "t", "n": 1}
    assert context.env == {"host": "env"}
    assert (context.ctx.instance_id, context.ctx.scope) == ("x", "t")


async def test_options_of_a_tenants_binding_that_are_misspelt_are_refused_as_the_raw_ones_are(engine: Engine) -> None:
    """Its params would be lost."""
    raw = engine.workflow("w", create_dynamic_workflow_entrypoint(lambda _: pytest.fail("asked for code")))
    binding = wrap_workflow_binding(raw, {"tenant_id": "t"})
    with pytest.raises(TypeError, match=r"create\(\) has no option 'parms'; there are id, params"):
        await binding.create(parms=1)
    options: Any = "x"
    with pytest.raises(TypeError, match="takes a dict of options, or options by name, not str"):
        await binding.create(options)
    assert not (await binding.list()).instances


async def test_an_instance_made_through_the_raw_binding_ends_errored_and_says_why(engine: Engine) -> None:
    """No envelope, no tenant: that is the instance's error, and the loader is never called."""
    raw = engine.workflow("w", create_dynamic_workflow_entrypoint(lambda _: pytest.fail("asked for code")))
    for params in ({"user": "Ann"}, None, "text"):
        instance = await raw.create(params=params)
        with pytest.raises(InstanceFailed, match=r"MissingDispatcherMetadataError.*raw binding"):
            await instance.result()


async def test_a_loader_that_fails_interrupts_the_run_and_never_fails_the_instance(
    path: Any, clock: VirtualClock, pass_time: Any
) -> None:
    """However long the host cannot say whose code it is, the tenant's instance waits and then goes on."""
    refusals = 25

    def load(context: DispatchContext) -> Runner:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise OSError("the directory of tenants is down")
        return Runner(Encoded(values.dumps("at last")))

    async with Engine(path, clock=clock) as engine:
        raw = engine.workflow("w", create_dynamic_workflow_entrypoint(load))
        instance = await wrap_workflow_binding(raw, {"tenant_id": "t"}).create()

        async def over() -> bool:
            return (await instance.status())["status"] in {"complete", "errored"}

        await pass_time(over)
        assert (await instance.status())["error"] is None
        assert await instance.result() == "at last"


async def test_code_that_cannot_be_fetched_interrupts_the_run_and_never_fails_the_instance(
    path: Any, clock: VirtualClock, pass_time: Any, code: Code
) -> None:
    """An outage of the host's code store, of any length, is no fault of the tenant's."""
    refusals = 25

    def get_code(tenant: str) -> WorkerCode:
        nonlocal refusals
        refusals -= 1
        if refusals % 2:
            raise OSError("the code store is down")
        if refusals >= 0:
            return cast(WorkerCode, "junk")
        return code("""
            from workers import WorkflowEntrypoint
            class TenantWorkflow(WorkflowEntrypoint):
                async def run(self, event, step):
                    return "at last"
        """)

    async with Host(path, get_code=get_code, engine=Engine(path, clock=clock), spares=1) as host:
        instance = await host.workflows("t").create()

        async def over() -> bool:
            return (await instance.status())["status"] in {"complete", "errored"}

        troubles = set()

        async def over_or_told() -> bool:
            troubles.add((await instance.status())["trouble"])
            return await over()

        await pass_time(over_or_told)
        assert (await instance.status())["error"] is None
        assert await instance.result() == "at last"
        assert any("the code store is down" in (trouble or "") for trouble in troubles)
        assert (await instance.status())["trouble"] is None


async def test_code_that_contradicts_itself_is_the_hosts_mistake_too(
    path: Any, clock: VirtualClock, pass_time: Any, code: Code
) -> None:
    """`InvalidCode` out of `get_code` is mended by the host, and then the instance goes on."""
    mended = False

    def get_code(tenant: str) -> WorkerCode:
        if not mended:
            return WorkerCode(main_module="missing.py", modules={"main.py": ""})
        return code("""
            from workers import WorkflowEntrypoint
            class TenantWorkflow(WorkflowEntrypoint):
                async def run(self, event, step):
                    return "mended"
        """)

    async with Host(path, get_code=get_code, engine=Engine(path, clock=clock), spares=1) as host:
        instance = await host.workflows("t").create()

        async def interrupted() -> bool:
            return host.engine.statistics().postponed >= 12

        await pass_time(interrupted)
        mended = True

        async def over() -> bool:
            return (await instance.status())["status"] in {"complete", "errored"}

        await pass_time(over)
        assert await instance.result() == "mended"


async def test_a_run_waits_while_its_tenant_gets_no_sandbox_and_loses_nothing_by_it(
    path: Any, clock: VirtualClock, pass_time: Any, code: Code
) -> None:
    """What its tenant's other calls have brought about is no loss of the run's, however often it comes too early."""
    program = code("""
        import os
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        class Default(WorkerEntrypoint):
            async def die(self):
                os._exit(3)
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return "at last"
    """)
    config = LoaderConfig(spares=1, restarts_free=0, restart_s=600.0, restart_most_s=600.0)
    async with Host(path, get_code=lambda _: program, engine=Engine(path, clock=clock), config=config) as host:
        with pytest.raises(SandboxDied):
            await host.tenant("t").die()
        instance = await host.workflows("t").create()

        async def put_off() -> bool:
            return host.engine.statistics().postponed >= 12

        await pass_time(put_off)
        status = await instance.status()
        assert (status["status"], host.engine.statistics().lost) == ("waiting", 0)
        assert "'t' were ended 1 times by what it did" in status["trouble"]
        host.loader.evict("t")

        async def over() -> bool:
            return (await instance.status())["status"] in {"complete", "errored"}

        await pass_time(over)
        assert await instance.result() == "at last"


async def test_a_loader_that_is_closed_first_costs_its_runs_nothing(path: Any, code: Code) -> None:
    """The order in which a host leaves its engine and its loader is not a way to lose an instance."""
    begun = asyncio.Event()
    release = asyncio.Event()

    async def gate() -> str:
        begun.set()
        await release.wait()
        return "opened"

    program = code(
        """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return await step.do("gate", lambda: self.env.GATE())
        """,
        env={"GATE": gate},
    )

    def register(engine: Engine, loader: Loader) -> Workflow:
        return engine.workflow(
            "w",
            create_dynamic_workflow_entrypoint(
                lambda context: loader.get("t", lambda: program).get_entrypoint("TenantWorkflow")
            ),
        )

    async with Engine(path) as engine, Loader(spares=1) as loader:
        await wrap_workflow_binding(register(engine, loader), {"tenant_id": "t"}).create(id="x")
        await begun.wait()
    release.set()
    async with Engine(path) as engine, Loader(spares=1) as loader:
        instance = await wrap_workflow_binding(register(engine, loader), {"tenant_id": "t"}).get("x")
        assert await instance.result() == "opened"


async def test_a_durable_run_waits_for_room_as_long_as_it_takes(path: Any, code: Code) -> None:
    """A direct call is refused when the house is full; a durable run is in no such hurry."""
    held, release = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        held.set()
        await release.wait()

    program = code(
        """
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        class Default(WorkerEntrypoint):
            async def hold(self):
                await self.env.GATE()
            async def hello(self):
                return "hello"
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return "ran"
        """,
        env={"GATE": gate},
    )
    async with Loader(max_sandboxes=1, spares=1, admission_timeout=0.05) as loader, Engine(path) as engine:
        raw = engine.workflow(
            "w",
            create_dynamic_workflow_entrypoint(
                lambda context: loader.get("patient", lambda: program).get_entrypoint("TenantWorkflow")
            ),
        )
        holder = asyncio.ensure_future(loader.get("greedy", lambda: program).get_entrypoint().hold())
        await held.wait()
        instance = await wrap_workflow_binding(raw, {"tenant_id": "patient"}).create()
        with pytest.raises(NoCapacity):
            await loader.get("hasty", lambda: program).get_entrypoint().hello()
        assert (await instance.status())["status"] == "running"
        release.set()
        assert await instance.result() == "ran"
        await holder
