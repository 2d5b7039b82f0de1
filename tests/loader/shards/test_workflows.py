"""Durable runs through the front: what a tenant's binding and its instances do, in whichever shard they are."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloister.engine import Encoded, HistoryEvent, Page, Schedule, Status, Summary
from cloister.engine.errors import (
    InstanceAlreadyExists,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFound,
    InvalidCursor,
    InvalidInstanceId,
    InvalidRetention,
    InvalidSchedule,
    PayloadTooLarge,
    StepNotFound,
)
from cloister.ipc import CodecError, values
from cloister.loader import Shards, WorkerCode

Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
WAITS = {"number": 2, "wait": True}


async def ended(instance: Any) -> list[str]:
    """The types of all events, once there are no more."""
    return [event.type async for event in instance.subscribe()]


# Creating and finding


async def test_an_instance_is_created_run_and_told_of(host: Shards, tenants: list[str]) -> None:
    """In each shard; two tenants may use one id."""
    for number, tenant_id in enumerate(tenants):
        instance = await host.workflows(tenant_id).create({"id": "order"}, params={"number": number + 1})
        assert instance.id == "order"
        assert await instance.result(timeout=100) == (number + 1) * 4
        status = await instance.status()
        assert (status["status"], status["output"]) == ("complete", (number + 1) * 4)
        assert [(step["name"], step["status"]) for step in status["steps"]] == [("double", "done"), ("again", "done")]
        found = await host.workflows(tenant_id).get("order")
        assert await found.result() == await host.workflows(tenant_id).handle("order").result() == (number + 1) * 4
        assert repr(found) == "<ShardInstance 'order'>"
    assert host.workflows(tenants[0]).scope == tenants[0]
    assert repr(host.workflows(tenants[0])) == f"<ShardWorkflows of {tenants[0]!r}>"


async def test_an_id_is_created_once_whoever_races(host: Shards, tenant: str) -> None:
    """And the others hear that it exists."""
    workflows = host.workflows(tenant)
    made = await asyncio.gather(
        *(workflows.create(id="one", params={"number": number}) for number in range(20)), return_exceptions=True
    )
    assert [type(each) for each in made if isinstance(each, Exception)] == [InstanceAlreadyExists] * 19


async def test_params_are_passed_on_as_the_bytes_they_are(host: Shards, tenant: str) -> None:
    """What is encoded already, too; what cannot be sent is said as a host says it."""
    workflows = host.workflows(tenant)
    instance = await workflows.create(params=Encoded(values.dumps({"number": 3})))
    assert await instance.result(timeout=100) == 12
    nested: Any = 1
    for _ in range(60):
        nested = [nested]
    assert await (await workflows.create(params={"number": 1, "deep": nested})).result(timeout=100) == 4
    with pytest.raises(CodecError, match=r"send plain values, at value\['a'\]\[1\]$"):
        await workflows.create(params={"a": [1, object()]})
    with pytest.raises(CodecError, match=r"send plain values$"):
        await workflows.create_batch([{"params": object()}])
    with pytest.raises(PayloadTooLarge):
        await workflows.create(params=bytes(2_000_000))
    with pytest.raises(CodecError, match="at most 16,777,216 can be sent"):
        await workflows.create(params=bytes(17_000_000))


async def test_labels_and_retention_are_options_as_ever(host: Shards, tenant: str) -> None:
    """A retention in each form that an engine takes."""
    workflows = host.workflows(tenant)
    day, kept = 24 * 3_600_000, []
    for retention in ("1 day", day, dt.timedelta(days=1), {"success_retention": dt.timedelta(days=1)}):
        instance = await workflows.create(params={"number": 1}, retention=retention, labels={"for": "tea"})
        await instance.result(timeout=100)
        status = await instance.status()
        assert status["labels"] == {"for": "tea"}
        kept.append(status["expires"] - status["ended"])
    assert kept == [day] * 4


async def test_what_is_wrong_with_options_is_said_as_by_a_host(host: Shards, tenant: str) -> None:
    """Whoever finds it first."""
    workflows: Any = host.workflows(tenant)
    with pytest.raises(TypeError, match="takes a dict of options, or options by name, not int"):
        await workflows.create(3)
    with pytest.raises(TypeError, match="has no option 'nope'"):
        await workflows.create(nope=3)
    with pytest.raises(InvalidInstanceId, match="'a b'"):
        await workflows.create(id="a b")
    with pytest.raises(InvalidRetention):
        await workflows.create(retention={"nope": 1})
    with pytest.raises(InvalidInstanceId, match="3 is no instance id"):
        workflows.handle(3)
    with pytest.raises(InvalidInstanceId):
        await workflows.get("a b")
    with pytest.raises(TypeError, match="the options of an instance are a dict, not int"):
        await workflows.create_batch([3])
    with pytest.raises(TypeError, match="not iterable"):
        await workflows.create_batch(3)
    with pytest.raises(TypeError, match="'nope' is no filter"):
        await workflows.list(nope=3)


async def test_what_is_not_there_is_not_found(host: Shards, tenants: list[str]) -> None:
    """By any method, and for another tenant in the same words."""
    await host.workflows(tenants[0]).create(id="mine", params={"number": 1})
    said = set()
    for workflows in (host.workflows(tenants[0]), host.workflows(tenants[1])):
        missing = workflows.handle("mine" if workflows.scope == tenants[1] else "nothing")
        for asked in (missing.status(), missing.result(), missing.pause(), workflows.get(missing.id), ended(missing)):
            with pytest.raises(InstanceNotFound) as caught:
                await asked
            said.add(str(caught.value).replace(repr(missing.id), "it"))
    assert len(said) == 1


async def test_batches_create_what_is_not_there(host: Shards, tenant: str) -> None:
    """In a list what exists is left out; in a dict it is told of; a number of them may be alike."""
    workflows = host.workflows(tenant)
    made = await workflows.create_batch({"id": each, "params": {"number": 1}} for each in ("a", "b"))  # type: ignore[call-overload]
    assert [each.id for each in made] == ["a", "b"]
    again = await workflows.create_batch([{"id": "b"}, {"id": "c", "params": {"number": 5}}])
    assert [each.id for each in again] == ["c"]
    assert await again[0].result(timeout=100) == 20
    told = await workflows.create_batch({"instances": [{"id": "c"}, {"id": "d", "params": {"number": 1}}]})
    assert [each.id for each in told["created"]] == ["d"]
    assert [(each["index"], each["id"]) for each in told["errors"]] == [(0, "c")]
    alike = await workflows.create_batch({"count": 3, "params": {"number": 2}})
    assert [await each.result(timeout=100) for each in alike["created"]] == [8, 8, 8]


async def test_lists_have_pages_filters_and_lines_as_of_a_host(host: Shards, tenant: str) -> None:
    """Newest first, and only this tenant's."""
    workflows = host.workflows(tenant)
    for number in range(5):
        made = await workflows.create(id=f"n{number}", params={"number": 1}, labels={"odd": str(number % 2)})
        await made.result(timeout=100)
    page = await workflows.list(limit=2)
    assert isinstance(page, Page)
    assert all(type(line) is Summary and line.status is Status.COMPLETE for line in page.instances)
    assert [line.id for line in page.instances] == ["n4", "n3"]
    found = list(page.instances)
    while page.cursor is not None:
        page = await workflows.list(limit=2, cursor=page.cursor)
        found += page.instances
    assert [line.id for line in found] == ["n4", "n3", "n2", "n1", "n0"]
    assert {line.scope for line in found} == {tenant}
    assert [line.id for line in (await workflows.list(labels={"odd": "1"})).instances] == ["n3", "n1"]
    assert (await workflows.list(status=[Status.ERRORED, "paused"])).instances == ()
    assert (await workflows.list(created_from=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))).instances == ()
    with pytest.raises(InvalidCursor):
        await workflows.list(cursor="nowhere")


