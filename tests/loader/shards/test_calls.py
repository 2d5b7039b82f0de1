"""Calls through the front: as through a host; what goes along works both ways and is let go of."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloister.ipc import CapabilityError, CodecError, RpcTarget
from cloister.ipc.streams import RemoteStream
from cloister.loader import (
    EntrypointNotFound,
    LimitExceeded,
    Limits,
    LoaderClosed,
    LoadFailed,
    SandboxDied,
    Shards,
    TenantError,
)
from cloister.loader.http import Request, Response
from cloister.loader.http.headers import Malformed
from cloister.loader.shards.wire import peer_over

Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
Look = Callable[[str], Awaitable[dict[str, Any]]]


# Methods


async def test_a_call_is_answered_wherever_the_tenant_lives(host: Shards, tenants: list[str]) -> None:
    """One at a time and many together; each has its own answer."""
    for tenant_id in tenants:
        assert await host.tenant(tenant_id).greet("Alice") == "Hello Alice"
        assert await host.tenant(tenant_id).greet(name="Bob") == "Hello Bob"
    calls = [host.tenant(tenants[number % 2]).greet(str(number)) for number in range(300)]
    assert await asyncio.gather(*calls) == [f"Hello {number}" for number in range(300)]


async def test_values_arrive_as_they_do_from_a_host(host: Shards, tenant: str) -> None:
    """Of every kind that can be sent, and large ones."""
    plain: list[Any] = [None, True, -1, 2**63, 1.5, "tëa", b"\x00\xff", [1, [2]], {"a": {"b": []}}, {1, 2}]
    assert await host.tenant(tenant).echo(*plain, key=3) == [plain, {"key": 3}]
    large = os.urandom(12_000_000)
    assert await host.tenant(tenant).echo(large) == [[large], {}]


async def test_what_cannot_be_sent_is_said_as_a_host_says_it(host: Shards, tenant: str) -> None:
    """Where it is in what was given, and nothing of what is around that on its way."""
    entrypoint = host.tenant(tenant)
    with pytest.raises(CodecError, match=r"send plain values, at args\[1\]\[0\]$"):
        await entrypoint.echo(1, [object()])
    with pytest.raises(CodecError, match=r"send plain values, at kwargs\['a'\]$"):
        await entrypoint.echo(a=object())
    with pytest.raises(CodecError, match=r"send plain values, at chain\[0\]\[0\]$"):
        await entrypoint.cart().add(object())
    with pytest.raises(CodecError, match="surrogates not allowed"):
        await entrypoint.greet("\ud800")
    with pytest.raises(CodecError, match="at most 16,777,216 can be sent"):
        await entrypoint.echo(bytes(17_000_000))
    with pytest.raises(TenantError, match="at most 16,777,216 can be sent"):
        await entrypoint.large(17_000_000)
    assert await entrypoint.greet("after it") == "Hello after it"


async def test_a_chain_of_calls_is_one_call(host: Shards, tenant: str) -> None:
    """With arguments and without, by place and by name, and properties of what comes back."""
    entrypoint = host.tenant(tenant)
    assert await entrypoint.cart().add("tea") == ["tea"]
    assert await entrypoint.cart().add(item="milk") == ["milk"]
    assert await entrypoint.echo(1, a={"b": 2})
    with pytest.raises(TenantError, match="has no method 'nothing'"):
        await entrypoint.cart().nothing()


async def test_entrypoints_are_had_by_name_with_props_and_limits(host: Shards, tenant: str) -> None:
    """As of a host's worker."""
    worker = host.worker(tenant)
    assert worker.tenant_id == tenant
    assert await worker.get_entrypoint("Other").greet("Alice") == "Goodbye Alice"
    assert await worker.get_entrypoint(props={"plan": "pro"}).props() == {"plan": "pro"}
    with pytest.raises(LimitExceeded, match="50 ms of time"):
        await worker.get_entrypoint(limits=Limits(wall_ms=50)).wait()
    with pytest.raises(EntrypointNotFound, match="Nowhere"):
        await worker.get_entrypoint("Nowhere").greet("Alice")
    assert repr(worker) == f"<ShardWorker {tenant!r}>"
    assert repr(worker.get_entrypoint("Other")) == f"<ShardEntrypoint Other of {tenant!r}>"


