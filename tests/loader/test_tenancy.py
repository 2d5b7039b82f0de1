"""Tenants under one workflow: each sees its own instances only, and nothing in its params says otherwise."""

from __future__ import annotations

import asyncio
import random
import string
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.engine import (
    Encoded,
    Engine,
    InstanceAlreadyExists,
    InstanceFailed,
    InstanceNotFound,
    Workflow,
    WorkflowLimits,
)
from cloister.engine.testing import VirtualClock
from cloister.ipc import values
from cloister.loader import (
    DispatchContext,
    DynamicWorkflowBinding,
    Host,
    RpcTarget,
    Schedule,
    WorkerCode,
    WorkerStub,
    create_dynamic_workflow_entrypoint,
    wrap_workflow_binding,
)
from cloister.loader.journal import JournalTarget

Bind = Callable[..., DynamicWorkflowBinding]
MakeWorker = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

ECHO = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            return event.payload
"""
WAITING = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            first = await step.wait_for_event("first", "go")
            second = await step.wait_for_event("second", "go")
            return [first.payload, second.payload]
"""
CLIENT = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def call(self, name, *args, **kwargs):
            return await getattr(self.env.WORKFLOWS, name)(*args, **kwargs)
        async def instance(self, id, name, *args, **kwargs):
            return await getattr(await self.env.WORKFLOWS.get(id), name)(*args, **kwargs)
        async def outcome(self, name, *args, **kwargs):
            try:
                await getattr(self.env.WORKFLOWS, name)(*args, **kwargs)
            except Exception as error:
                return [type(error).__name__, getattr(error, "name", type(error).__name__), str(error)]
"""


class Count(RpcTarget):
    """Numbers, one after the other."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


async def test_params_that_look_like_an_envelope_are_delivered_unchanged(bind: Bind) -> None:
    """A tenant that writes the metadata key into its params routes nothing and changes nothing."""
    binding = bind(ECHO)
    spoofed = {"__dispatcherMetadata": {"tenant_id": "somebody-else"}, "params": {"x": 1}}
    assert await (await binding.create(params=spoofed)).result() == spoofed


