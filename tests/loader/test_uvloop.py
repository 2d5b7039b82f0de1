"""A service may run on another event loop than asyncio's own: calls, capabilities, limits, deaths and durable runs on
uvloop, which shares none of asyncio's internals."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import uvloop

from cloister.engine import Workflow
from cloister.loader import (
    LimitExceeded,
    Limits,
    Loader,
    RpcTarget,
    SandboxDied,
    TenantError,
    WorkerCode,
    wrap_workflow_binding,
)

PROGRAM = textwrap.dedent("""
    import asyncio, os
    from workers import WorkerEntrypoint, WorkflowEntrypoint

    class Default(WorkerEntrypoint):
        async def echo(self, value): return value
        async def twice(self, function, value): return await function(await function(value))
        async def get(self, key): return await self.env.STORE.get(key)
        async def fail(self): raise LookupError("nothing there")
        async def end(self): os._exit(3)
        async def wait(self): await asyncio.Event().wait()
        def spin(self):
            while True: pass

    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            first = await step.do("first", lambda: event.payload.number + 1)
            await step.sleep("nap", "10 milliseconds")
            return await step.do("second", lambda: first * 2)
""")


class Store(RpcTarget):
    async def get(self, key: str) -> str:
        await asyncio.sleep(0)
        return f"the value of {key}"


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    """The other loop, and no process is left when it ends."""
    others = set(psutil.Process().children())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner
    left = set(psutil.Process().children()) - others
    psutil.wait_procs(left, timeout=100)
    assert set(psutil.Process().children()) <= others


@pytest.fixture(params=["sockets", "libzmq"])
def entrypoint(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Any]:
    """A tenant's entrypoint, over each transport."""
    code = WorkerCode(main_module="main.py", modules={"main.py": PROGRAM}, env={"STORE": Store()})
    loader = Loader(spares=2, transport=request.param)
    runner.run(loader.__aenter__())
    yield loader.get("tenant", lambda: code).get_entrypoint()
    runner.run(loader.__aexit__(None, None, None))


async def test_it_is_another_loop() -> None:
    """Or these tests would show nothing."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_calls_are_answered_one_at_a_time_and_together(entrypoint: Any) -> None:
    """Small ones and large ones, which fill the socket in both directions."""
    for size in (1, 100, 100_000, 4_000_000):
        assert await entrypoint.echo("x" * size) == "x" * size
    assert await asyncio.gather(*map(entrypoint.echo, range(200))) == list(range(200))


async def test_capabilities_work_both_ways(entrypoint: Any) -> None:
    """A binding of the host's, and a function that goes along with a call."""
    assert await entrypoint.get("a") == "the value of a"
    assert await entrypoint.twice(lambda number: number * 3, 5) == 45


async def test_what_a_tenant_raises_is_told(entrypoint: Any) -> None:
    """The failure of a call is its caller's."""
    with pytest.raises(TenantError, match="nothing there"):
        await entrypoint.fail()


async def test_a_caller_may_give_up(entrypoint: Any) -> None:
    """The call is cancelled inside, and the sandbox lives on."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await entrypoint.wait()
    assert await entrypoint.echo("still here") == "still here"


async def test_limits_of_time_and_of_cpu_hold(entrypoint: Any) -> None:
    """Of a call that waits and of one that computes."""
    stub = entrypoint._stub
    with pytest.raises(LimitExceeded, match="50 ms of time"):
        await stub.get_entrypoint(limits=Limits(wall_ms=50)).wait()
    assert await entrypoint.echo("still here") == "still here"
    with pytest.raises(LimitExceeded, match="50 ms of CPU"):
        await stub.get_entrypoint(limits=Limits(cpu_ms=50)).spin()


async def test_a_death_is_told_and_the_next_call_has_another_sandbox(entrypoint: Any) -> None:
    """To all that were waiting."""
    calls = [asyncio.ensure_future(entrypoint.wait()) for _ in range(3)]
    assert await entrypoint.echo("warm") == "warm"
    for error in await asyncio.gather(entrypoint.end(), *calls, return_exceptions=True):
        assert isinstance(error, SandboxDied)
    assert await entrypoint.echo("again") == "again"


async def test_durable_runs_are_carried_out(raw: Workflow, programs: dict[str, WorkerCode]) -> None:
    """Their steps, their timers, and their results."""
    programs["tenant"] = WorkerCode(main_module="main.py", modules={"main.py": PROGRAM})
    workflows = wrap_workflow_binding(raw, {"tenant_id": "tenant"})
    instances = [await workflows.create(params={"number": number}) for number in range(5)]
    assert await asyncio.gather(*(instance.result(timeout=100) for instance in instances)) == [2, 4, 6, 8, 10]