async def test_what_an_entrypoint_is_asked_for_with_is_checked_at_once(host: Shards, tenant: str) -> None:
    """In the words of a host."""
    worker: Any = host.worker(tenant)
    with pytest.raises(TypeError, match="an entrypoint has a name"):
        worker.get_entrypoint(3)
    with pytest.raises(TypeError, match=r"limits are Limits\(...\), not int"):
        worker.get_entrypoint(limits=3)
    with pytest.raises(ValueError, match="code is one of pinned, latest, migrate"):
        worker.get_entrypoint(code="newest")
    with pytest.raises(AttributeError, match="public"):
        worker.get_entrypoint()._secret  # noqa: B018
    for odd in ("", 3, None):
        with pytest.raises(ValueError, match="a tenant id is text that is not empty"):
            host.tenant(odd)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="surrogates not allowed"):
        await host.tenant("\ud800").greet("Alice")


async def test_what_is_raised_is_what_the_host_raises(host: Shards, tenant: str) -> None:
    """With what it keeps, and its cause."""
    with pytest.raises(TenantError, match="ValueError: no tea") as caught:
        await host.tenant(tenant).fail()
    assert (caught.value.name, caught.value.message) == ("ValueError", "no tea")
    assert "no tea" in caught.value.trace
    with pytest.raises(SandboxDied):
        await host.tenant(tenant).end()
    with pytest.raises(LoadFailed, match="no such tenant") as failed:
        await host.tenant("nobody").greet("Alice")
    assert isinstance(failed.value.__cause__, LookupError)


async def test_a_call_that_is_given_up_is_cancelled_over_there(
    host: Shards, tenant: str, eventually: Eventually
) -> None:
    """And nothing is left of it."""

    async def calls() -> int:
        loaders = [each["loader"] for each in await host.statistics()]
        return int(loaders[host.shard(tenant).number]["calls"])

    waiting = asyncio.ensure_future(host.tenant(tenant).wait())

    async def begun() -> bool:
        return await calls() == 1

    async def over() -> bool:
        return await calls() == 0

    await eventually(begun)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(over)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await host.tenant(tenant).wait()
    await eventually(over)


# Capabilities


async def test_functions_and_objects_go_along_and_are_called_back(host: Shards, tenant: str) -> None:
    """What they raise is the tenant's to hear."""

    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    def refuse(value: int) -> int:
        raise LookupError(f"not {value}")

    assert await host.tenant(tenant).twice(later, 3) == 5
    assert await host.tenant(tenant).twice(lambda value: value * 3, 5) == 45
    with pytest.raises(TenantError, match="LookupError: not 1"):
        await host.tenant(tenant).twice(refuse, 1)


async def test_objects_of_tenants_are_held_and_let_go_of(
    host: Shards, tenant: str, look: Look, eventually: Eventually
) -> None:
    """By the end of a block, by `dispose`, and when nobody has them any longer."""
    before = (await look(tenant))["granted"]

    async def none_is_held() -> bool:
        return bool((await look(tenant))["granted"] == before)

    async with host.tenant(tenant).cart() as cart:
        assert [await cart.add("tea"), await cart.add("milk")] == [["tea"], ["tea", "milk"]]
        assert (await look(tenant))["granted"] == [before[0] + 1]
    await eventually(none_is_held)
    with pytest.raises(CapabilityError, match="disposed"):
        await cart.add("late")
    forgotten = await host.tenant(tenant).cart()
    del forgotten
    await eventually(none_is_held)


