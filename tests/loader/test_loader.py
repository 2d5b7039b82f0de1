"""The loader: a tenant's id in, somewhere to call out. Warm where possible, booted where not, never twice at once."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cloister.ipc.sockets import SocketLink
from cloister.loader import (
    Host,
    LimitExceeded,
    Limits,
    Loader,
    LoaderClosed,
    LoaderEvent,
    LoadFailed,
    NoCapacity,
    RpcTarget,
    SandboxDied,
    SandboxError,
    TailLine,
    TenantError,
    WorkerCode,
    WorkerStub,
)
from cloister.loader.loader import Key
from cloister.sandbox import LATE_GRACE, Sandbox

LONG = 100.0  # for a call to wait for room: on a busy machine each boot takes a while
Code = Callable[..., WorkerCode]
MakeWorker = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

WHO = """
    from workers import WorkerEntrypoint
    calls = 0
    class Default(WorkerEntrypoint):
        async def who(self):
            return self.env.NAME
        async def count(self):
            global calls
            calls += 1
            return calls
        async def hold(self, gate):
            await gate.enter()
            return self.env.NAME
"""


class Gate(RpcTarget):
    """Where tenants wait until a test lets them through."""

    def __init__(self) -> None:
        self.inside = 0
        self._arrived = asyncio.Condition()
        self._open = asyncio.Event()

    async def enter(self) -> None:
        """A tenant comes, and waits."""
        async with self._arrived:
            self.inside += 1
            self._arrived.notify_all()
        await self._open.wait()

    def open(self) -> None:
        """Not for tenants, but there is no harm in it."""
        self._open.set()


async def arrivals(gate: Gate, number: int) -> None:
    """Wait until so many are at the gate."""
    async with gate._arrived:
        await gate._arrived.wait_for(lambda: gate.inside >= number)


def house(code: Code, **options: Any) -> tuple[Loader, Callable[[str], Any]]:
    """A loader, and a function from a tenant's name to its default entrypoint."""
    loader = Loader(**{"spares": 1, "admission_timeout": LONG, **options})

    def entrypoint(name: str) -> Any:
        return loader.get(name, lambda: code(WHO, env={"NAME": name})).get_entrypoint()

    return loader, entrypoint


# get and get_code


async def test_get_returns_at_once_and_asks_for_code_only_when_it_is_needed(
    loader: Loader, code: Code, tenant: str
) -> None:
    """Neither `get` nor `get_entrypoint` nor naming a method asks; the first call does, and the second one doesn't."""
    asked = 0

    def get_code() -> WorkerCode:
        nonlocal asked
        asked += 1
        return code(WHO, env={"NAME": tenant})

    entrypoint = loader.get(tenant, get_code).get_entrypoint()
    method = entrypoint.who
    assert asked == 0
    assert await method() == tenant
    assert await entrypoint.who() == tenant
    assert await loader.get(tenant, get_code).get_entrypoint().who() == tenant
    assert asked == 1


async def test_fifty_first_calls_at_once_are_one_boot(loader: Loader, code: Code, tenant: str) -> None:
    """Whoever comes while the worker boots waits for that boot."""
    asked = 0

    async def get_code() -> WorkerCode:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return code(WHO)

    before = loader.statistics().boots
    stub = loader.get(tenant, get_code)
    counts = await asyncio.gather(*(stub.get_entrypoint().count() for _ in range(50)))
    assert sorted(counts) == list(range(1, 51))
    assert asked == 1
    assert loader.statistics().boots == before + 1


