"""Other code for a tenant: what a version stands for, switches that lose no call, and drains that end in time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import (
    CodeError,
    Host,
    Loader,
    LoaderClosed,
    LoaderConfig,
    LoaderEvent,
    RpcTarget,
    SandboxError,
    VersionChanged,
    WorkerCode,
)

Code = Callable[..., WorkerCode]
SOURCE = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def which(self):
            return {number}
        async def hold(self, gate):
            await gate.enter()
            return {number}
        async def granted(self):
            return await self.env.GRANTED()
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            begun = await step.do("begun", lambda: {number})
            await step.wait_for_event("go on", "go")
            return [begun, {number}]
"""


class Gate(RpcTarget):
    """Where calls wait until a test lets them through."""

    def __init__(self) -> None:
        self._here, self._open = asyncio.Event(), asyncio.Event()

    async def enter(self) -> None:
        """A call comes, and waits."""
        self._here.set()
        await self._open.wait()


@pytest.fixture
def deployed(code: Code) -> Callable[..., WorkerCode]:
    """The code of a number, as a code store has it."""
    return lambda number, **options: code(SOURCE.format(number=number), **options)


async def heard(events: AsyncIterator[LoaderEvent], kind: str) -> LoaderEvent:
    """The next event of a kind."""
    async for event in events:
        if event.kind == kind:
            return event
    raise AssertionError("there are no more")


# Constancy


async def test_a_version_that_changes_is_an_error_that_names_the_modules(code: Code) -> None:
    """Also after its sandbox was evicted; what it stood for first goes on being loaded."""
    modules: dict[str, Any] = {"main.py": SOURCE.format(number=1).replace("\n    ", "\n"), "a.py": "", "b.py": ""}
    async with Loader(config=LoaderConfig(spares=1, backoff_s=0.0)) as loader:

        def get_code() -> WorkerCode:
            return WorkerCode(main_module="main.py", modules=dict(modules))

        entrypoint = loader.get("t", get_code, version="7").get_entrypoint()
        assert await entrypoint.which() == 1
        modules |= {"a.py": "x = 1", "c.py": ""}
        del modules["b.py"]
        assert await entrypoint.which() == 1  # it is warm: nobody has asked
        loader.evict("t")
        with pytest.raises(
            VersionChanged, match=r"'7' of 't'.*\(changed a\.py; added c\.py; removed b\.py\)"
        ) as caught:
            await entrypoint.which()
        assert caught.value.difference.added == ("c.py",)
        assert await loader.get("t", get_code, version="8").get_entrypoint().which() == 1
        modules |= {"a.py": "", "b.py": ""}
        del modules["c.py"]
        assert await entrypoint.which() == 1


async def test_without_a_version_other_code_is_a_redeploy_at_the_next_boot(deployed: Code) -> None:
    """And subscribers hear of it, with the modules that differ."""
    async with Loader(spares=1) as loader:
        events, number = loader.subscribe(), 1
        entrypoint = loader.get("t", lambda: deployed(number)).get_entrypoint()
        assert await entrypoint.which() == 1
        number = 2
        assert await entrypoint.which() == 1
        loader.evict("t")
        assert await entrypoint.which() == 2
        event = await heard(events, "redeploy")
        assert (event.tenant_id, event.reason) == ("t", "changed main.py")
        assert loader.statistics().redeploys == 1
        loader.evict("t")
        assert await entrypoint.which() == 2
        assert loader.statistics().redeploys == 1


# Redeploys


async def test_a_redeploy_switches_now_and_running_calls_finish_on_the_old_code(deployed: Code) -> None:
    """No call fails, none that begins afterwards meets the old code, and stubs from before it lead to the new one."""
    async with Loader(spares=1) as loader:
        number, gate = 1, Gate()
        before = loader.get("t", lambda: deployed(number)).get_entrypoint()
        running = asyncio.ensure_future(before.hold(gate))
        await gate._here.wait()
        number = 2
        assert await loader.redeploy("t")
        assert await before.which() == 2
        assert await loader.get("t", lambda: deployed(number)).get_entrypoint().which() == 2
        assert loader.statistics().warm == 2
        assert not running.done()
        gate._open.set()
        assert await running == 1
        assert loader.statistics().warm == 1  # the old one ended with its last call