async def test_a_tenant_that_spoofs_metadata_still_runs_its_own_code(bind: Bind, worker: MakeWorker) -> None:
    """From inside the sandbox as well, under either of the envelope's keys."""
    victim = bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return "the victim's code ran"
    """)
    attacker = bind(ECHO)
    client = worker(CLIENT, env={"WORKFLOWS": attacker}).get_entrypoint()
    spoofed = {"__dispatcherMetadata": {"tenant_id": victim.scope}, "params": None}
    await client.call("create", {"id": "a", "params": spoofed, "__dispatcherMetadata": {"tenant_id": victim.scope}})
    await client.call("create", id="b", params=spoofed, scope=victim.scope, metadata={"tenant_id": victim.scope})
    for instance_id in "ab":
        assert await (await attacker.get(instance_id)).result() == spoofed
        with pytest.raises(InstanceNotFound):
            await victim.get(instance_id)


async def test_another_tenants_id_and_an_unknown_one_are_told_of_in_the_same_words(bind: Bind) -> None:
    """So that nobody learns which ids others use."""
    one, other = bind(ECHO), bind(ECHO)
    await one.create(id="known")

    async def refusal(instance_id: str) -> str:
        with pytest.raises(InstanceNotFound) as caught:
            await other.get(instance_id)
        return str(caught.value).replace(instance_id, "<id>")

    assert await refusal("known") == await refusal("never")


async def test_a_tenant_cannot_get_anothers_instance_from_inside(bind: Bind, worker: MakeWorker) -> None:
    """Neither by its id nor by asking for another scope."""
    one, other = bind(WAITING), bind(ECHO)
    await one.create(id="mine")
    client = worker(CLIENT, env={"WORKFLOWS": other}).get_entrypoint()
    kind, name, text = await client.outcome("get", "mine")
    assert (kind, name) == ("RemoteError", "InstanceNotFound")
    assert text.replace("mine", "<id>") == (await client.outcome("get", "nope"))[2].replace("nope", "<id>")
    assert (await client.outcome("get", "mine", scope=one.scope))[0] == "TypeError"
    await (await one.get("mine")).terminate()


async def test_two_tenants_may_use_the_same_id(bind: Bind) -> None:
    """And each gets its own instance by it."""
    one, other = bind(ECHO), bind(ECHO)
    await one.create(id="order-1", params="of one")
    await other.create(id="order-1", params="of the other")
    assert await (await one.get("order-1")).result() == "of one"
    assert await (await other.get("order-1")).result() == "of the other"
    with pytest.raises(InstanceAlreadyExists):
        await one.create(id="order-1")


async def test_one_tenants_events_and_controls_reach_no_other(bind: Bind) -> None:
    """What is done to the one instance is not done to the other of the same id."""
    one, other = bind(WAITING), bind(WAITING)
    mine, theirs = await one.create(id="x"), await other.create(id="x")
    await theirs.terminate()
    await mine.send_event(type="go", payload=1)
    await mine.send_event(type="go", payload=2)
    assert await mine.result() == [1, 2]
    with pytest.raises(InstanceFailed, match="Terminated"):
        await theirs.result()


async def test_create_batch_of_one_tenant_skips_only_its_own_ids(bind: Bind) -> None:
    """Ids that exist are left out of the result; those of others do not exist."""
    one, other = bind(ECHO), bind(ECHO)
    await one.create_batch([{"id": "a"}, {"id": "b"}])
    made = await other.create_batch([{"id": "b", "params": 2}, {"id": "c", "params": 3}])
    assert [instance.id for instance in made] == ["b", "c"]
    again = await other.create_batch([{"id": "c"}, {"id": "d", "params": 4}])
    assert [instance.id for instance in again] == ["d"]
    assert await (await other.get("c")).result() == 3


@pytest.mark.parametrize("metadata", [{}, {"tenant": "t"}, {"tenant_id": ""}, {"tenant_id": None}, {"tenant_id": 7}])
def test_a_binding_without_a_tenant_is_refused_when_it_is_wrapped(raw: Workflow, metadata: Any) -> None:
    """Without a scope tenants would see each other, so there is no default."""
    with pytest.raises(ValueError, match="tenant_id"):
        wrap_workflow_binding(raw, metadata)


@pytest.mark.parametrize("scope", ["", 7, b"t"])
def test_a_scope_that_is_no_text_is_refused(raw: Workflow, scope: Any) -> None:
    """Given on its own it is checked as well."""
    with pytest.raises(ValueError, match="scope"):
        wrap_workflow_binding(raw, {}, scope=scope)


async def test_a_scope_of_its_own_goes_before_the_tenant_id(raw: Workflow) -> None:
    """The metadata routes, the scope owns; they need not agree."""
    binding = wrap_workflow_binding(raw, {"tenant_id": "t"}, scope="team-of-t")
    await binding.create(id="x")
    assert (await raw.get("x", scope="team-of-t")).id == "x"
    with pytest.raises(InstanceNotFound):
        await raw.get("x", scope="t")


async def test_the_metadata_authorises_nothing(raw: Workflow) -> None:
    """A second binding with the same metadata and another scope sees nothing of the first."""
    await wrap_workflow_binding(raw, {"tenant_id": "t"}, scope="one").create(id="x")
    with pytest.raises(InstanceNotFound):
        await wrap_workflow_binding(raw, {"tenant_id": "t"}, scope="other").get("x")


# A tenant that is a dispatcher itself


async def test_nested_dispatchers_each_take_off_one_envelope(engine: Engine) -> None:
    """The outer one reads the outer metadata, the inner one its own, and the params arrive whole."""
    seen: list[tuple[str, Any]] = []

    class Tenant:
        async def run(self, event: Any, step: Any) -> Any:
            return event.payload

    class Dispatcher:
        async def run(self, event: Any, step: Any) -> Any:
            def inner(context: DispatchContext) -> Tenant:
                seen.append(("inner", context.metadata))
                return Tenant()

            return await create_dynamic_workflow_entrypoint(inner)(None, None).run(event, step)  # type: ignore[arg-type]

    def outer(context: DispatchContext) -> Dispatcher:
        seen.append(("outer", context.metadata))
        return Dispatcher()

    raw = engine.workflow("w", create_dynamic_workflow_entrypoint(outer))
    platform = wrap_workflow_binding(raw, {"tenant_id": "platform"})
    customer = wrap_workflow_binding(platform, {"tenant_id": "customer"})
    instance = await customer.create(id="x", params={"deep": [1]})
    assert await instance.result() == {"deep": [1]}
    assert seen == [("outer", {"tenant_id": "platform"}), ("inner", {"tenant_id": "customer"})]


async def test_tenants_of_a_nested_dispatcher_are_kept_apart_as_well(engine: Engine) -> None:
    """Scopes nest with the envelopes: neither siblings nor a tenant of the same name further out see an instance."""

    class Echo:
        async def run(self, event: Any, step: Any) -> Any:
            return "ran"

    raw = engine.workflow("w", create_dynamic_workflow_entrypoint(lambda _: Echo()))
    platform = wrap_workflow_binding(raw, {"tenant_id": "p"})
    ann = wrap_workflow_binding(platform, {"tenant_id": "ann"})
    bob = wrap_workflow_binding(platform, {"tenant_id": "bob"})
    elsewhere = wrap_workflow_binding(wrap_workflow_binding(raw, {"tenant_id": "q"}), {"tenant_id": "ann"})
    await ann.create(id="x")
    await ann.create_batch([{"id": "y"}])
    assert await (await ann.get("x")).result() == "ran"
    assert await (await ann.get("y")).result() == "ran"
    for stranger in (bob, platform, elsewhere, wrap_workflow_binding(raw, {"tenant_id": "ann"})):
        with pytest.raises(InstanceNotFound):
            await stranger.get("x")


# Under the names that tenants know


@pytest.mark.parametrize("style", ["positional dict", "keywords", "no arguments"])
async def test_a_tenant_creates_with_a_dict_or_keywords_or_nothing(bind: Bind, worker: MakeWorker, style: str) -> None:
    """The forms that the SDK knows."""
    binding = bind(ECHO)
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    match style:
        case "positional dict":
            made = await client.call("create", {"id": "a", "params": {"x": 1}})
        case "keywords":
            made = await client.call("create", id="a", params={"x": 1})
        case _:
            made = await client.call("create")
    instance = await binding.get(made.id)
    assert await instance.result() == ({} if style == "no arguments" else {"x": 1})


@pytest.mark.parametrize("name", ["create_batch", "createBatch"])
async def test_a_tenant_creates_batches_under_either_name(bind: Bind, worker: MakeWorker, name: str) -> None:
    """Snake case and camel case are the same method."""
    binding = bind(ECHO)
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    await client.call(name, [{"id": "a", "params": 1}, {"id": "b", "params": 2}])
    assert [await (await binding.get(name)).result() for name in "ab"] == [1, 2]


@pytest.mark.parametrize("name", ["send_event", "sendEvent"])
async def test_a_tenant_sends_events_under_either_name(bind: Bind, worker: MakeWorker, name: str) -> None:
    """With a dict or with keywords."""
    binding = bind(WAITING)
    instance = await binding.create(id="x")
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    await client.instance("x", name, {"type": "go", "payload": {"n": 1}})
    await client.instance("x", name, type="go", payload=[2])
    assert await instance.result() == [{"n": 1}, [2]]


async def test_a_tenant_controls_its_instances_from_inside(bind: Bind, worker: MakeWorker) -> None:
    """Status, pause, resume and terminate, with the id at hand without a call."""
    binding = bind(WAITING)
    client = worker(
        """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def tour(self):
                made = await self.env.WORKFLOWS.create(id="x")
                seen = [made.id]
                for verb in ("pause", "resume", "terminate"):
                    await getattr(made, verb)()
                    status = await made.status()
                    seen.append(status["status"])
                status = await made.status()
                return [*seen, status.error.name, status["output"]]
        """,
        env={"WORKFLOWS": binding},
    ).get_entrypoint()
    created, paused, resumed, ended, error, output = await client.tour()
    assert (created, ended, error, output) == ("x", "terminated", "Terminated", None)
    assert paused in {"paused", "waitingForPause"}
    assert resumed in {"running", "queued", "waiting"}


async def test_a_tenant_reads_the_output_of_its_instance_as_it_was_returned(bind: Bind, worker: MakeWorker) -> None:
    """The host passes it on as the bytes they are."""
    binding = bind(ECHO)
    params = {"text": "ä", "bytes": b"\0\xff", "list": [None, True, 1.5, {"deep": []}]}
    await (await binding.create(id="x", params=params)).result()
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    status = await client.instance("x", "status")
    assert (status["status"], status["output"]) == ("complete", params)


async def test_a_tenant_lists_restarts_and_deletes_its_own_and_no_others(bind: Bind, worker: MakeWorker) -> None:
    """Under either spelling; of another tenant's instances nothing is told and nothing is changed."""
    binding, other = bind(ECHO), bind(ECHO)
    await other.create_batch([{"id": name, "labels": {"kind": "x"}} for name in "abc"])
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    made = await client.call("createBatch", {"instances": [{"id": "a", "labels": {"kind": "x"}}, {"id": "a"}]})
    assert [error["code"] for error in made["errors"]] == ["InstanceAlreadyExists"]
    await client.call("create_batch", count=3, params=7, labels={"kind": "y"}, retention={"successRetention": "1 day"})
    for created in (await binding.list()).instances:
        await (await binding.get(created.id)).result()
    page = await client.call("list", {"labels": {"kind": "y"}, "status": "complete", "limit": 2})
    assert len(page["instances"]) == 2
    rest = await client.call("list", labels={"kind": "y"}, limit=2, cursor=page["cursor"])
    assert len({line["id"] for line in page["instances"] + rest["instances"]}) == 3
    assert rest["cursor"] is None
    assert "scope" not in page["instances"][0]
    await client.instance("a", "restart")
    assert (await (await binding.get("a")).status())["run"] == 2
    answer = await client.call("deleteBatch", ["a", "b"])
    assert (answer["deleted"], [error["code"] for error in answer["errors"]]) == ([{"id": "a"}], ["InstanceNotFound"])
    assert await client.call("bulk", "delete", {"createdFrom": 0}) == {"done": 3, "skipped": 0}
    assert [summary.id for summary in (await other.list(labels={"kind": "x"})).instances] == ["c", "b", "a"]