async def test_many_are_deleted_and_controlled_at_once(host: Shards, tenant: str) -> None:
    """Each is told of."""
    workflows = host.workflows(tenant)
    for name in ("a", "b", "c"):
        await workflows.create(id=name, params=WAITS, labels={"of": name})
    assert await workflows.bulk("terminate", labels={"of": "a"}) == {"done": 1, "skipped": 0}
    assert await workflows.bulk("terminate") == {"done": 2, "skipped": 1}
    gone = await workflows.delete_batch(["a", "nothing"])
    assert gone["deleted"] == [{"id": "a"}]
    assert [each["id"] for each in gone["errors"]] == ["nothing"]
    with pytest.raises(ValueError, match="nope"):
        await workflows.bulk("nope")


# One instance


async def test_an_instance_that_fails_says_so(host: Shards, tenant: str) -> None:
    """As whoever asks for its result hears it."""
    instance = await host.workflows(tenant).create(params={"number": 1, "fail": True})
    with pytest.raises(InstanceFailed, match="ValueError: it cannot be done") as caught:
        await instance.result(timeout=100)
    assert (caught.value.name, caught.value.message) == ("ValueError", "it cannot be done")
    assert (await instance.status())["error"]["name"] == "ValueError"


async def test_events_are_sent_and_a_repeat_is_ignored(host: Shards, tenant: str) -> None:
    """By dict or by name, and payloads are passed on as they are."""
    workflows = host.workflows(tenant)
    first, second = [await workflows.create(params=WAITS) for _ in range(2)]
    for _ in range(2):
        await first.send_event({"type": "go", "payload": {"now": [1]}, "id": "once"})
    assert await first.result(timeout=100) == [4, {"now": [1]}]
    await second.send_event(type="go", payload=None)
    assert await second.result(timeout=100) == [4, None]
    with pytest.raises(InstanceFinished):
        await first.send_event(type="go")
    with pytest.raises(TypeError, match="an event needs a `type`"):
        await first.send_event(payload=3)
    with pytest.raises(TypeError, match=r"send_event\(\) has no option 'nope'"):
        await first.send_event(nope=3)
    with pytest.raises(CodecError, match=r"send plain values$"):
        await first.send_event(type="go", payload=object())


