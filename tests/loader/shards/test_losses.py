"""A shard whose process ends: who waits goes on waiting, who cannot know is told, and another one takes its place."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.loader import LoaderClosed, LoaderError, ShardFailed, ShardLost, Shards, TenantError
from cloister.loader.shards.keeper import following

Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
Kill = Callable[[str], None]
WAITS = {"number": 2, "wait": True}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """That a process was killed is logged, which is looked at where it matters."""
    caplog.set_level(logging.CRITICAL, "cloister")


async def pid_of(host: Shards, tenant: str) -> int:
    """The process where a tenant lives."""
    return int((await host.tenant(tenant).look())["pid"])


# Who waits


async def test_a_result_is_waited_for_across_the_end_of_a_process(host: Shards, tenant: str, kill: Kill) -> None:
    """Whoever waits, with a timeout and without."""
    instance = await host.workflows(tenant).create(params=WAITS)
    waiting = [asyncio.ensure_future(instance.result(timeout=100)), asyncio.ensure_future(instance.result())]
    before = await pid_of(host, tenant)
    kill(tenant)
    await host._of(tenant)._process.lost  # type: ignore[union-attr]
    await instance.status()
    assert await pid_of(host, tenant) != before
    assert not any(each.done() for each in waiting)
    await instance.send_event(type="go", payload="tea")
    assert await asyncio.gather(*waiting) == [[4, "tea"]] * 2


async def test_what_only_looks_is_asked_again(host: Shards, tenant: str, kill: Kill) -> None:
    """It was under way to the process that ended, and does no harm twice."""
    instance = await host.workflows(tenant).create(id="order", params=WAITS)
    looking: list[Any] = [
        instance.status(),
        host.workflows(tenant).get("order"),
        host.workflows(tenant).list(),
        host.statistics(),
    ]
    kill(tenant)  # and this process has not heard of it when it asks
    status, found, page, _ = await asyncio.gather(*looking)
    assert (status["run"], found.id, [line.id for line in page.instances]) == (1, "order", ["order"])


async def test_the_time_that_a_result_is_waited_for_is_not_begun_anew(host: Shards, tenant: str, kill: Kill) -> None:
    """When it is over while the shard is away, it is over when that is back."""
    instance = await host.workflows(tenant).create(params=WAITS)
    asked: list[Any] = []
    keeper = host._of(tenant)
    ask = keeper.ask

    async def note(method: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(args[-1][0])
        return await ask(method, *args, **kwargs)

    keeper.ask = note  # type: ignore[method-assign]
    try:
        waiting = asyncio.ensure_future(instance.result(timeout=0.5))
        await asyncio.sleep(0)
        kill(tenant)
        with pytest.raises(TimeoutError):
            await waiting
    finally:
        keeper.ask = ask  # type: ignore[method-assign]
    (first,), (second,) = asked
    assert first == 0.5
    assert 0 <= second < 0.5


async def test_no_event_is_lost_or_told_twice(host: Shards, tenant: str, kill: Kill) -> None:
    """Where whoever subscribed goes on in the next process."""
    instance = await host.workflows(tenant).create(params=WAITS)
    events = []
    async for event in instance.subscribe():
        events.append(event)
        if event.type == "step_completed":
            kill(tenant)
            await host._of(tenant)._process.lost  # type: ignore[union-attr]
        if event.type == "wait_started":
            await instance.send_event(type="go", payload=None, id="once")
    assert events == [event async for event in instance.subscribe()]
    assert len({event.id for event in events}) == len(events)
    assert events[-1].type == "workflow_completed"


async def test_calls_wait_while_a_shard_is_started_again(host: Shards, tenants: list[str], kill: Kill) -> None:
    """Whatever they are; those of the other one do not."""
    kill(tenants[0])
    await host._of(tenants[0])._process.lost  # type: ignore[union-attr]
    await asyncio.sleep(0)
    keeper = host._of(tenants[0])
    assert not keeper._door.done()
    calls = [asyncio.ensure_future(host.tenant(tenants[0]).greet(str(number))) for number in range(20)]
    created = asyncio.ensure_future(host.workflows(tenants[0]).create(params={"number": 1}))
    assert await host.tenant(tenants[1]).greet("Bob") == "Hello Bob"
    assert not any(call.done() for call in calls)
    assert await asyncio.gather(*calls) == [f"Hello {number}" for number in range(20)]
    assert await (await created).result(timeout=100) == 4


async def test_who_gives_up_waiting_takes_nobody_along(host: Shards, tenant: str, kill: Kill) -> None:
    """The others go on waiting for the same shard."""
    kill(tenant)
    await host._of(tenant)._process.lost  # type: ignore[union-attr]
    await asyncio.sleep(0)
    first, second = [asyncio.ensure_future(host.tenant(tenant).greet("Bob")) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "Hello Bob"


# Who cannot know


async def test_what_is_created_meanwhile_is_there_or_is_not_and_never_twice(
    host: Shards, tenant: str, kill: Kill
) -> None:
    """Whoever was told that it is lost asks again under the same id."""
    for number in range(2):
        creating = [
            asyncio.ensure_future(host.workflows(tenant).create(id=f"n{number}-{each}", params={"number": 1}))
            for each in range(20)
        ]
        for _ in range(4 * number):
            await asyncio.sleep(0)
        kill(tenant)
        done = await asyncio.gather(*creating, return_exceptions=True)
        for each, outcome in enumerate(done):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, ShardLost), outcome
            if isinstance(outcome, ShardLost):
                await host.workflows(tenant).create_batch([{"id": f"n{number}-{each}", "params": {"number": 1}}])
    page = await host.workflows(tenant).list(limit=1000)
    assert sorted(line.id for line in page.instances) == sorted(f"n{n}-{each}" for n in range(2) for each in range(20))
    for line in page.instances:
        assert await host.workflows(tenant).handle(line.id).result(timeout=100) == 4


async def test_a_call_that_was_under_way_is_lost_and_says_so(host: Shards, tenant: str) -> None:
    """What is read is read again; a call may have done something."""
    with pytest.raises(
        ShardLost, match=r"shard \d ended while it was asked for call\(\): whether that was done is not"
    ):
        await host.tenant(tenant).crash()
    assert await host.tenant(tenant).greet("again") == "Hello again"


async def test_what_a_tenant_had_given_is_gone_with_the_process(host: Shards, tenant: str, kill: Kill) -> None:
    """An object, a stream, the body of a response, a web socket: whoever uses it hears why."""
    cart = await host.tenant(tenant).cart()
    numbers = await host.tenant(tenant).numbers(100_000)
    hanging = aiter(await host.tenant(tenant).fetch("https://a.example/hang"))
    chat = await host.tenant(tenant).fetch("https://a.example/chat", headers={"upgrade": "websocket"})
    assert await anext(hanging) == b"first"
    assert chat.web_socket is not None
    assert await anext(chat.web_socket) == "hello"
    reading = asyncio.ensure_future(anext(hanging))
    await asyncio.sleep(0)
    kill(tenant)
    with pytest.raises(ShardLost, match=r"the process of shard \d has ended"):
        await reading
    for item in ("tea", "milk"):
        with pytest.raises(ShardLost, match="has ended"):
            await cart.add(item)
    with pytest.raises(ShardLost, match="has ended"):
        assert [number async for number in numbers] == []
    with pytest.raises(ConnectionResetError):
        await chat.web_socket.send("tea")
    await chat.aclose()
    with pytest.raises(TenantError, match="ShardLost: the process of shard"):
        await host.tenant(tenant).use(cart)
    assert await host.tenant(tenant).greet("again") == "Hello again"


async def test_what_cannot_be_understood_ends_the_process_and_not_the_front(host: Shards, tenant: str) -> None:
    """Another one may be better."""
    before = await pid_of(host, tenant)
    process = host._of(tenant)._process
    assert process is not None
    process._peer.deliver(b"\xff nonsense")
    await process.lost
    assert await pid_of(host, tenant) != before


async def test_what_the_front_says_that_cannot_be_understood_ends_the_process(host: Shards, tenant: str) -> None:
    """In an orderly way, as if the front had gone."""
    before = await pid_of(host, tenant)
    process = host._of(tenant)._process
    assert process is not None
    process._send(b"\xff nonsense")
    await process.lost
    assert await process._reaped == "exit 0"
    assert await pid_of(host, tenant) != before


# Who does not come back


async def test_a_shard_that_cannot_come_back_says_why_and_comes_back_when_it_can(
    tmp_path: Path, service: str, tenant: str, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    """After `patience` seconds, to whoever asks meanwhile."""
    caplog.set_level(logging.ERROR, "cloister")
    others = set(psutil.Process().children())
    async with Shards(tmp_path, f"{service}:make_host", count=1, patience=0.05) as host:
        instance = await host.workflows(tenant).create(params={"number": 1})
        assert await instance.result(timeout=100) == 4
        (tmp_path / "broken").write_text("the store is away")
        host._of(tenant).kill()
        await eventually(lambda: "cannot be opened" in caplog.text)
        assert "shard 0: its process has ended: killed by SIGKILL; another one is started" in caplog.text
        for ask in (instance.result, instance.status, host.tenant(tenant).greet("Bob").__aenter__, host.statistics):
            with pytest.raises(
                ShardFailed, match=r"shard 0 has not come back within 0\.05 s: it cannot be opened: Loo"
            ):
                await ask()
        with pytest.raises(ShardFailed, match="the store is away"):
            await anext(aiter(instance.subscribe()))
        (tmp_path / "broken").unlink()

        async def is_back() -> bool:
            try:
                return bool((await instance.status())["status"] == "complete")
            except ShardFailed:
                return False

        await eventually(is_back)
        assert len(set(psutil.Process().children()) - others) == 1, "what could not be opened has ended"


async def test_a_process_is_missed_though_what_it_had_forked_is_there(
    tmp_path: Path, service: str, tenant: str, eventually: Eventually
) -> None:
    """That has the connection open, and the file as well: it is waited for no longer than for any other that is."""
    async with Shards(tmp_path, f"{service}:make_with_child", count=1, patience=0.5) as host:
        child = os.pidfd_open(int((tmp_path / "child").read_text()))
        try:
            host._of(tenant).kill()
            async with asyncio.timeout(30):
                await host._of(tenant)._process.lost  # type: ignore[union-attr]
                await asyncio.sleep(0)
                with pytest.raises(ShardFailed, match="its process has ended: killed by SIGKILL"):
                    await host.tenant(tenant).greet("Alice")
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)

        async def is_back() -> bool:
            try:
                return bool(await host.tenant(tenant).greet("Bob") == "Hello Bob")
            except ShardFailed:
                return False

        await eventually(is_back)


def test_a_process_that_ends_again_and_again_is_waited_with_longer_each_time() -> None:
    """The first is followed at once."""
    delays = [0.0]
    while len(delays) < 9:
        delays.append(following(delays[-1]))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_a_shard_that_ends_while_it_is_drained_has_not_come_to_its_end(
    tmp_path: Path, service: str, eventually: Eventually
) -> None:
    """And is no reason not to wait for the others."""
    async with Shards(tmp_path, f"{service}:make_host", count=2) as host:
        one, other = "t-42", "t-44"
        assert host.shard(one) != host.shard(other)
        held = [asyncio.ensure_future(host.tenant(each).wait()) for each in (one, other)]
        await eventually(lambda: _busy(host, 2))
        draining = asyncio.ensure_future(host.drain())
        host._of(one).kill()
        with pytest.raises(ShardLost):
            await held[0]
        await asyncio.sleep(0)
        assert not draining.done()
        held[1].cancel()
        assert not await draining


async def _busy(host: Shards, calls: int) -> bool:
    return calls == sum(int(each["loader"]["calls"]) for each in await host.statistics())


async def test_closing_while_a_shard_is_started_again(tmp_path: Path, service: str, tenant: str) -> None:
    """Whoever waits for it is told that it is over, and nothing is left of the process that was on its way."""
    async with Shards(tmp_path, f"{service}:make_host", count=1) as host:
        host._of(tenant).kill()
        await host._of(tenant)._process.lost  # type: ignore[union-attr]
        await asyncio.sleep(0)
        waiting = [
            asyncio.ensure_future(each)
            for each in (
                host.tenant(tenant).greet("Bob"),
                host.workflows(tenant).handle("a").result(),
                host.workflows(tenant).create(params={"number": 1}),
                anext(aiter(host.workflows(tenant).handle("a").subscribe())),
            )
        ]
        await asyncio.sleep(0)
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, LoaderClosed), each
        assert "the shards are closed" in str(each)


async def test_closing_between_two_tries(tmp_path: Path, service: str, tenant: str, eventually: Eventually) -> None:
    """There is no process then."""
    async with Shards(tmp_path, f"{service}:make_host", count=1) as host:
        (tmp_path / "broken").write_text("the store is away")
        host._of(tenant).kill()
        await eventually(lambda: "the store is away" in host._of(tenant)._trouble)
        waiting = asyncio.ensure_future(host.tenant(tenant).greet("Bob"))
        await asyncio.sleep(0)
    with pytest.raises(LoaderClosed):
        await waiting


async def test_closing_while_calls_are_in_flight(tmp_path: Path, service: str, tenant: str) -> None:
    """Each is told that it is over; what runs goes on when the folder is opened again."""
    async with Shards(tmp_path, f"{service}:make_host", count=1) as host:
        instance = await host.workflows(tenant).create(id="order", params=WAITS)
        cart = await host.tenant(tenant).cart()
        hanging = aiter(await host.tenant(tenant).fetch("https://a.example/hang"))
        assert await anext(hanging) == b"first"
        waiting = [
            asyncio.ensure_future(each)
            for each in (
                host.tenant(tenant).wait(),
                instance.result(),
                instance.result(timeout=100),
                anext(hanging),
                host.drain(),
            )
        ]
        assert await host.tenant(tenant).greet("all are there") == "Hello all are there"
        await instance.send_event(type="other", payload=None)
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, LoaderError), each
        assert not isinstance(each, ShardLost)
    with pytest.raises(LoaderClosed):
        await cart.add("late")
    for late in (host.statistics(), instance.status(), host.drain()):
        with pytest.raises(LoaderClosed, match="the shards are closed"):
            await late
    async with host:
        again = host.workflows(tenant).handle("order")
        await again.send_event(type="go", payload="tea")
        assert await again.result(timeout=100) == [4, "tea"]