async def test_a_tenant_begins_an_instance_again_from_a_step(bind: Bind, worker: MakeWorker) -> None:
    """With the options that Cloudflare gives it."""
    binding = bind(
        """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                one = await step.do("one", lambda: self.env.COUNT.next())
                two = await step.do("two", lambda: self.env.COUNT.next())
                return [one, two]
    """,
        env={"COUNT": Count()},
    )
    instance = await binding.create(id="x")
    assert await instance.result() == [1, 2]
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    await client.instance("x", "restart", {"from": {"name": "two"}})
    assert await instance.result() == [1, 3]
    await client.instance("x", "delete")
    with pytest.raises(InstanceNotFound):
        await binding.get("x")


async def test_a_tenant_follows_the_history_of_its_instance(bind: Bind, worker: MakeWorker) -> None:
    """With `async for`, as it happens; or from a cursor on, with `next()`."""
    binding = bind(WAITING)
    instance = await binding.create(id="x")
    client = worker(
        """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def follow(self):
                made, seen = await self.env.WORKFLOWS.get("x"), []
                async for event in await made.subscribe():
                    seen.append(event)
                    if event["type"] == "wait_started":
                        await made.send_event(type="go", payload=event["stepName"])
                return seen
            async def after(self, cursor):
                events = await (await self.env.WORKFLOWS.get("x")).subscribe(
                    {"cursor": cursor, "filter": ["wait_completed"]})
                return [await events.next(), await events.next()]
        """,
        env={"WORKFLOWS": binding},
    ).get_entrypoint()
    seen = await client.follow()
    assert await instance.result() == ["first", "second"]
    waits = [event for event in seen if event["type"] == "wait_completed"]
    assert [event["stepName"] for event in waits] == ["first", "second"]
    assert (seen[0]["type"], seen[0]["instanceId"], seen[-1]["type"]) == ("workflow_queued", "x", "workflow_completed")
    rest = await client.after(waits[0]["eventId"])
    assert rest == [{"done": False, "value": waits[1]}, {"done": True, "value": None}]


