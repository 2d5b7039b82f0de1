"""What users of other loaders of this kind complain about, each as a promise that is kept here.

An isolate that is never evicted, a cache that hands one parent's authority to another, a cap on how many run at once, a
loop that nobody can stop. What else they ask for has its test where it belongs: versions in
`test_redeploy`, tracebacks in `test_bad_input`, lifetimes of stubs in `test_capabilities`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.loader import (
    Data,
    LimitExceeded,
    Limits,
    Loader,
    LoadFailed,
    RpcTarget,
    SandboxError,
    TenantError,
    WorkerCode,
)

Code = Callable[..., WorkerCode]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
SOURCE = """
    from workers import WorkerEntrypoint
    count, kept = 0, None
    class Default(WorkerEntrypoint):
        async def who(self):
            return self.env.NAME
        async def granted(self):
            return await self.env.GRANTED()
        async def count(self):
            global count
            count += 1
            return count
        async def wait(self, gate):
            await gate.enter()
            return self.env.NAME
        async def keep(self, function):
            global kept
            kept = function
            return await kept()
        async def call_kept(self):
            return await kept()
        async def spin(self):
            while True:
                pass
"""


class Gate(RpcTarget):
    """Where calls wait until a test lets them through."""

    def __init__(self) -> None:
        self._inside = 0
        self._changed = asyncio.Condition()
        self._open = asyncio.Event()

    async def enter(self) -> None:
        """A call comes, and waits."""
        async with self._changed:
            self._inside += 1
            self._changed.notify_all()
        await self._open.wait()

    async def _arrivals(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside >= number)


async def test_isolates_are_evicted_and_their_memory_comes_back(code: Code, eventually: Eventually) -> None:
    """A hundred tenants, one after the other, in a house of four: never more processes than that, and spares."""
    async with Loader(max_sandboxes=4, spares=1) as loader:
        zygote = psutil.Process(loader._profiles.plain.zygote_pid)
        for number in range(100):
            made = partial(code, SOURCE, env={"NAME": str(number)})
            assert await loader.get(f"t{number}", made).get_entrypoint().who() == str(number)
            assert loader.statistics().warm <= 4
        await eventually(lambda: len(zygote.children(recursive=True)) <= 4 + loader.statistics().spares + 4)
        assert len(loader._tenants) <= 5


async def test_what_one_parent_granted_is_never_called_for_another(code: Code) -> None:
    """The same tenant with the same code in two loaders: each calls what its own parent gave it, also when the first is
    closed while the second goes on."""

    def get_code(grant: str) -> WorkerCode:
        return code(SOURCE, env={"GRANTED": lambda: grant})

    async with Loader(spares=1) as second:
        async with Loader(spares=1) as first:
            one = first.get("t", lambda: get_code("first")).get_entrypoint()
            other = second.get("t", lambda: get_code("second")).get_entrypoint()
            assert [await one.granted(), await other.granted()] == ["first", "second"]
        assert await other.granted() == "second"
        with pytest.raises(Exception, match="async with"):
            await one.granted()


async def test_the_same_code_of_two_tenants_shares_no_state_and_no_authority(loader: Loader, code: Code) -> None:
    """Byte for byte the same, and each with what was granted to it."""

    def entrypoint(name: str) -> Any:
        return loader.get(f"twin-{name}", lambda: code(SOURCE, env={"GRANTED": lambda: name})).get_entrypoint()

    entrypoints = [entrypoint("a"), entrypoint("b")]
    assert [await each.count() for each in (*entrypoints, entrypoints[0])] == [1, 1, 2]
    assert [await each.granted() for each in entrypoints] == ["a", "b"]


async def test_a_stub_that_a_module_kept_from_an_earlier_call_says_what_to_do(loader: Loader, code: Code) -> None:
    """Not that something internal went wrong: it came with a call that has returned, and `dup()` would have kept it."""
    entrypoint = loader.get("keeper", lambda: code(SOURCE)).get_entrypoint()
    assert await entrypoint.keep(lambda: 1) == 1
    with pytest.raises(TenantError, match=r"a call that has returned; dup\(\) it in time"):
        await entrypoint.call_kept()


async def test_authority_that_changes_comes_with_the_next_boot_and_needs_no_new_id(loader: Loader, code: Code) -> None:
    """`env` is live: nobody has to put it into the name of the tenant."""
    grant = "yesterday's"

    def get_code() -> WorkerCode:
        now = grant
        return code(SOURCE, env={"GRANTED": lambda: now})

    entrypoint = loader.get("authority", get_code).get_entrypoint()
    assert await entrypoint.granted() == "yesterday's"
    grant = "today's"
    loader.evict("authority")
    assert await entrypoint.granted() == "today's"


async def test_there_is_no_cap_on_how_many_tenants_are_called_at_once_but_the_hosts(code: Code) -> None:
    """Sixty with a call in flight, all of which are in at the same time."""
    async with Loader(max_sandboxes=64, spares=4) as loader:
        gate = Gate()
        names = [f"t{number}" for number in range(60)]
        stubs = [loader.get(name, partial(code, SOURCE, env={"NAME": name})) for name in names]
        calls = [asyncio.ensure_future(stub.get_entrypoint().wait(gate)) for stub in stubs]
        await gate._arrivals(60)
        gate._open.set()
        assert await asyncio.gather(*calls) == names


async def test_a_tenant_that_is_named_again_is_not_loaded_again(loader: Loader, code: Code, tenant: str) -> None:
    """A new callback for each request, as every host writes it, is one boot and one question."""
    asked = 0

    def get_code() -> WorkerCode:
        nonlocal asked
        asked += 1
        return code(SOURCE)

    before = loader.statistics().boots
    for number in range(1, 101):
        assert await loader.get(tenant, lambda: get_code()).get_entrypoint().count() == number
    assert (asked, loader.statistics().boots - before) == (1, 1)


async def test_a_loop_without_end_ends_and_holds_up_nobody(code: Code) -> None:
    """One tenant spins in the middle of a call; the others' are answered meanwhile, and it is ended by its limit."""
    async with Loader(spares=2) as loader:
        answered = 0
        for cpu_ms in (300, 1_500):  # some machines take longer than that to start the others
            limits = Limits(cpu_ms=cpu_ms, wall_ms=None)  # on a busy one it gives way for a while
            spinner = loader.get(f"spinner {cpu_ms}", partial(code, SOURCE, limits=limits)).get_entrypoint()
            spinning, answered = asyncio.ensure_future(spinner.spin()), 0
            while answered <= 10 and not spinning.done():
                name = f"t{answered % 3}"
                assert await loader.get(name, partial(code, SOURCE, env={"NAME": name})).get_entrypoint().who() == name
                answered += not spinning.done()
            with pytest.raises(LimitExceeded, match=f"{cpu_ms:,} ms of CPU"):
                await spinning
            assert await spinner.count() == 1
            if answered > 10:
                break
        assert answered > 10


