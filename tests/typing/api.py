"""The public names as a user types them. Read by the type checker and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal, assert_type

from cloister.engine import (
    CreationRateExceeded,
    Encoded,
    Engine,
    EngineError,
    EngineLocked,
    EngineStatistics,
    Event,
    HistoryEvent,
    Instance,
    InstanceFailed,
    InstanceNotFound,
    Page,
    Schedule,
    Status,
    StepContext,
    Summary,
    Transaction,
    Workflow,
    WorkflowContext,
    WorkflowEntrypoint,
    WorkflowEvent,
    WorkflowLimits,
    WorkflowStep,
)
from cloister.engine.testing import VirtualClock
from cloister.ipc import IpcError, RemoteError
from cloister.ipc.stubs import RemoteCall, RemoteMethod
from cloister.loader import (
    BlockingHost,
    CodeError,
    Data,
    DispatchContext,
    DynamicInstance,
    DynamicWorkflowBinding,
    Entrypoint,
    EntrypointNotFound,
    Host,
    Json,
    LimitExceeded,
    Limits,
    LoadBackedOff,
    Loader,
    LoaderConfig,
    LoaderError,
    LoaderEvent,
    LoaderStatistics,
    LoadFailed,
    MissingDispatcherMetadataError,
    Policy,
    Quota,
    RestartBackedOff,
    RpcTarget,
    SandboxDied,
    SandboxError,
    Shard,
    ShardFailed,
    ShardLost,
    Shards,
    TailEvent,
    TailLine,
    TailStart,
    TenantError,
    TenantThrottled,
    Text,
    VersionChanged,
    WorkerCode,
    WorkerStub,
    WorkflowRunner,
    create_dynamic_workflow_entrypoint,
    dispatch_workflow,
    wrap_workflow_binding,
)


class Store(RpcTarget):
    """A host's object, granted to a tenant."""

    def rpc_attributes(self) -> Mapping[str, Any]:
        """What its stub knows without asking."""
        return {"name": "store"}

    async def put(self, key: str, value: bytes) -> int:
        """May be called."""
        return len(key) + len(value)


def tail(told: TailStart | TailLine | TailEvent) -> None:
    """Where a tenant's output goes."""
    assert_type(told.tenant_id, str)
    assert_type(told.time_ms, int)
    if isinstance(told, TailLine):
        assert_type(told.level, str)


def tenants_code(tenant_id: str) -> WorkerCode:
    """All fields, and all kinds of module."""
    code = WorkerCode(
        main_module="main.py",
        modules={"main.py": "x = 1", "motd.txt": Text("hi"), "logo.png": Data(b"\x89"), "prices.json": Json([1, 2])},
        env={"PLAN": "pro", "STORE": Store(), "NOW": lambda: 0},
        global_outbound=None,
        streaming_tails=(tail,),
        limits=Limits(cpu_ms=50, wall_ms=None, memory_bytes=64 << 20),
        compatibility_date="2026-01-01",
        compatibility_flags=("a", "b"),
    )
    assert_type(code.digest, bytes)
    assert_type(code.main_module, str)
    return code


async def fetched_code(tenant_id: str) -> WorkerCode:
    """The same, from somewhere slow."""
    return tenants_code(tenant_id)


async def with_a_loader() -> None:
    """Direct calls."""
    async with Loader(max_sandboxes=8, spares=2, policy=Policy(isolation="strict"), admission_timeout=5.0) as loader:
        assert_type(loader, Loader)
        stub = loader.get("t-42", lambda: tenants_code("t-42"))
        assert_type(stub, WorkerStub)
        assert_type(loader.get("t-42", lambda: fetched_code("t-42"), version="7"), WorkerStub)
        assert_type(loader.load(tenants_code("nobody")), WorkerStub)
        entrypoint = stub.get_entrypoint("Admin", props={"user": "Ann"}, limits=Limits(cpu_ms=10))
        assert_type(entrypoint, Entrypoint)
        assert_type(entrypoint.greet, RemoteMethod)
        assert_type(entrypoint.cart(1), RemoteCall)
        assert_type(await entrypoint.greet("Ann", loud=True), Any)
        assert_type((await stub.get_entrypoint().fetch("https://shop.example/")).status, int)
        assert_type(loader.evict("t-42"), bool)
        events: AsyncIterator[LoaderEvent] = loader.subscribe()
        async for event in events:
            assert_type(event, LoaderEvent)
            assert_type(event.kind, Literal["boot", "evict", "died", "limit", "redeploy"])
            assert_type(event.reason, str)
            break
        statistics = loader.statistics()
        assert_type(statistics, LoaderStatistics)
        assert_type(statistics.warm, int)
        assert_type(statistics.layers, dict[str, str])