async def test_a_result_is_waited_for_and_no_longer_than_was_said(host: Shards, tenant: str) -> None:
    """In the words of an engine; 5,000 wait at once."""
    instance = await host.workflows(tenant).create(params=WAITS)
    with pytest.raises(TimeoutError, match=r"0\.05"):
        await instance.result(timeout=0.05)
    for odd in (float("nan"), "x", True):
        with pytest.raises(ValueError, match="a timeout is a number of seconds from 0"):
            await instance.result(timeout=odd)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await instance.result(timeout=-1)
    waiting = [asyncio.ensure_future(instance.result()) for _ in range(5000)]
    await instance.send_event(type="go", payload="tea")
    assert await asyncio.gather(*waiting) == [[4, "tea"]] * 5000
    assert await instance.result(timeout=float("inf")) == [4, "tea"]


async def test_an_instance_is_controlled(host: Shards, tenant: str, eventually: Eventually) -> None:
    """Paused, resumed, restarted, ended and deleted."""
    workflows = host.workflows(tenant)
    instance = await workflows.create(params=WAITS)

    async def stands() -> str:
        return str((await instance.status())["status"])

    await instance.pause()
    assert await stands() in {"paused", "waitingForPause"}
    await instance.resume()
    await instance.send_event(type="go", payload=1)
    assert await instance.result(timeout=100) == [4, 1]
    await instance.restart(from_step="double")
    await instance.terminate({"rollback": False})
    assert await stands() == "terminated"
    with pytest.raises(InstanceFailed, match="Terminated"):
        await instance.result(timeout=100)
    await instance.delete()
    with pytest.raises(InstanceNotFound):
        await instance.status()


async def test_steps_are_looked_at_and_replaced(host: Shards, tenant: str, eventually: Eventually) -> None:
    """And who did it is kept."""
    instance = await host.workflows(tenant).create(params=WAITS)

    async def waits() -> bool:
        return [step["status"] for step in (await instance.status())["steps"]] == ["done", "waiting"]

    await eventually(waits)
    assert await instance.step_result("double") == 4
    with pytest.raises(StepNotFound):
        await instance.step_result("nothing")
    await instance.override("double", author="Ann", reason="it was wrong", result=5)
    assert await instance.step_result({"name": "double", "count": 1}) == 5
    (done,) = await instance.interventions()
    assert (done["author"], done["reason"]) == ("Ann", "it was wrong")
    with pytest.raises(CodecError, match=r"send plain values, at kwargs\['result'\]$"):
        await instance.override("double", author="Ann", reason="again", result=object())
    await instance.send_event(type="go", payload=None)
    assert await instance.result(timeout=100) == [5, None]