async def test_what_cannot_be_granted_is_refused_by_name(loader: Loader, code: Code, path: Path) -> None:
    """A raw workflow binding sees every tenant's instances, so it is not what a tenant may have; the error says so to
    the host, and nothing of it to the tenant."""

    class Trusted(WorkflowEntrypoint):
        """The host's own."""

    async with Engine(path) as engine:
        raw = engine.workflow("raw", Trusted)
        stub = loader.get("raw", lambda: code(SOURCE, env={"WORKFLOWS": raw}))
        with pytest.raises(LoadFailed, match=r"env.*'raw' cannot be sent.*Workflow"):
            await stub.get_entrypoint().who()


async def test_code_that_comes_when_nobody_waits_any_more_is_no_trouble(
    loader: Loader, code: Code, tenant: str
) -> None:
    """Its caller gave up; whoever comes next finds the worker booted, and was not asked to wait for another."""
    asked, answer = asyncio.Event(), asyncio.Event()
    times = 0

    async def get_code() -> WorkerCode:
        nonlocal times
        times += 1
        asked.set()
        await answer.wait()
        return code(SOURCE, env={"NAME": tenant})

    call: asyncio.Future[Any] = asyncio.ensure_future(loader.get(tenant, get_code).get_entrypoint().who())
    await asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    answer.set()
    assert await loader.get(tenant, get_code).get_entrypoint().who() == tenant
    assert times == 1


async def test_code_that_comes_after_the_loader_was_closed_is_no_trouble(code: Code) -> None:
    """The call fails with a reason, and nothing else happens."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def get_code() -> WorkerCode:
        asked.set()
        await answer.wait()
        return code(SOURCE)

    async with Loader(spares=1) as loader:
        call: asyncio.Future[Any] = asyncio.ensure_future(loader.get("t", get_code).get_entrypoint().who())
        await asked.wait()
    answer.set()
    with pytest.raises(Exception, match="closed"):
        await call


async def test_stubs_that_nobody_keeps_may_go_while_their_code_is_loaded(loader: Loader, code: Code) -> None:
    """Anonymous workers, collected in the middle of everything: each call is answered all the same."""

    def get_code() -> WorkerCode:
        gc.collect()
        return code(SOURCE, env={"NAME": "nobody"})

    for _ in range(5):
        loader.load(get_code())
        loader.get("forgotten", get_code).get_entrypoint()
        gc.collect()
        assert await loader.load(get_code()).get_entrypoint().who() == "nobody"


async def test_an_abort_by_name_ends_one_and_the_next_get_loads_anew(loader: Loader, code: Code) -> None:
    """The call in flight is told who did it; an anonymous one is not concerned, nor is any other tenant."""
    gate = Gate()
    named = loader.get("aborted", lambda: code(SOURCE, env={"NAME": "aborted"})).get_entrypoint()
    anonymous = loader.load(code(SOURCE)).get_entrypoint()
    assert [await named.count(), await anonymous.count()] == [1, 1]
    call: asyncio.Future[Any] = asyncio.ensure_future(named.wait(gate))
    await gate._arrivals(1)
    assert loader.evict("aborted")
    with pytest.raises(SandboxError, match="evicted"):
        await call
    assert [await named.count(), await anonymous.count()] == [1, 2]


async def test_what_was_handed_over_is_a_copy(loader: Loader, code: Code) -> None:
    """Whatever becomes of the dict, the list or the buffer afterwards."""
    source = """
        import pkgutil
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def read(self):
                return [len(pkgutil.get_data("main", "data.bin")), self.env.LIST]
    """
    listed, buffer = [1, 2, 3], bytearray(1000)
    made = WorkerCode(
        main_module="main.py",
        modules={"main.py": code(source).modules["main.py"], "data.bin": Data(bytes(buffer))},
        env={"LIST": listed},
    )
    entrypoint = loader.load(made).get_entrypoint()
    assert await entrypoint.read() == [1000, [1, 2, 3]]
    buffer.clear()
    listed.clear()
    assert await entrypoint.read() == [1000, [1, 2, 3]]