async def test_a_schedule_of_a_tenant_runs_the_tenants_own_code(
    code: Callable[..., WorkerCode], path: Path, clock: VirtualClock
) -> None:
    """In its scope, with its params, and it is told what it was fired for."""
    source = """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return [self.env.NAME, event.payload, event.schedule.cron, event.schedule["scheduledTime"]]
    """

    def get_code(tenant_id: str) -> WorkerCode:
        return code(source, env={"NAME": tenant_id})

    schedules = [Schedule("*/5 * * * *", scope=name, params={"of": name}) for name in ("ann", "bob")]
    engine = Engine(path, clock=clock)
    async with Host(path, get_code=get_code, engine=engine, schedules=schedules, spares=1) as host:
        await host.workflows("cat").add_schedule(Schedule("*/5 * * * *", params={"of": "cat"}))
        await host.workflows("dan").add_schedule(Schedule("*/5 * * * *", params={"of": "dan"}))
        await host.workflows("dan").remove_schedule("*/5 * * * *")
        assert [each.cron for each in await host.workflows("cat").schedules()] == ["*/5 * * * *"]
        await clock.advance(300)
        assert (await host.workflows("dan").list()).instances == ()
        for name in ("ann", "bob", "cat"):
            (fired,) = (await host.workflows(name).list()).instances
            output = await (await host.workflows(name).get(fired.id)).result()
            assert output == [name, {"of": name}, "*/5 * * * *", fired.created]
    with pytest.raises(ValueError, match="tenant_id"):
        Host(path, get_code=get_code, schedules=[Schedule("* * * * *")])