async def what_may_go_wrong(entrypoint: Entrypoint) -> None:
    """Whose fault it is, by class."""
    try:
        await entrypoint.greet("Ann")
    except CodeError as error:
        assert_type(error.trace, str)
    except EntrypointNotFound as error:
        assert_type(error.message, str)
    except TenantError as error:
        assert_type(error.name, str)
        remote: RemoteError = error
        both: LoaderError = error
        print(remote, both)
    except LimitExceeded as error:
        limit: SandboxError = error
        print(limit)
    except SandboxDied as error:
        death: SandboxError = error
        print(death)
    except (LoadFailed, MissingDispatcherMetadataError) as error:
        hosts: LoaderError = error
        print(hosts)
    except IpcError as error:
        assert_type(error, IpcError)


class Trusted(WorkflowEntrypoint):
    """A workflow in the host's own code."""

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> str:
        """Every kind of step."""
        assert_type(self.ctx, WorkflowContext)
        assert_type(event.payload, Any)
        assert_type(event.instance_id, str)

        @step.do("decorated", config={"retries": {"limit": 1, "delay": "1 second"}})
        async def decorated(ctx: StepContext) -> int:
            return ctx.attempt

        await decorated()
        await step.do("plain", lambda: 1)
        await step.do("configured", {"timeout": "1 minute"}, lambda: 1)
        await step.sleep("nap", "1 hour")
        await step.sleep_until("morning", 1_800_000_000_000)
        got = await step.wait_for_event("answer", type="answer", timeout="1 day")
        assert_type(got, Event)
        assert_type(got.payload, Any)
        return got.type


class Local:
    """A runner that is no sandbox."""

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Encoded:
        """Anything with this method is one."""
        return Encoded(event.encoded_payload)


async def with_an_engine(path: Path) -> None:
    """The raw binding, and a wrapped one."""
    async with Engine(path, synchronous="normal", clock=VirtualClock(), linger=0.1) as engine, Loader() as loader:
        assert_type(engine, Engine)
        assert_type(engine.statistics(), EngineStatistics)
        trusted = engine.workflow("trusted", Trusted, concurrency=8, env={"KEY": 1})
        assert_type(trusted, Workflow)
        instance = await trusted.create({"id": "one", "params": {"n": 1}}, scope="team")
        assert_type(instance, Instance)
        assert_type(instance.id, str)
        assert_type(await trusted.create_batch([{"id": "two"}, {}]), list[Instance])
        assert_type(await trusted.get("one", scope="team"), Instance)
        await with_many_instances(engine, trusted)

        async def later(context: DispatchContext) -> WorkflowRunner:
            tenant_id = context.metadata["tenant_id"]
            assert_type(context.code_digest, bytes | None)
            return loader.get(tenant_id, lambda: fetched_code(tenant_id)).get_entrypoint("TenantWorkflow")

        made = create_dynamic_workflow_entrypoint(later)
        assert_type(made, type[WorkflowEntrypoint])
        create_dynamic_workflow_entrypoint(lambda context: Local())
        workflows = engine.workflow("dynamic-workflow", made)
        binding = wrap_workflow_binding(workflows, {"tenant_id": "t-42"})
        assert_type(binding, DynamicWorkflowBinding)
        wrap_workflow_binding(lambda: workflows, {"region": "eu"}, scope="t-42")
        assert_type(wrap_workflow_binding(binding, {"tenant_id": "t-42-1"}), DynamicWorkflowBinding)
        await with_a_binding(binding)


async def with_many_instances(engine: Engine, workflow: Workflow) -> None:
    """Lists, deletions, history, and a transaction with writes of one's own."""
    await workflow.create(id="three", labels={"kind": "order"}, retention={"error_retention": "10 days"})
    assert_type(await workflow.create_batch({"count": 3, "params": {"n": 1}}), dict[str, Any])
    page = await workflow.list(scope="team", status=["waiting", "paused"], labels={"kind": "order"}, limit=10)
    assert_type(page, Page)
    assert_type(page.cursor, str | None)
    assert_type(page.instances, tuple[Summary, ...])
    assert_type(await workflow.delete_batch(["one"], scope="team"), dict[str, Any])
    assert_type(await workflow.bulk("pause", labels={"kind": "order"}), dict[str, int])
    instance = await workflow.get("three")
    await instance.restart(from_step={"name": "reserve", "count": 2})
    async for event in instance.subscribe(cursor=17, types=["step_completed"]):
        assert_type(event, HistoryEvent)
        assert_type(event.id, int)
    await instance.delete()

    def write(transaction: Transaction) -> int:
        assert_type(transaction.create(workflow, id="four", scope="team"), str)
        return len(transaction.execute("SELECT id FROM orders WHERE id = ?", ("four",)))

    assert_type(await engine.transact(write), int)
    assert_type(await engine.backup("copy.db"), int)
    try:
        await workflow.create()
    except CreationRateExceeded as error:
        assert_type(error.retry_after_ms, int | None)


