"""An audit function hears of every call that a tenant makes of a capability, and nothing it does harms anybody."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine
from cloister.loader import (
    CapabilityCall,
    Loader,
    RpcTarget,
    TenantError,
    WorkerCode,
    create_dynamic_workflow_entrypoint,
    revocable,
    wrap_workflow_binding,
)


class Store(RpcTarget):
    """What is granted."""

    def put(self, key: str, value: str) -> str:
        return value * 2

    def table(self) -> Store:
        return self

    @property
    def size(self) -> int:
        return 7

    def refuse(self) -> None:
        raise PermissionError("not on a Sunday")


async def rows() -> AsyncIterator[int]:
    for n in range(3):
        yield n


SOURCE = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def use(self):
            await self.env.STORE.put("k", "v" * 1000)
            await self.env.STORE.table().put("k", "v")
            return sum([n async for n in await self.env.ROWS()])
        async def fail(self, name):
            await getattr(self.env.STORE, name)()
        async def forge(self):
            from cloister.ipc.values import dumps
            await self.env.STORE._channel.call(4711, "put", dumps([[], {}]))
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            return await step.do("save", lambda: self.env.STORE.put("k", "in a step"))
"""


@pytest.fixture
def env() -> dict[str, Any]:
    """What the tenant is granted."""
    return {"STORE": Store(), "ROWS": rows}


async def test_every_call_is_told_of(code: Callable[..., WorkerCode], env: dict[str, Any]) -> None:
    """Who, what, when, for how long, how large there and back, and how it ended."""
    heard: list[CapabilityCall] = []
    made = code(SOURCE, env=env)
    async with Loader(spares=1, audit=heard.append) as loader:
        entrypoint = loader.get("t-42", lambda: made).get_entrypoint()
        before = time.time_ns() // 1_000_000
        assert await entrypoint.use() == 3
        put, chain, opened, *pulls = heard
        assert [(call.target, call.method) for call in (put, chain, opened)] == [
            ("Store", "put"), ("Store", "table.put"), ("rows", ""),
        ]  # fmt: skip
        assert {(call.target, call.method) for call in pulls} == {("rows", "pull")}
        assert {(call.tenant_id, call.digest, call.attempt, call.outcome) for call in heard} == {
            ("t-42", made.digest, None, "returned")
        }
        assert 1000 < put.received_bytes < 1100
        assert 2000 < put.sent_bytes < 2100
        assert all(call.seconds >= 0 and call.time_ms >= before for call in heard)
        heard.clear()
        for name in ("refuse", "missing"):
            with pytest.raises(TenantError):
                await entrypoint.fail(name)
        with pytest.raises(TenantError):
            await entrypoint.forge()
        assert [(call.target, call.method, call.outcome) for call in heard] == [
            ("Store", "refuse", "PermissionError"), ("Store", "missing", "CapabilityError"),
            ("", "put", "CapabilityError"),
        ]  # fmt: skip


async def test_a_revoked_capability_is_told_of_as_what_it_was(code: Callable[..., WorkerCode]) -> None:
    """So that attempts to use it are seen."""
    heard: list[CapabilityCall] = []
    grant = revocable(Store())
    async with Loader(spares=1, audit=heard.append) as loader:
        entrypoint = loader.get("t", lambda: code(SOURCE, env={"STORE": grant, "ROWS": rows})).get_entrypoint()
        await entrypoint.use()
        grant.revoke()
        with pytest.raises(TenantError, match="revoked"):
            await entrypoint.use()
    assert [heard[0].target, heard[0].outcome, heard[-1].target, heard[-1].outcome] == [
        "Store", "returned", "Store", "CapabilityError",
    ]  # fmt: skip