async def test_what_a_binding_has_no_method_for_is_refused_with_a_list_of_those_it_has(
    bind: Bind, worker: MakeWorker
) -> None:
    """Private names and the host's own attributes are no methods."""
    binding = bind(ECHO)
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    for name in ("delete_everything", "answer", "scope", "attributes"):
        kind, told, text = await client.outcome(name)
        assert (kind, told) == ("CapabilityError", "CapabilityError"), name
        assert "create_batch" in text


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("create", ["text"], "TypeError"),
        ("create", [{"id": "../x"}], "InvalidInstanceId"),
        ("create", [{"id": 7}], "InvalidInstanceId"),
        ("create", [{"id": "x" * 101}], "InvalidInstanceId"),
        ("create_batch", [], "TypeError"),
        ("create_batch", [{"id": "a"}], "ValueError"),
        ("create_batch", [{"instances": 7}], "TypeError"),
        ("create_batch", [{"count": 10**9}], "ValueError"),
        ("create", [{"labels": {"a": 1}}], "InvalidLabels"),
        ("create", [{"retention": "99 years"}], "InvalidDuration"),
        ("list", [{"scope": "another"}], "TypeError"),
        ("list", [{"limit": 10**9}], "ValueError"),
        ("list", [{"cursor": "x"}], "InvalidCursor"),
        ("delete_batch", ["a"], "ValueError"),
        ("delete_batch", [[]], "ValueError"),
        ("bulk", [], "TypeError"),
        ("bulk", ["delete", {"scope": "another"}], "TypeError"),
        ("bulk", ["status"], "ValueError"),
        ("create_batch", [[]], "ValueError"),
        ("create_batch", [[7]], "TypeError"),
        ("create_batch", [[{"id": f"n{n}"} for n in range(101)]], "ValueError"),
        ("create_batch", [[*[{}] * 100, 7]], "ValueError"),  # what is too much is not read first
        ("create_batch", [{"instances": [*[{}] * 100, 7]}], "ValueError"),
        ("get", [], "TypeError"),
        ("get", ["a", "b"], "TypeError"),
        ("get", [None], "InvalidInstanceId"),
        ("get", [["x"]], "InvalidInstanceId"),
    ],
)
async def test_arguments_that_make_no_sense_are_the_tenants_error(
    bind: Bind, worker: MakeWorker, name: str, arguments: list[Any], told: str
) -> None:
    """Each refusal arrives inside by its name, and the sandbox lives on."""
    client = worker(CLIENT, env={"WORKFLOWS": bind(ECHO)}).get_entrypoint()
    assert (await client.outcome(name, *arguments))[1] == told
    assert await client.outcome("create", {"id": "fine"}) is None