async def with_a_binding(binding: DynamicWorkflowBinding) -> None:
    """What a host does with a tenant's instances."""
    instance = await binding.create(id="order-1", params={"n": 1})
    assert_type(instance, DynamicInstance)
    assert_type(await binding.create_batch([{"id": "order-2"}]), list[DynamicInstance])
    assert_type(await binding.create_batch({"instances": [{"id": "order-3"}]}), dict[str, Any])
    assert_type(await binding.list(status="complete"), Page)
    assert_type(await binding.bulk("delete", status="errored"), dict[str, int])
    try:
        instance = await binding.get("order-1")
    except InstanceNotFound as error:
        missing: EngineError = error
        print(missing)
    status = await instance.status()
    assert_type(status, dict[str, Any])
    print(status["status"] == Status.COMPLETE)
    await instance.send_event(type="approval", payload={"by": "Ann"}, id="once")
    await instance.send_event({"type": "approval"})
    await instance.pause()
    await instance.resume()
    await instance.terminate()
    try:
        assert_type(await instance.result(timeout=5.0), Any)
    except InstanceFailed as error:
        assert_type(error.message, str)


class Logged(WorkflowEntrypoint):
    """One's own class around the lower-level call."""

    async def run(self, event: WorkflowEvent, step: WorkflowStep) -> Any:
        """Whatever one likes before and after."""
        return await dispatch_workflow(self, event, step, lambda context: Local())


async def with_a_host(path: Path) -> None:
    """The common case."""
    try:
        limits = WorkflowLimits(concurrency_per_scope=4, creates_per_second=100, weights={"t-42": 2})
        schedules = [Schedule("0 9 * * 1-5", zone="Europe/Berlin", scope="t-42")]
        async with Host(
            path, get_code=tenants_code, max_sandboxes=8, spares=1, concurrency=16, limits=limits, schedules=schedules
        ) as host:
            assert_type(host, Host)
            assert_type(host.tenant("t-42"), Entrypoint)
            assert_type(host.workflows("t-42"), DynamicWorkflowBinding)
            assert_type(await host.tenant("t-42").greet("Ann"), Any)
            assert_type(host.loader.statistics(), LoaderStatistics)
    except EngineLocked as error:
        locked: EngineError = error
        print(locked)
    config = LoaderConfig(max_sandboxes=64, drain_s=5, quota=Quota(concurrency=100))
    quotas: dict[str, Quota] = {"t-42": Quota(calls_per_second=50, weight=2)}
    async with Host(
        "app.db", get_code=fetched_code, entrypoint="Pipeline", workflow_name="ci", config=config, quotas=quotas.get
    ) as host:
        assert_type(await host.redeploy("t-42"), bool)
        assert_type(await host.drain("t-42", timeout=3), bool)
        assert_type(host.loader.quota("t-42"), Quota)
        try:
            await host.tenant("t-42").greet("Ann")
        except TenantThrottled as error:
            assert_type(error.retry_after_s, float | None)
        except LoadBackedOff as error:
            assert_type(error.retry_after_s, float)
        except RestartBackedOff as error:
            assert_type((error.ends, error.retry_after_s), tuple[int, float])
        except VersionChanged as error:
            assert_type(error.difference.changed, tuple[str, ...])
        assert_type(await host.serve(), bool)


def of_a_shard(shard: Shard) -> Host:
    """What each shard's process makes."""
    assert_type((shard.path, shard.number, shard.count, shard.has("t-42")), tuple[Path, int, int, bool])
    return Host(shard.path, get_code=tenants_code, spares=1)


async def with_shards(path: Path) -> None:
    """On several cores: the names of a host."""
    async with Shards(path, of_a_shard, count=2, patience=5.0) as host, Shards("data", "service:make_host"):
        assert_type(host, Shards)
        assert_type(host.shard("t-42"), Shard)
        try:
            assert_type(await host.tenant("t-42").greet("Ann"), Any)
            assert_type(await host.tenant("t-42").cart("c-1").add("tea"), Any)
        except ShardLost as error:
            lost: LoaderError = error
            print(lost)
        except ShardFailed as error:
            failed: LoaderError = error
            print(failed)
        assert_type(await (await host.tenant("t-42").fetch("https://shop.example/")).text(), str)
        instance = await host.workflows("t-42").create(params={"number": 1})
        assert_type(await instance.result(timeout=5.0), Any)
        assert_type(await instance.status(), dict[str, Any])
        async for event in instance.subscribe():
            assert_type(event, HistoryEvent)
        assert_type(await host.workflows("t-42").list(status="running"), Page)
        assert_type(await host.begin_each([("t-42", tenants_code("t-42"), {"id": "order"})]), list[bool])
        assert_type(await host.evict("t-42"), bool)
        assert_type(await host.drain("t-42", timeout=3), bool)
        assert_type(await host.statistics(), list[dict[str, Any]])
        assert_type(await host.serve(), bool)


def without_awaiting(path: Path) -> None:
    """In Flask or Django."""
    with BlockingHost(path, get_code=tenants_code, spares=1) as host:
        assert_type(host, BlockingHost)
        assert_type(host.tenant("t-42").greet("Ann"), Any)
        assert_type(host.redeploy("t-42"), bool)