async def test_calls_all_through_a_redeploy_are_all_answered_and_never_go_back(deployed: Code) -> None:
    """A caller that asks again and again sees the old code, then the new one, and no error between."""
    async with Loader(spares=2) as loader:
        number = 0
        entrypoint = loader.get("t", lambda: deployed(number)).get_entrypoint()
        seen: list[list[int]] = [[] for _ in range(8)]
        over = False

        async def call_again(answers: list[int]) -> None:
            while not over:
                answers.append(await entrypoint.which())
            answers.append(await entrypoint.which())  # one that has begun after the last switch

        calling = [asyncio.ensure_future(call_again(answers)) for answers in seen]
        await entrypoint.which()
        for number in (1, 2, 3):
            assert await loader.redeploy("t")
            assert await entrypoint.which() == number
        over = True
        await asyncio.gather(*calling)
        for answers in seen:
            assert answers == sorted(answers)
            assert answers[-1] == 3


async def test_code_that_does_not_load_replaces_nothing(code: Code, deployed: Code) -> None:
    """Who redeploys is told why; the old code goes on in its sandbox, and its next boot is not put off."""
    async with Loader(config=LoaderConfig(spares=1, backoff_s=60.0)) as loader:
        current = deployed(1)
        entrypoint = loader.get("t", lambda: current).get_entrypoint()
        assert await entrypoint.which() == 1
        boots = loader.statistics().boots
        with pytest.raises(CodeError, match="ZeroDivisionError"):
            await loader.redeploy("t", lambda: code("1 / 0"))
        assert await entrypoint.which() == 1
        assert loader.statistics().boots == boots + 1
        loader.evict("t")
        assert await entrypoint.which() == 1


async def test_the_code_given_last_is_what_is_redeployed(deployed: Code) -> None:
    """By `get`, whose callback may be a new closure each time, or with the redeploy itself."""
    async with Loader(spares=1) as loader:
        stale = loader.get("t", lambda: deployed(1)).get_entrypoint()
        assert await stale.which() == 1
        loader.get("t", lambda: deployed(2))
        await loader.redeploy("t")
        assert await stale.which() == 2
        await loader.redeploy("t", lambda: deployed(3))
        assert await stale.which() == 3


async def test_bindings_come_anew_with_a_redeploy_also_of_the_same_code(deployed: Code) -> None:
    """What was granted to the old sandbox is not what the new one calls."""
    async with Loader(spares=1) as loader:
        grant = "first"

        def get_code() -> WorkerCode:
            now = grant
            return deployed(1, env={"GRANTED": lambda: now})

        entrypoint = loader.get("t", get_code).get_entrypoint()
        assert await entrypoint.granted() == "first"
        grant = "second"
        await loader.redeploy("t")
        assert await entrypoint.granted() == "second"
        assert loader.statistics().redeploys == 0


async def test_what_is_not_warm_needs_no_redeploy(deployed: Code) -> None:
    """And versions stay what they are."""
    async with Loader(spares=1) as loader:
        assert not await loader.redeploy("t")
        assert await loader.get("t", lambda: deployed(1), version="1").get_entrypoint().which() == 1
        assert not await loader.redeploy("t")
        assert loader.statistics().boots == 1


async def test_redeploys_of_one_tenant_come_one_after_the_other(deployed: Code) -> None:
    """However slow the first one's code is to come, the last one's stays."""
    async with Loader(spares=1) as loader:
        entrypoint = loader.get("t", lambda: deployed(0)).get_entrypoint()
        await entrypoint.which()
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow() -> WorkerCode:
            asked.set()
            await answer.wait()
            return deployed(1)

        first = asyncio.ensure_future(loader.redeploy("t", slow))
        await asked.wait()
        second = asyncio.ensure_future(loader.redeploy("t", lambda: deployed(2)))
        await asyncio.sleep(0)
        answer.set()
        assert [await first, await second] == [True, True]
        assert await entrypoint.which() == 2


async def test_a_run_that_was_begun_before_a_redeploy_ends_on_the_code_it_began_on(path: Path, deployed: Code) -> None:
    """And one that begins after it runs on the new code."""
    number = 1
    async with Host(path, get_code=lambda _: deployed(number), spares=2) as host:
        old = await host.workflows("t").create()
        while not (await old.status())["steps"]:  # noqa: ASYNC110 - a record announces itself to nobody
            await asyncio.sleep(0.005)
        number = 2
        assert await host.redeploy("t")
        new = await host.workflows("t").create()
        for instance in (old, new):
            await instance.send_event(type="go", payload=None)
        assert [await old.result(timeout=100), await new.result(timeout=100)] == [[1, 1], [2, 2]]


# Drains