async def test_what_a_tenants_object_raises_is_what_the_host_raises(
    host: Shards, tenant: str, look: Look, eventually: Eventually
) -> None:
    """And a stream of its, and the body of a response."""
    before = await look(tenant)

    async def as_before() -> bool:
        now = await look(tenant)
        fewer = all(now[what] <= before[what] for what in ("tasks", "descriptors"))
        return fewer and bool(now["granted"] == before["granted"])

    async with host.tenant(tenant).cart() as cart:
        with pytest.raises(TenantError, match="ValueError: no cart") as caught:
            await cart.fail()
        assert caught.value.name == "ValueError"
        assert 'raise ValueError("no cart")' in caught.value.trace
        assert caught.value.trace.endswith("ValueError: no cart\n")
        with pytest.raises(TenantError, match="CapabilityError: Cart has no method 'nothing'"):
            await cart.nothing()
    numbers = aiter(await host.tenant(tenant).fail_later())
    assert await anext(numbers) == 1
    with pytest.raises(TenantError, match="ValueError: no more tea"):
        await anext(numbers)
    broken = aiter(await host.tenant(tenant).fetch("https://a.example/broken"))
    assert await anext(broken) == b"first"
    with pytest.raises(TenantError, match="ValueError: no second"):
        await anext(broken)
    cart = await host.tenant(tenant).cart()
    for _ in range(2):
        with pytest.raises(SandboxDied, match="exited with 3"):
            await cart.end()
    del cart, numbers, broken
    await eventually(as_before)


async def test_an_object_that_came_from_a_tenant_can_be_given_back(host: Shards, tenants: list[str]) -> None:
    """To it, where it is itself again, and to another one in another shard."""
    async with host.tenant(tenants[0]).cart() as cart:
        assert await host.tenant(tenants[0]).use(cart) == ["used"]
        assert await host.tenant(tenants[1]).use(cart) == ["used", "used"]
        assert await cart.add("tea") == ["used", "used", "tea"]


async def test_an_entrypoint_is_a_binding_where_it_is_given_to_another_tenant(host: Shards, tenants: list[str]) -> None:
    """As a host's is: its methods, and nothing else."""
    assert await host.tenant(tenants[0]).ask(host.tenant(tenants[1])) == "Hello neighbour"
    assert await host.tenant(tenants[0]).ask(host.worker(tenants[0]).get_entrypoint("Other")) == "Goodbye neighbour"


async def test_what_a_tenant_keeps_of_ours_is_held_until_it_lets_go(
    host: Shards, tenant: str, eventually: Eventually
) -> None:
    """Beyond the call that it came with."""
    gone = asyncio.Event()

    class Adder(RpcTarget):
        def add(self, item: int) -> int:
            return item + 1

        def rpc_disposed(self) -> None:
            gone.set()

    exports = host._of(tenant)._process._peer.exports  # type: ignore[union-attr]
    await eventually(lambda: not len(exports))  # of what others have lent
    before = len(exports)
    await host.tenant(tenant).keep(Adder())
    assert len(exports) == before + 1
    assert not gone.is_set()
    await host.tenant(tenant).drop()
    await gone.wait()
    await eventually(lambda: len(exports) == before)


async def test_streams_go_both_ways(host: Shards, tenant: str, look: Look, eventually: Eventually) -> None:
    """Item by item, and are let go of when nobody reads on."""
    before = (await look(tenant))["granted"]

    async def squares() -> AsyncIterator[int]:
        for number in range(500):
            yield number * number

    assert await host.tenant(tenant).total(squares()) == sum(number * number for number in range(500))
    numbers = await host.tenant(tenant).numbers(500)
    assert isinstance(numbers, RemoteStream)
    assert [number async for number in numbers] == list(range(500))
    async with host.tenant(tenant).numbers(10_000) as some:
        assert await anext(some) == 0

    async def none_is_held() -> bool:
        return bool((await look(tenant))["granted"] == before)

    await eventually(none_is_held)


async def test_what_all_tenants_grant_together_has_room_on_one_connection() -> None:
    """Each sandbox has a bound of its own; one that is at it leaves room for the others."""
    peer = peer_over(lambda _: None, greeted=True)
    for _ in range(2):
        peer.encode([RpcTarget() for _ in range(40_000)])
    assert len(peer.exports) == 80_000
    peer.close(LoaderClosed())