async def test_a_batch_entry_that_is_no_dict_is_refused_on_the_hosts_side_too(bind: Bind) -> None:
    """With the error that a wrong type has everywhere."""
    binding = bind(ECHO)
    for entry in (None, "text", 7):
        with pytest.raises(TypeError):
            await binding.create_batch([entry])  # type: ignore[list-item]


# Params are the tenant's own


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=30,
)


def test_params_of_any_shape_arrive_bit_by_bit(runner: asyncio.Runner, engine: Engine) -> None:
    """From `create` to `run` no byte of them is changed, on the way through envelope and database."""

    class Bytes:
        async def run(self, event: Any, step: Any) -> Encoded:
            return Encoded(values.dumps(event.encoded_payload))

    async def register() -> DynamicWorkflowBinding:
        raw = engine.workflow("w", create_dynamic_workflow_entrypoint(lambda _: Bytes()))
        return wrap_workflow_binding(raw, {"tenant_id": "t"})

    binding = runner.run(register())

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(plain)
    def check(params: Any) -> None:
        async def stored() -> Any:
            return await (await binding.create(params=params)).result()

        assert runner.run(stored()) == values.dumps(params)

    check()


async def test_params_go_in_and_out_of_a_sandbox_unchanged(bind: Bind, worker: MakeWorker) -> None:
    """Created by the tenant itself, read by its run, returned, and read by the host."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)

    def value(depth: int) -> Any:
        match chance.randrange(8 if depth else 6):
            case 0:
                return chance.choice([None, True, False])
            case 1:
                return chance.randrange(-(2**63), 2**64)
            case 2:
                return chance.uniform(-1e300, 1e300)
            case 3:
                return chance.randbytes(chance.randrange(40))
            case 4 | 5:
                return "".join(chance.choices(string.printable + "äß漢\0\x7f", k=chance.randrange(40)))
            case 6:
                return [value(depth - 1) for _ in range(chance.randrange(6))]
            case _:
                return {str(n): value(depth - 1) for n in range(chance.randrange(6))}

    params = [value(6) for _ in range(50)]
    binding = bind(ECHO)
    client = worker(CLIENT, env={"WORKFLOWS": binding}).get_entrypoint()
    await client.call("create", id="x", params=params)
    assert await (await binding.get("x")).result() == params


NESTING = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def attempt(self, shape, size):
            match shape:
                case "lists":
                    params = [[] for _ in range(size)]
                case "deep":
                    params = []
                    for _ in range(size):
                        params = [params]
                case "maps":
                    params = {str(n): {} for n in range(size)}
                case "bytes":
                    params = bytes(size)
            try:
                made = await self.env.WORKFLOWS.create(params=params)
            except Exception as error:
                return [getattr(error, "name", type(error).__name__), str(error)]
            return made.id
        async def forge(self, body):
            binding = self.env.WORKFLOWS
            try:
                await binding._channel.call(binding._target, "create", body)
            except Exception as error:
                return [getattr(error, "name", type(error).__name__), str(error)]
"""