async def test_a_tenant_that_is_drained_finishes_what_it_does_and_takes_new_calls_elsewhere(deployed: Code) -> None:
    """In a sandbox of its own; others are not concerned."""
    async with Loader(spares=1) as loader:
        gate = Gate()
        entrypoint = loader.get("t", lambda: deployed(1)).get_entrypoint()
        other = loader.get("other", lambda: deployed(2)).get_entrypoint()
        assert await other.which() == 2
        running = asyncio.ensure_future(entrypoint.hold(gate))
        await gate._here.wait()
        draining = asyncio.ensure_future(loader.drain("t", timeout=100))
        await asyncio.sleep(0)
        assert await entrypoint.which() == 1
        assert not draining.done()
        gate._open.set()
        assert await draining
        assert await running == 1
        assert {each.tenant_id for each in loader.statistics(detail=True).sandboxes} == {"t", "other"}


async def test_what_does_not_finish_in_time_is_ended_with_a_reason(deployed: Code) -> None:
    """And the drain says that not everything came to its end."""
    async with Loader(spares=1) as loader:
        gate = Gate()
        running = asyncio.ensure_future(loader.get("t", lambda: deployed(1)).get_entrypoint().hold(gate))
        await gate._here.wait()
        assert not await loader.drain("t", timeout=0.02)
        with pytest.raises(SandboxError, match="drained: it did not finish in time"):
            await running
        assert await loader.drain("t")
        assert await loader.drain("nobody")


async def test_a_loader_that_drains_takes_no_new_calls(deployed: Code) -> None:
    """Neither of tenants that are warm nor of others; running ones and only those are answered."""
    async with Loader(max_sandboxes=1, spares=1) as loader:
        gate = Gate()
        entrypoint = loader.get("t", lambda: deployed(1)).get_entrypoint()
        other = loader.get("other", lambda: deployed(2)).get_entrypoint()
        running = asyncio.ensure_future(entrypoint.hold(gate))
        await gate._here.wait()
        waiting = asyncio.ensure_future(other.which())
        await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(loader.drain())
        await asyncio.sleep(0)
        for call in (waiting, entrypoint.which(), other.which()):
            with pytest.raises(LoaderClosed, match="draining"):
                await call
        gate._open.set()
        assert await draining
        assert await running == 1
        assert loader.statistics().warm == 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_host_that_is_told_to_stop_lets_go_on_what_is_going_on(
    path: Path, deployed: Code, signals: int
) -> None:
    """SIGTERM: calls finish, new ones are refused, and `serve` returns. A second one ends them at once."""
    async with Host(path, get_code=lambda _: deployed(1), config=LoaderConfig(spares=1, drain_s=25.0)) as host:
        gate = Gate()
        serving = asyncio.ensure_future(host.serve())
        running = asyncio.ensure_future(host.tenant("t").hold(gate))
        await gate._here.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while host.loader._house.closed is None:  # noqa: ASYNC110 - a signal is announced by what it does
            await asyncio.sleep(0.002)
        with pytest.raises(LoaderClosed, match="draining"):
            await host.tenant("t").which()
        assert not serving.done()
        if signals == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not await serving
            with pytest.raises(SandboxError, match="drained"):
                await running
        else:
            gate._open.set()
            assert await serving
            assert await running == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_host_that_drains_gives_up_after_the_time_it_was_given(path: Path, deployed: Code) -> None:
    """`drain_s`, and not when its slowest tenant pleases."""
    async with Host(path, get_code=lambda _: deployed(1), config=LoaderConfig(spares=1, drain_s=0.05)) as host:
        gate = Gate()
        running = asyncio.ensure_future(host.tenant("t").hold(gate))
        await gate._here.wait()
        assert not await host.drain()
        with pytest.raises(SandboxError, match="drained"):
            await running


async def test_a_run_that_is_drained_goes_on_when_its_host_is_opened_again(path: Path, deployed: Code) -> None:
    """Nothing of it is lost: what was recorded is not done again."""
    async with Host(path, get_code=lambda _: deployed(1), spares=1) as host:
        instance = await host.workflows("t").create({"id": "a"})
        while not (await instance.status())["steps"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await host.drain(timeout=0)
        late = await host.workflows("t").create({"id": "b"})
        assert (await late.status())["status"] != "errored"
    async with Host(path, get_code=lambda _: deployed(2), spares=1) as host:
        for name, expected in (("a", [1, 1]), ("b", [2, 2])):
            instance = await host.workflows("t").get(name)
            await instance.send_event(type="go", payload=None)
            assert await instance.result(timeout=100) == expected