async def test_nothing_is_left_of_a_thousand_calls(
    host: Shards, tenant: str, look: Look, eventually: Eventually
) -> None:
    """Neither here nor there: no capability, no task, no descriptor."""
    entrypoint = host.tenant(tenant)
    keeper = host._of(tenant)
    assert keeper._process is not None
    peer = keeper._process._peer

    async def one(number: int) -> None:
        assert await entrypoint.twice(lambda value: value + 1, number) == number + 2
        assert await entrypoint.cart().add(number) == [number]
        async with entrypoint.cart() as cart:
            await cart.add(number)
        with pytest.raises(TenantError):
            await entrypoint.fail()

    await one(0)
    before, tasks = await look(tenant), len(asyncio.all_tasks())
    exported = len(peer.exports)
    for start in range(0, 250, 25):
        await asyncio.gather(*map(one, range(start, start + 25)))

    async def as_before() -> bool:
        now = await look(tenant)
        few = now["descriptors"] < before["descriptors"] + 10  # another sandbox of the tenant's comes, or goes
        return bool(few and now["granted"] == before["granted"] and now["tasks"] <= before["tasks"])

    await eventually(as_before)
    await eventually(lambda: len(peer.exports) == exported and len(asyncio.all_tasks()) <= tasks)
    assert not peer._waiting
    assert not peer._answering._tasks


# Events and requests


async def test_events_are_handed_over(host: Shards, tenant: str) -> None:
    """Such as a moment."""
    await host.tenant(tenant).handle("scheduled", {"cron": "* * * * *", "scheduledTime": 12})
    assert await host.tenant(tenant).seen() == ["* * * * *", 12]


async def test_a_request_is_answered(host: Shards, tenant: str) -> None:
    """By URL and options, or as a `Request`; the answer has its status, headers and body."""
    response = await host.tenant(tenant).fetch("https://shop.example/tea", method="POST", body=b"two")
    assert isinstance(response, Response)
    assert (response.status, dict(response.headers)["x-path"], await response.text()) == (200, "tea", "POST two")
    request = Request("https://shop.example/milk", method="PUT", body="one")
    assert await (await host.tenant(tenant).fetch(request)).text() == "PUT one"
    with pytest.raises(TypeError, match="a Request has its options in it"):
        await host.tenant(tenant).fetch(request, method="POST")
    with pytest.raises(Malformed, match="no absolute URL"):
        await host.tenant(tenant).fetch("tea")


async def test_bodies_stream_both_ways(host: Shards, tenant: str, look: Look, eventually: Eventually) -> None:
    """As fast as they are read, however long they are."""
    before = (await look(tenant))["granted"]

    async def body() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(100_000)

    async with await host.tenant(tenant).fetch("https://a.example/count", method="POST", body=body()) as counted:
        assert (counted.status, await counted.text()) == (201, "3000000")
    response = await host.tenant(tenant).fetch("https://a.example/stream")
    pieces = [piece async for piece in response]
    assert b"".join(pieces) == b"".join(b"%02d" % number + b"." * 50_000 for number in range(40))
    async with await host.tenant(tenant).fetch("https://a.example/hang") as hanging:
        assert await anext(aiter(hanging)) == b"first"

    async def none_is_held() -> bool:
        return bool((await look(tenant))["granted"] == before)

    await eventually(none_is_held)


async def test_a_tenant_is_an_asgi_application(host: Shards, tenant: str) -> None:
    """To be mounted in the front's own service."""
    transport = httpx.ASGITransport(host.asgi(tenant))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        answer = await client.post("/tea", content=b"two")
        assert (answer.status_code, answer.headers["x-path"], answer.text) == (200, "tea", "POST two")
        assert len((await client.get("/stream")).content) == 40 * 50_002
        assert (await client.post("/count", content=bytes(1_000_000))).text == "1000000"


async def test_web_sockets_are_spoken(host: Shards, tenant: str) -> None:
    """And end with what the tenant says."""
    async with await host.tenant(tenant).fetch("https://a.example/chat", headers={"upgrade": "websocket"}) as response:
        assert (response.status, dict(response.headers)["x-a"]) == (101, "b")
        socket = response.web_socket
        assert socket is not None
        assert await anext(socket) == "hello"
        await socket.send("tea")
        assert await anext(socket) == "heard tea"
        await socket.send("bye")
        assert [message async for message in socket] == ["heard bye"]
        assert socket.closed == (3001, "so long")