async def test_an_instance_is_forked(host: Shards, tenant: str) -> None:
    """It goes on from the same records."""
    instance = await host.workflows(tenant).create(params={"number": 3})
    await instance.result(timeout=100)
    fork = await instance.fork(id="another", from_step="again", labels={"of": "it"}, retention=dt.timedelta(days=1))
    assert fork.id == "another"
    assert await fork.result(timeout=100) == 12
    assert (await fork.status())["labels"] == {"of": "it"}
    with pytest.raises(InstanceAlreadyExists):
        await instance.fork({"id": "another"})
    with pytest.raises(TypeError, match=r"fork\(\) has no option 'nope'"):
        await instance.fork(nope=3)


async def test_what_happens_is_told_as_it_happens_and_from_where_one_was(host: Shards, tenant: str) -> None:
    """To the end, with a cursor, and only of some types."""
    instance = await host.workflows(tenant).create(params=WAITS)
    events: list[HistoryEvent] = []
    async for event in instance.subscribe():
        events.append(event)
        if event.type == "wait_started":
            await instance.send_event(type="go", payload=None)
    assert all(type(event) is HistoryEvent for event in events)
    assert events[-1].type == "workflow_completed"
    assert [event.id for event in events] == sorted({event.id for event in events})
    later = [event async for event in instance.subscribe(events[2].id)]
    assert later == events[3:]
    some = [event.type async for event in instance.subscribe(types=["workflow_completed"])]
    assert some == ["workflow_completed"]
    for odd in (-1, "x"):
        with pytest.raises(InvalidCursor):
            await anext(aiter(instance.subscribe(odd)))  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        await anext(aiter(instance.subscribe(types=3)))


async def test_who_hears_no_longer_leaves_nothing(host: Shards, tenant: str, look: Any, eventually: Eventually) -> None:
    """At either end, though the instance goes on."""
    before = (await look(tenant))["granted"]
    instance = await host.workflows(tenant).create(params=WAITS)
    async for _ in instance.subscribe():
        break

    async def none_is_held() -> bool:
        return bool((await look(tenant))["granted"] == before)

    await eventually(none_is_held)
    assert (await instance.status())["status"] in {"running", "waiting", "queued"}


# Many tenants, and the clock


async def test_one_batch_creates_for_many_tenants(host: Shards, tenant: str) -> None:
    """In several pieces where it is large, each entry tied to the code it came with; answers are in its order."""
    code = WorkerCode(main_module="main.py", modules={"main.py": OWN}, env={})
    large = WorkerCode(main_module="main.py", modules={"main.py": OWN, "data.py": "#" * 900_000}, env={})
    batch = [
        (f"{tenant}-{number}", large if number % 2 else code, {"id": "one", "params": {"n": number}})
        for number in range(24)
    ]
    assert await host.begin_each(batch[:5]) == [True] * 5
    assert await host.begin_each(batch) == [False] * 5 + [True] * 19
    assert {host.shard(tenant_id).number for tenant_id, *_ in batch} == {0, 1}
    results = [await host.workflows(tenant_id).handle("one").result(timeout=100) for tenant_id, *_ in batch]
    assert results == [["own", number] for number in range(24)]
    assert await host.begin_each([]) == []
    with pytest.raises(TypeError, match="the options of an instance are a dict, not int"):
        await host.begin_each([(tenant, code, 3)])  # type: ignore[list-item]
    with pytest.raises(InvalidInstanceId):
        await host.begin_each([(tenant, code, {"id": "a b"})])


OWN = """
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        return ["own", event.payload.n]
"""


async def test_schedules_are_added_listed_and_removed(host: Shards, tenant: str) -> None:
    """Each tenant sees its own, with the params that it gave."""
    workflows = host.workflows(tenant)
    schedule = Schedule("0 0 1 1 *", zone="Europe/Lisbon", params={"number": 1}, labels={"a": "b"}, retention="1 day")
    await workflows.add_schedule(schedule)
    (found,) = await workflows.schedules()
    assert (found.cron, found.zone, found.scope, found.params) == (schedule.cron, schedule.zone, tenant, {"number": 1})
    assert found.labels == {"a": "b"}
    assert await host.workflows(f"{tenant}-other").schedules() == []
    await workflows.remove_schedule(found.name)
    assert await workflows.schedules() == []
    with pytest.raises(InvalidSchedule):
        await workflows.remove_schedule("nothing")