async def test_where_several_boot_the_code_goes_with_the_first_call(
    code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece, so that a sandbox is woken once. Who boots alone is sent its code at once."""
    sent: list[bytes] = []
    send = SocketLink._send

    def noted(link: SocketLink, data: bytes | bytearray) -> int:
        sent.append(bytes(data))
        return send(link, data)

    monkeypatch.setattr(SocketLink, "_send", noted)
    async with Loader(max_sandboxes=8, spares=0) as loader:
        tenants = [loader.get(f"t-{number}", lambda: code(WHO)).get_entrypoint() for number in range(5)]
        await tenants[0].count()
        assert sum(b"boot" in data for data in sent) == 1
        sent.clear()
        await asyncio.gather(*(tenant.count() for tenant in tenants[1:]))
    begun = [data for data in sent if b"boot" in data]
    assert len(begun) == 4
    assert sum(b"invoke" in data for data in begun) >= 3  # the last one has nobody beside it


async def test_get_code_may_be_a_coroutine_function(loader: Loader, code: Code, tenant: str) -> None:
    """Since code often comes from somewhere slow."""

    async def get_code() -> WorkerCode:
        await asyncio.sleep(0)
        return code(WHO, env={"NAME": "async"})

    assert await loader.get(tenant, get_code).get_entrypoint().who() == "async"


async def test_get_code_that_raises_is_the_hosts_failure_and_is_not_remembered(
    loader: Loader, code: Code, tenant: str
) -> None:
    """`LoadFailed` says what was raised, and the next call asks again."""
    outcomes: list[Any] = [OSError("disk on fire"), OSError("still on fire")]

    def get_code() -> WorkerCode:
        if outcomes:
            raise outcomes.pop(0)
        return code(WHO, env={"NAME": "mended"})

    stub = loader.get(tenant, get_code)
    for words in ("disk on fire", "still on fire"):
        with pytest.raises(LoadFailed, match=rf"get_code.*OSError: {words}") as caught:
            await stub.get_entrypoint().who()
        assert not isinstance(caught.value, TenantError)
        assert isinstance(caught.value.__cause__, OSError)
    assert await stub.get_entrypoint().who() == "mended"


@pytest.mark.parametrize("junk", [None, "source", {"main.py": ""}, WorkerCode])
async def test_get_code_that_returns_something_else_is_the_hosts_failure(
    loader: Loader, tenant: str, junk: Any
) -> None:
    """And the message names the type."""
    with pytest.raises(LoadFailed, match=type(junk).__name__):
        await loader.get(tenant, lambda: junk).get_entrypoint().who()


async def test_one_failed_load_fails_everybody_who_waited_for_it_and_nobody_after(
    loader: Loader, code: Code, tenant: str
) -> None:
    """Ten calls share the failure; the eleventh loads."""
    asked = 0

    async def get_code() -> WorkerCode:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        if asked == 1:
            raise OSError("once")
        return code(WHO, env={"NAME": "fine"})

    stub = loader.get(tenant, get_code)
    outcomes = await asyncio.gather(*(stub.get_entrypoint().who() for _ in range(10)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LoadFailed}
    assert await stub.get_entrypoint().who() == "fine"
    assert asked == 2


async def test_bindings_that_cannot_be_sent_are_the_hosts_failure_and_cost_no_sandbox(
    code: Code, eventually: Eventually
) -> None:
    """The message names what cannot be sent; the sandbox that was taken for it is ended."""
    async with Loader(spares=0) as loader:
        zygote = psutil.Process(loader._profiles.plain.zygote_pid)
        before = zygote.children(recursive=True)
        stub = loader.get("t", lambda: code(WHO, env={"NAME": object()}))
        for _ in range(3):
            with pytest.raises(LoadFailed, match="object"):
                await stub.get_entrypoint().who()
        assert loader.statistics().warm == 0
        await eventually(lambda: zygote.children(recursive=True) == before)


@pytest.mark.parametrize("tenant_id", ["", None, 7, b"t"])
def test_a_tenant_id_is_text_that_is_not_empty(loader: Loader, tenant_id: Any) -> None:
    """The host hears of it at once."""
    with pytest.raises(ValueError, match="tenant id"):
        loader.get(tenant_id, lambda: pytest.fail("asked for code"))


@pytest.mark.parametrize("options", [{"max_sandboxes": 0}, {"spares": -1}])
def test_a_loader_has_room_for_one_at_least(options: dict[str, Any]) -> None:
    """Numbers that make no sense are refused."""
    with pytest.raises(ValueError, match="at least"):
        Loader(**options)


# Whose is whose


async def test_versions_of_a_tenant_are_kept_apart(loader: Loader, code: Code, tenant: str) -> None:
    """Each has its own worker, and evicting the tenant evicts them all."""
    for version in ("1", "2", None):
        stub = loader.get(tenant, partial(code, WHO, env={"NAME": version}), version=version)
        assert await stub.get_entrypoint().who() == version
    before = loader.statistics().evictions
    assert loader.evict(tenant)
    assert loader.statistics().evictions == before + 3
    assert not loader.evict(tenant)


async def test_no_tenant_can_choose_an_id_that_is_somebody_elses(loader: Loader, code: Code) -> None:
    """Neither a version's nor a one-off's: whoever names itself like one still gets its own sandbox."""
    hostile = ["shop@1", "one-off 1", *(f"one-off {n}" for n in range(2, 40)), "shop\0001", "shop/1"]
    for name in hostile:
        await loader.get(name, partial(code, WHO, env={"NAME": f"hostile {name}"})).get_entrypoint().who()
    stub = loader.get("shop", lambda: code(WHO, env={"NAME": "the shop"}), version="1")
    assert await stub.get_entrypoint().who() == "the shop"
    one_off = loader.load(code(WHO, env={"NAME": "nobody's"}))
    assert await one_off.get_entrypoint().who() == "nobody's"


async def test_what_is_loaded_once_is_a_sandbox_of_its_own(loader: Loader, code: Code) -> None:
    """The same code loaded twice is two workers, each of which keeps its state between calls."""
    made = code(WHO)
    one, other = loader.load(made).get_entrypoint(), loader.load(made).get_entrypoint()
    assert [await one.count(), await one.count(), await other.count()] == [1, 2, 1]


async def test_what_is_loaded_once_leaves_before_any_tenant_does(code: Code) -> None:
    """A hundred snippets do not cool down a single tenant."""
    loader, entrypoint = house(code, max_sandboxes=3)
    async with loader:
        await entrypoint("a").count()
        await entrypoint("b").count()
        for _ in range(4):
            await loader.load(code(WHO)).get_entrypoint().count()
        await entrypoint("c").count()
        assert [await entrypoint(name).count() for name in "abc"] == [2, 2, 2]


async def test_env_is_not_shared_between_tenants(loader: Loader, code: Code) -> None:
    """Each finds what was granted to it, also where the names are the same."""
    secrets = {name: {"SECRET": f"secret of {name}", "LIST": [name]} for name in ("ann", "bob")}
    source = """
        from workers import WorkerEntrypoint, env
        class Default(WorkerEntrypoint):
            async def read(self):
                self.env["LIST"].append("changed")
                env["EXTRA"] = "planted"
                return [dict(self.env), dict(env)]
    """
    for name, granted in secrets.items():
        stub = loader.get(f"env-{name}", partial(code, source, env=granted))
        mine, same = await stub.get_entrypoint().read()
        assert mine == same == {**granted, "LIST": [name, "changed"], "EXTRA": "planted"}
    assert secrets["ann"]["LIST"] == ["ann"]


# Room


async def test_the_tenant_that_was_used_longest_ago_leaves_first(code: Code) -> None:
    """With room for two, the third makes the one leave that was not called since."""
    loader, entrypoint = house(code, max_sandboxes=2)
    async with loader:
        await entrypoint("a").count()
        await entrypoint("b").count()
        assert await entrypoint("a").count() == 2
        await entrypoint("c").count()
        assert loader.statistics().warm == 2
        assert await entrypoint("a").count() == 3
        assert await entrypoint("b").count() == 1


async def test_a_tenant_in_use_is_never_the_one_to_leave(code: Code) -> None:
    """However long ago its call began."""
    loader, entrypoint = house(code, max_sandboxes=2)
    async with loader:
        gate = Gate()
        held = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        for name in "bcd":
            assert await entrypoint(name).who() == name
        gate.open()
        assert await held == "a"
        assert await entrypoint("a").count() == 1


async def test_a_full_house_makes_a_call_wait_until_somebody_is_done(code: Code) -> None:
    """In a cache of one, the second tenant is let in when the first one's call has ended."""
    loader, entrypoint = house(code, max_sandboxes=1)
    async with loader:
        gate = Gate()
        first = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        second = asyncio.ensure_future(entrypoint("b").who())
        await asyncio.sleep(0.02)
        assert not second.done()
        gate.open()
        assert [await first, await second] == ["a", "b"]


async def test_a_house_that_stays_full_is_said_to_be(code: Code) -> None:
    """After `admission_timeout`, with the advice of what to change, and as nobody's fault but the host's."""
    loader, entrypoint = house(code, max_sandboxes=1, admission_timeout=0.05)
    async with loader:
        gate = Gate()
        first = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        with pytest.raises(NoCapacity, match=r"all 1 sandboxes.*max_sandboxes") as caught:
            await entrypoint("b").who()
        assert not isinstance(caught.value, TenantError)
        gate.open()
        assert await first == "a"
        assert await entrypoint("b").who() == "b"


async def test_room_that_came_free_for_somebody_who_has_left_goes_to_the_next(code: Code) -> None:
    """A caller that is cancelled at the very moment of its turn takes nobody's turn with it."""
    loader, entrypoint = house(code, max_sandboxes=1)
    async with loader:
        gate = Gate()
        first = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        second = asyncio.ensure_future(entrypoint("b").who())
        await asyncio.sleep(0)
        third = asyncio.ensure_future(entrypoint("c").who())
        await asyncio.sleep(0)
        loader.evict("a")
        second.cancel()
        assert await third == "c"
        for ended in (first, second):
            with pytest.raises((SandboxError, asyncio.CancelledError)):
                await ended


async def test_calls_of_one_tenant_that_waited_for_room_run_together(code: Code) -> None:
    """Once it has a sandbox there is no reason for the others to queue for one."""
    loader, entrypoint = house(code, max_sandboxes=1)
    async with loader:
        gate, other = Gate(), Gate()
        first = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        waiting = [asyncio.ensure_future(entrypoint("b").hold(other)) for _ in range(5)]
        await asyncio.sleep(0.01)
        gate.open()
        await first
        await arrivals(other, 5)
        other.open()
        assert await asyncio.gather(*waiting) == ["b"] * 5


async def test_room_is_given_to_as_many_as_it_is_there_for(code: Code) -> None:
    """Two come free at once and a third is idle: three who waited get in."""
    loader, entrypoint = house(code, max_sandboxes=3)
    async with loader:
        gate, other = Gate(), Gate()
        first = [asyncio.ensure_future(entrypoint(name).hold(gate)) for name in "abc"]
        await arrivals(gate, 3)
        waiting = [asyncio.ensure_future(entrypoint(name).hold(other)) for name in "def"]
        late = [asyncio.ensure_future(entrypoint(name).who()) for name in "ghij"]
        await asyncio.sleep(0.01)
        gate.open()
        await asyncio.gather(*first)
        await arrivals(other, 3)
        assert not any(task.done() for task in waiting)
        other.open()
        assert await asyncio.gather(*waiting, *late) == list("defghij")


async def test_many_tenants_in_a_small_house_are_all_served(code: Code) -> None:
    """Two hundred calls of forty tenants in three sandboxes: each is answered by its own code."""
    loader, entrypoint = house(code, max_sandboxes=3)
    async with loader:
        names = [f"t{number % 40}" for number in range(200)]
        assert await asyncio.gather(*(entrypoint(name).who() for name in names)) == names
        assert loader.statistics().warm <= 3


# Eviction


async def test_evicting_a_tenant_in_use_fails_its_calls_with_the_reason(code: Code) -> None:
    """The call is told that it was the host; the next one boots anew."""
    loader, entrypoint = house(code)
    async with loader:
        gate = Gate()
        call = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        assert loader.evict("a")
        with pytest.raises(SandboxError, match="evicted") as caught:
            await call
        assert not isinstance(caught.value, LimitExceeded)
        assert not loader.evict("a")
        assert await entrypoint("a").count() == 1


async def test_one_that_leaves_for_another_ends_a_moment_later(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending a process takes the kernel longer than giving another one its code, and somebody waits for that."""
    loader, entrypoint = house(code, max_sandboxes=1)

    def sandbox(tenant: str) -> Sandbox:
        worker = loader.warm(Key(tenant))
        assert worker is not None
        return worker.sandbox

    async with loader:
        assert await entrypoint("a").who() == "a"
        first = sandbox("a")
        with monkeypatch.context() as patched:
            patched.setattr("cloister.loader.house._NEWCOMER_FIRST", 3600.0)
            assert await entrypoint("b").who() == "b"
        assert first.alive
        assert loader.statistics().warm == 1
        second = sandbox("b")
        assert await entrypoint("a").who() == "a"
        assert await second.died == "was evicted"
    assert not first.alive, "the end of the loader is everybody's"


async def test_one_that_is_about_to_leave_is_evicted_like_any_other(
    code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is there until then; once."""
    loader, entrypoint = house(code, max_sandboxes=1)
    monkeypatch.setattr("cloister.loader.house._NEWCOMER_FIRST", 3600.0)
    async with loader:
        assert await entrypoint("a").who() == "a"
        worker = loader.warm(Key("a"))
        assert worker is not None
        assert await entrypoint("b").who() == "b"
        assert worker.sandbox.alive
        assert loader.evict("a")
        assert await worker.sandbox.died == "was evicted"
        assert not loader.evict("a")
        assert await entrypoint("b").who() == "b"


async def test_evicting_a_tenant_that_is_booting_fails_its_call_with_the_reason(code: Code) -> None:
    """Even before it has any code."""
    loader = Loader(spares=1)
    async with loader:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def get_code() -> WorkerCode:
            asked.set()
            await answer.wait()
            return code(WHO, env={"NAME": "late"})

        call = asyncio.ensure_future(loader.get("a", get_code).get_entrypoint().who())
        await asked.wait()
        assert loader.evict("a")
        answer.set()
        with pytest.raises((SandboxError, LoadFailed), match="evicted"):
            await call
        assert await loader.get("a", get_code).get_entrypoint().who() == "late"


async def test_work_that_goes_on_after_the_answer_keeps_the_sandbox(code: Code) -> None:
    """`wait_until` in a cache of one: the other tenant waits until the work is done."""
    source = """
        from workers import WorkerEntrypoint, wait_until
        class Default(WorkerEntrypoint):
            async def begin(self, gate):
                wait_until(self.work(gate.dup()))
                return "answered"
            async def work(self, gate):
                await gate.enter()
                await self.env.DONE()
    """
    done = asyncio.Event()
    loader, entrypoint = house(code, max_sandboxes=1)
    async with loader:
        gate = Gate()
        stub = loader.get("a", lambda: code(source, env={"DONE": lambda: done.set()}))
        assert await stub.get_entrypoint().begin(gate) == "answered"
        await arrivals(gate, 1)
        other = asyncio.ensure_future(entrypoint("b").who())
        await asyncio.sleep(0.02)
        assert not other.done()
        assert loader.statistics().in_use == 1
        gate.open()
        assert await other == "b"
        assert done.is_set()


async def test_work_that_fails_after_the_answer_is_told_and_lets_the_sandbox_go(
    code: Code, eventually: Eventually
) -> None:
    """An exception in the background is a line of the tenant's log and holds nothing."""
    lines: list[Any] = []
    source = """
        from workers import WorkerEntrypoint, wait_until
        class Default(WorkerEntrypoint):
            async def begin(self):
                wait_until(self.work())
            async def work(self):
                raise LookupError("in the background")
    """
    async with Loader(max_sandboxes=1, spares=1) as loader:
        await loader.get("a", lambda: code(source, streaming_tails=(lines.append,))).get_entrypoint().begin()
        await eventually(lambda: any("in the background" in line.text for line in lines if isinstance(line, TailLine)))
        await eventually(lambda: loader.statistics().in_use == 0)


# Watching


async def test_subscribers_hear_of_everything_from_the_moment_they_subscribe(code: Code) -> None:
    """Boot, eviction, death and limit, in order, each with whose it was and why."""
    source = """
        import os
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def hello(self): return "hello"
            async def die(self): os._exit(3)
            async def spin(self):
                while True: pass
    """
    async with Loader(spares=1) as loader:
        events = loader.subscribe()
        stub = loader.get("t", lambda: code(source, limits=Limits(cpu_ms=30)))
        entrypoint = stub.get_entrypoint()
        await entrypoint.hello()
        loader.evict("t")
        with pytest.raises(SandboxDied):
            await entrypoint.die()
        with pytest.raises(LimitExceeded):
            await entrypoint.spin()
        heard: list[LoaderEvent] = [await anext(events) for _ in range(6)]
        assert [event.kind for event in heard] == ["boot", "evict", "boot", "died", "boot", "limit"]
        assert {event.tenant_id for event in heard} == {"t"}
        assert "exited with 3" in heard[3].reason
        assert "30 ms of CPU" in heard[5].reason
        assert all(event.boot_ms > 0 and event.phases is not None for event in heard if event.kind == "boot")
        assert all(event.memory_bytes > 1 << 20 for event in (heard[3], heard[5]))
        assert heard[5].cpu_ms >= 30
        assert heard[0].phases is not None
        numbers = [event.sandbox for event in heard]
        assert numbers[0::2] == numbers[1::2]


async def test_statistics_can_tell_of_each_sandbox(code: Code) -> None:
    """Whose it is, how its start went, and what it uses; without being asked to, nobody asks the kernel."""
    async with Loader(spares=1) as loader:
        for tenant in ("a", "b"):
            await loader.get(tenant, lambda: code(WHO, env={"NAME": "x"})).get_entrypoint().who()
        assert loader.statistics().sandboxes == ()
        found = {each.tenant_id: each for each in loader.statistics(detail=True).sandboxes}
        assert set(found) == {"a", "b"}
        for each in found.values():
            assert each.boot_ms > 0
            assert each.phases.fork > 0
            assert each.dropped_log_lines == 0
            assert each.memory_bytes > 0 or os.geteuid() != 0  # only root may look


async def test_a_call_is_not_given_to_a_sandbox_that_may_be_about_to_end(code: Code) -> None:
    """Another one has overrun its time in it: the next one waits for how that ends, and is then answered."""
    source = """
        import time
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def stand(self): time.sleep(60)
            async def hello(self): return "hello"
    """
    async with Loader(spares=1) as loader:
        entrypoint = loader.get("t", lambda: code(source)).get_entrypoint
        with pytest.raises(LimitExceeded, match="exceeded 30 ms of time"):
            await entrypoint(limits=Limits(wall_ms=30)).stand()
        assert await entrypoint().hello() == "hello"


def test_a_host_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Also when it is asked for a binding."""
    host = Host(tmp_path / "app.db", get_code=lambda _: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(LoaderClosed, match="async with"):
        host.workflows("t")


async def test_subscribers_do_not_disturb_each_other(code: Code) -> None:
    """Each hears all; one that has gone is forgotten."""
    loader, entrypoint = house(code)
    async with loader:
        one, other, gone = loader.subscribe(), loader.subscribe(), loader.subscribe()
        del gone
        gc.collect()
        await entrypoint("a").who()
        assert (await anext(one)).tenant_id == (await anext(other)).tenant_id == "a"


async def test_statistics_count_what_happened(code: Code) -> None:
    """Gauges of this moment and counters since the loader was opened."""
    loader, entrypoint = house(code, max_sandboxes=2)
    async with loader:
        gate = Gate()
        call = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        now = loader.statistics()
        assert (now.warm, now.in_use, now.booting, now.boots, now.hits) == (1, 1, 0, 1, 0)
        gate.open()
        await call
        await entrypoint("a").who()
        await entrypoint("b").who()
        await entrypoint("c").who()
        now = loader.statistics()
        assert (now.warm, now.in_use, now.boots, now.hits, now.evictions, now.deaths) == (2, 0, 3, 1, 1, 0)
        assert now.layers["seccomp"] == "active"


async def test_what_a_tenant_prints_goes_to_its_tails_and_to_no_other(code: Code, eventually: Eventually) -> None:
    """Output and logging line by line, each with whose it is; a tail that raises costs nothing."""
    source = """
        import logging, sys
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def speak(self, name):
                print("out", name)
                print("err", name, file=sys.stderr)
                logging.getLogger("app").warning("log %s", name)
                return name
    """
    lines: dict[str, list[Any]] = {"a": [], "b": []}

    def broken(line: Any) -> None:
        raise OSError("the tail is broken")

    async with Loader(spares=1) as loader:
        for name in "ab":
            stub = loader.get(name, partial(code, source, streaming_tails=(broken, lines[name].append)))
            assert await stub.get_entrypoint().speak(name) == name
        await eventually(lambda: all(len(told) >= 5 for told in lines.values()))
    for name, told in lines.items():
        assert {line.tenant_id for line in told} == {name}
        assert [(line.level, line.text) for line in told if isinstance(line, TailLine)] == [
            ("stdout", f"out {name}"),
            ("stderr", f"err {name}"),
            ("warning", f"app: log {name}"),
        ]


# Limits


@pytest.mark.parametrize(("own", "given"), [(30, None), (30, 5_000), (5_000, 30)])
async def test_the_lower_limit_holds(worker: MakeWorker, own: int, given: int | None) -> None:
    """The code's, or the one that the entrypoint was asked for with."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def spin(self):
                while True: pass
    """
    stub = worker(source, limits=Limits(cpu_ms=own))
    limits = None if given is None else Limits(cpu_ms=given)
    with pytest.raises(LimitExceeded, match="exceeded 30 ms of CPU"):
        await stub.get_entrypoint(limits=limits).spin()


async def test_a_call_that_takes_too_long_is_ended_and_its_sandbox_lives(code: Code, eventually: Eventually) -> None:
    """Where the tenant's code can be cancelled, only the call is lost."""
    source = """
        import asyncio
        from workers import WorkerEntrypoint
        calls = 0
        class Default(WorkerEntrypoint):
            async def sleep(self):
                await asyncio.sleep(1000)
            async def count(self):
                global calls
                calls += 1
                return calls
    """
    due: list[tuple[float, Callable[[], None]]] = []
    async with Loader(spares=1) as loader:
        entrypoint = loader.get("t", lambda: code(source)).get_entrypoint
        assert await entrypoint().count() == 1
        sandbox: Any = loader._house.pools[Key("t")].workers[0].sandbox
        sandbox._calls._loop = SimpleNamespace(call_later=lambda seconds, *what: due.append((seconds, partial(*what))))
        with pytest.raises(LimitExceeded, match="50 ms of time"):
            await entrypoint(limits=Limits(wall_ms=50)).sleep()
        await eventually(lambda: not sandbox._peer.connection.cancelled)
        [(seconds, look)] = due  # on a busy machine nobody stops within that time
        assert seconds == LATE_GRACE
        look()
        assert await entrypoint().count() == 2
        assert loader.statistics().boots == 1


# The loader's own life


async def test_a_loader_that_is_not_open_says_so(code: Code) -> None:
    """Before it was opened and after it was closed."""
    loader, entrypoint = house(code)
    with pytest.raises(LoaderClosed, match="async with"):
        await entrypoint("a").who()
    async with loader:
        assert await entrypoint("a").who() == "a"
    with pytest.raises(LoaderClosed, match="async with"):
        await entrypoint("a").who()


async def test_closing_ends_every_call_with_a_reason(code: Code) -> None:
    """In flight, or still waiting for room."""
    loader, entrypoint = house(code, max_sandboxes=1)
    gate = Gate()
    async with loader:
        held = asyncio.ensure_future(entrypoint("a").hold(gate))
        await arrivals(gate, 1)
        waiting = asyncio.ensure_future(entrypoint("b").who())
        await asyncio.sleep(0.01)
    with pytest.raises(SandboxError, match="loader was closed"):
        await held
    with pytest.raises(LoaderClosed):
        await waiting


async def test_two_loaders_do_not_know_each_other(code: Code) -> None:
    """The same tenant in both is two workers."""
    one, in_one = house(code)
    other, in_other = house(code)
    async with one, other:
        assert await in_one("a").count() == 1
        assert await in_other("a").count() == 1
        one.evict("a")
        assert await in_other("a").count() == 2


async def test_a_call_that_is_cancelled_is_cancelled_inside(worker: MakeWorker) -> None:
    """The tenant's code gets to clean up, and the sandbox goes on."""
    source = """
        import asyncio
        from workers import WorkerEntrypoint
        seen = []
        class Default(WorkerEntrypoint):
            async def hold(self, gate):
                try:
                    await gate.enter()
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise
            async def seen(self):
                return seen
    """
    entrypoint = worker(source).get_entrypoint()
    gate = Gate()
    call: asyncio.Future[Any] = asyncio.ensure_future(entrypoint.hold(gate))
    await arrivals(gate, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    while not await entrypoint.seen():  # which may be answered before the other task has had its turn
        pass
    assert await entrypoint.seen() == ["cancelled"]