async def test_a_call_from_a_step_says_from_which(
    code: Callable[..., WorkerCode], path: Path, env: dict[str, Any]
) -> None:
    """Instance, step and attempt; what a run asks of its journal is none of it."""
    heard: list[CapabilityCall] = []
    async with Engine(path) as engine, Loader(spares=1, audit=heard.append) as loader:
        stub = loader.get("t-42", lambda: code(SOURCE, env=env))
        workflow = engine.workflow(
            "w", create_dynamic_workflow_entrypoint(lambda _: stub.get_entrypoint("TenantWorkflow"))
        )
        instance = await wrap_workflow_binding(workflow, {"tenant_id": "t-42"}).create(id="i")
        assert await instance.result() == "in a step" * 2
    (call,) = heard
    assert call.attempt is not None
    assert (call.step, call.attempt.instance_id, call.attempt.attempt, call.method) == ("save", "i", 1, "put")


WHEREVER = """
    from workers import RpcTarget, WorkerEntrypoint, WorkflowEntrypoint
    class Counter(RpcTarget):
        @property
        def count(self): return 3
    async def use(env, props, callback, stream):
        await env.NOTE("from env")
        await props.note("from props")
        await callback("from an argument")
        await env.STORE.table().size
        async with env.STORE.table() as table:
            await table.put("k", "from a result")
        await env.OTHER.hello()
        [n async for n in stream]
    class Default(WorkerEntrypoint):
        async def use(self, callback, stream):
            await use(self.env, self.ctx.props, callback, stream)
        def counter(self):
            return Counter()
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            granted = await self.env.GIVE()
            await step.do("save", lambda: use(self.env, granted, granted.note, granted.rows))
"""
EXPECTED = [
    ("note", ""), ("note", ""), ("note", ""), ("Store", "table.size"), ("Store", "table"), ("Store", "put"),
    ("Default of other", "hello"), ("rows", "pull"),
]  # fmt: skip


def note(text: str) -> None:
    """A function that is granted, wherever."""


async def test_a_call_is_told_of_wherever_the_capability_came_from(code: Callable[..., WorkerCode], path: Path) -> None:
    """Env, props, an argument, a result, another tenant's entrypoint, a stream; by a direct call and by a step."""
    heard: list[CapabilityCall] = []
    other = code("from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n    def hello(self): pass")
    async with Engine(path) as engine, Loader(spares=1, audit=heard.append) as loader:
        env = {"NOTE": note, "STORE": Store(), "GIVE": lambda: {"note": note, "rows": rows()},
               "OTHER": loader.get("other", lambda: other).get_entrypoint()}  # fmt: skip
        made = code(WHEREVER, env=env)
        stub = loader.get("t-42", lambda: made)
        await stub.get_entrypoint(props={"note": note}).use(note, rows())
        assert [(call.target, call.method) for call in heard] == EXPECTED
        assert {(call.tenant_id, call.digest, call.attempt) for call in heard} == {("t-42", made.digest, None)}
        heard.clear()
        assert await stub.get_entrypoint().counter().count == 3
        assert heard == []  # the host's own calls are none of it
        workflow = engine.workflow(
            "w", create_dynamic_workflow_entrypoint(lambda _: stub.get_entrypoint("TenantWorkflow"))
        )
        instance = await wrap_workflow_binding(workflow, {"tenant_id": "t-42"}).create(id="i")
        await instance.result()
    given, *rest = heard
    assert (given.step, given.method, given.tenant_id) == (None, "", "t-42")
    assert [(call.target, call.method) for call in rest] == EXPECTED
    assert {(call.step, call.tenant_id, call.digest, call.attempt and call.attempt.instance_id) for call in rest} == {
        ("save", "t-42", made.digest, "i")
    }
    assert all(call.received_bytes > 0 and call.sent_bytes > 0 and call.time_ms > 0 for call in rest)


async def test_what_an_audit_function_raises_is_logged_and_harms_nobody(
    code: Callable[..., WorkerCode], env: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The tenant has its answer."""

    def broken(_: CapabilityCall) -> None:
        raise OSError("the disk is full")

    async with Loader(spares=1, audit=broken) as loader:
        with caplog.at_level(logging.ERROR, "cloister.loader"):
            assert await loader.get("t", lambda: code(SOURCE, env=env)).get_entrypoint().use() == 3
    assert "the audit function raised" in caplog.text