@pytest.mark.parametrize(
    ("shape", "size", "told"),
    [
        ("lists", 200_000, "PayloadError"),
        ("lists", 60_000, None),
        ("deep", 500, "CodecError"),
        ("deep", 50, None),
        ("maps", 100_000, "PayloadError"),
        ("bytes", 1024 * 1024 - 200, None),
        ("bytes", 1024 * 1024, "PayloadTooLarge"),
        ("bytes", 12 * 1024 * 1024, "PayloadTooLarge"),
    ],
)
async def test_params_are_passed_on_or_refused_by_name_however_large(
    bind: Bind, worker: MakeWorker, shape: str, size: int, told: str | None
) -> None:
    """A megabyte of nothing but nesting costs the host a walk over the bytes, and never sixty-four of objects."""
    binding = bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return len(event.payload)
    """)
    client = worker(NESTING, env={"WORKFLOWS": binding}).get_entrypoint()
    answer = await client.attempt(shape, size)
    if told is None:
        assert await (await binding.get(answer)).result() == (1 if shape == "deep" else size)
    else:
        assert answer[0] == told, answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        values.dumps([]),
        values.dumps([[], [], []]),
        values.dumps([{}, {}]),
        values.dumps([[], []]),
        values.dumps([[[]], {}]),
        b"\x92\x91\x81\xa6params\xc1\x80",
        b"\x92\x91\x82\xa2id\xa1a\xa2id\xa1b\x80",
        b"\x92\xdd\xff\xff\xff\xff\x80",
        b"\x92\x91\x81\xa6params" + b"\x91" * 100_000 + b"\xc0\x80",
    ],
)
async def test_a_forged_create_is_an_error_inside_and_nothing_outside(
    bind: Bind, worker: MakeWorker, body: bytes
) -> None:
    """Whatever bytes a tenant sends in place of arguments, it gets an answer, and its sandbox keeps working."""
    client = worker(NESTING, env={"WORKFLOWS": bind(ECHO)}).get_entrypoint()
    name, _ = await client.forge(body)
    assert name in {"PayloadError", "TypeError"}
    assert isinstance(await client.attempt("bytes", 1), str)


REFUSED = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            said = []
            for ask in (
                lambda: step.do("x" * 257, lambda: 1), lambda: step.sleep("s", "soon"), lambda: step.sleep("s", -1),
                lambda: step.wait_for_event("w", type="t", timeout=10), lambda: step.do("first", lambda: 1),
            ):
                try:
                    said.append(await ask())
                except Exception as error:
                    said.append(str(error).partition(":")[0])
            await step.wait_for_event("w", type="go")
            return said
"""


async def test_what_is_refused_at_the_border_is_refused_again_in_a_replay(tmp_path: Path) -> None:
    """A program that goes on all the same comes to the same end with an eviction in between."""

    def get_code(tenant_id: str) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(REFUSED)})

    async with Host(tmp_path / "app.db", get_code=get_code) as host:
        instance = await host.workflows("ann").create()
        async for event in instance.subscribe(types=["workflow_waiting"]):
            assert event.type == "workflow_waiting"
            break
        host.evict("ann")
        await instance.send_event(type="go")
        invalid = ["InvalidStepName", "InvalidDuration", "InvalidDuration", "InvalidDuration"]
        assert await instance.result(timeout=100) == [*invalid, 1]


FAILING = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            async def fail():
                raise ValueError("x" * 8_000)
            await step.do("fail", {"retries": {"limit": 100, "delay": 0, "backoff": "constant"}}, fail)
"""


async def test_a_step_whose_failures_are_too_much_to_store_fails_for_good(tmp_path: Path) -> None:
    """It is on record, so that no later run begins it again."""

    def get_code(tenant_id: str) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(FAILING)})

    async with Host(tmp_path / "app.db", get_code=get_code, limits=WorkflowLimits(bytes_per_scope=100_000)) as host:
        instance = await host.workflows("ann").create()
        with pytest.raises(InstanceFailed, match="QuotaExceeded"):
            await instance.result(timeout=100)
        assert [step["status"] for step in (await instance.status())["steps"]] == ["failed"]


MAIL = """
    import asyncio, os
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.wait_for_event("start", type="start")
            first = await step.wait_for_event("first", type="go")
            async def use():
                if await self.env.COUNT.next() == 1:
                    os._exit(1)
                return first.payload * 10
            used = await step.do("use", use)
            second = await step.wait_for_event("second", type="go", timeout="2 days")
            return [first.payload, used, second.payload]