async def test_a_web_socket_is_under_the_limits_of_its_tenant(host: Shards, tenant: str) -> None:
    """A message that is worked on for too long is given up."""
    await host.tenant(tenant).greet("Alice")
    entrypoint = host.worker(tenant).get_entrypoint(limits=Limits(wall_ms=1500))
    async with await entrypoint.fetch("https://a.example/chat", headers={"upgrade": "websocket"}) as response:
        assert response.web_socket is not None
        with pytest.raises(LimitExceeded, match="worked on for"):
            await response.web_socket.send("stay")


async def test_web_sockets_are_passed_through_by_asgi(host: Shards, tenant: str) -> None:
    """As a server has them, which knows nothing of shards."""
    arriving: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {
        "type": "websocket", "path": "/chat", "raw_path": b"/chat", "query_string": b"", "scheme": "ws",
        "headers": [(b"host", b"a.example")], "subprotocols": [], "root_path": "", "server": ("a.example", 80),
        "client": ("127.0.0.1", 1), "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    application: Any = host.asgi(tenant)
    serving = asyncio.ensure_future(application(scope, arriving.get, sent.put))
    arriving.put_nowait({"type": "websocket.connect"})
    assert (await sent.get())["type"] == "websocket.accept"
    assert (await sent.get())["text"] == "hello"
    arriving.put_nowait({"type": "websocket.receive", "text": "tea"})
    assert (await sent.get())["text"] == "heard tea"
    arriving.put_nowait({"type": "websocket.receive", "text": "bye"})
    assert (await sent.get())["text"] == "heard bye"
    end = await sent.get()
    assert (end["type"], end["code"]) == ("websocket.close", 3001)
    await serving


# Tenants as a whole


async def test_tenants_are_ended_switched_and_drained(host: Shards, folder: Path, tenant: str) -> None:
    """Each in its shard."""
    assert await host.tenant(tenant).number() == "none"
    (folder / "number").write_text("two")
    assert await host.redeploy(tenant) is True
    assert await host.tenant(tenant).number() == "two"
    (folder / "number").unlink()
    assert await host.evict(tenant) is True
    assert await host.evict(tenant) is False
    assert await host.tenant(tenant).number() == "none"
    assert await host.drain(tenant) is True
    assert await host.tenant(tenant).greet("again") == "Hello again"


async def test_a_drain_says_whether_all_came_to_its_end_in_time(host: Shards, tenants: list[str]) -> None:
    """Here what waits for ever does not, and is ended."""
    waiting = asyncio.ensure_future(host.tenant(tenants[0]).wait())
    assert await host.tenant(tenants[0]).greet("Alice") == "Hello Alice"
    assert await host.drain(tenants[1], timeout=0.05) is True
    assert await host.drain(tenants[0], timeout=0.05) is False
    with pytest.raises(SandboxDied):
        await waiting


async def test_statistics_are_those_of_each_shard(host: Shards, tenants: list[str]) -> None:
    """Of its loader and of its engine."""
    for tenant_id in tenants:
        await host.tenant(tenant_id).greet("Alice")
    found = await host.statistics()
    assert len(found) == len(host) == 2
    for each in found:
        assert each["loader"]["warm"] >= 1
        assert each["engine"]["commits"] >= 1


async def test_a_shard_leaves_signals_to_the_front(host: Shards, tenant: str, look: Any) -> None:
    """A service manager may send one to every process that there is."""
    before = await look(tenant)
    process = host._of(tenant)._process
    assert process is not None
    for word in (signal.SIGINT, signal.SIGTERM):
        signal.pidfd_send_signal(process._pidfd, word)
    assert (await look(tenant))["pid"] == before["pid"]


async def test_shards_are_processes_of_their_own(host: Shards, tenants: list[str], look: Look) -> None:
    """In sessions of their own, with this process's path; what they begin takes signals as ever, and has no part of the
    connection."""
    found = [await look(tenant_id) for tenant_id in tenants]
    assert len({os.getpid(), *(each["pid"] for each in found)}) == 3
    for each in found:
        assert each["session"] == each["pid"]
        assert each["child"] == "[False, False]"
        assert each["inheritable"] == []
        assert each["path"] == sys.path