"""
BESIDE = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.wait_for_event("start", type="start")
            async def left():
                await step.wait_for_event("left", type="go")
                return await step.do("same", lambda: "left")
            async def right():
                await step.do("right", lambda: 1)
                return await step.do("same", lambda: "right")
            both = await asyncio.gather(left(), right())
            again = await step.wait_for_event("again", type="go")
            await step.wait_for_event("end", type="end")
            return [*both, again.payload]
"""


async def woken_with_mail(host: Host, eventually: Eventually, *payloads: int, params: Any = None) -> Any:
    """An instance that is put aside, is sent events that it does not wait for yet, and then the one it waits for."""
    instance = await host.workflows("ann").create(params=params)
    async for _ in instance.subscribe(types=["workflow_waiting"]):
        break
    await eventually(lambda: host.engine.statistics().parked)
    for payload in payloads:
        await instance.send_event(type="go", payload=payload)
    await instance.send_event(type="start")
    return instance


async def test_an_event_that_came_along_is_on_record_with_what_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Nothing is asked for it. One that was not on record when its run was lost is there again, and consumed once."""
    asked: list[str] = []
    answer = JournalTarget.answer

    async def noted(target: JournalTarget, method: str, payload: bytes, channel: Any) -> bytes:
        asked.append(method)
        return await answer(target, method, payload, channel)

    monkeypatch.setattr(JournalTarget, "answer", noted)
    count = Count()

    def get_code(tenant_id: str) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(MAIL)}, env={"COUNT": count})

    engine = Engine(tmp_path / "app.db", linger=0.005)
    async with Host(tmp_path / "app.db", get_code=get_code, engine=engine) as host:
        instance = await woken_with_mail(host, eventually, 1, 2)
        assert await instance.result(timeout=100) == [1, 10, 2]
        steps = (await instance.status())["steps"]
        assert [(step["kind"], step["name"]) for step in steps] == [
            ("wait", "start"), ("wait", "first"), ("do", "use"), ("wait", "second"),
        ]  # fmt: skip
        assert engine.statistics().lost == 1
    assert asked.count("wait_for_event") == 1, "for the one that had yet to be sent"


async def test_a_program_that_does_something_beside_asks_for_its_events(tmp_path: Path, eventually: Eventually) -> None:
    """Else one branch would go on before the others have begun, and in a replay after them."""

    def get_code(tenant_id: str) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(BESIDE)})

    engine = Engine(tmp_path / "app.db", linger=0.005)
    async with Host(tmp_path / "app.db", get_code=get_code, engine=engine) as host:
        instance = await woken_with_mail(host, eventually, 1, 2)
        await eventually(lambda: engine.statistics().parked == 2)
        host.evict("ann")
        await instance.send_event(type="end")
        *both, again = await instance.result(timeout=100)
        assert (sorted(both), again) == (["left", "right"], 2)


MANY = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.wait_for_event("start", type="start")
            said = []
            for type in event.payload:
                try:
                    said.append((await step.wait_for_event("one", type=type)).payload)
                except Exception as error:
                    said.append(str(error).partition(":")[0])
            return [*said, await step.do("last", lambda: "done")]
"""


@pytest.mark.parametrize("asked", [["go", "go", "go"], ["other", "go", "go"]])
async def test_a_wait_too_many_is_refused_where_it_is_asked_for_though_its_event_came_along(
    asked: list[str], tmp_path: Path, eventually: Eventually
) -> None:
    """Also when the host was asked for others before, so that it makes no difference when the run was put aside."""

    def get_code(tenant_id: str) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(MANY)})

    engine = Engine(tmp_path / "app.db", linger=0.005)
    limits = WorkflowLimits(steps=3)
    async with Host(tmp_path / "app.db", get_code=get_code, engine=engine, limits=limits) as host:
        instance = await woken_with_mail(host, eventually, 1, 2, params=asked)
        await instance.send_event(type="other", payload=0)
        said = await instance.result(timeout=100)
    assert said == [*([1, 2] if asked[0] == "go" else [0, 1]), "StepLimitExceeded", "done"]
