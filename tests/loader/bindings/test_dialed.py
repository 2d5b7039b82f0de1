"""Web sockets of servers on the network, which tenants open by way of what the host granted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import websockets

from cloister.loader import TenantError, WorkerStub
from cloister.loader.bindings import Egress, Fetcher, FetchLimits, Network, Rule, dialed

Make = Callable[..., WorkerStub]

SOURCE = """
import asyncio, js
from workers import WorkerEntrypoint, fetch

class Default(WorkerEntrypoint):
    async def go(self, url, messages):
        socket, seen, over = js.WebSocket.new(url, ["tea"]), [], asyncio.Event()
        def opened(event):
            seen.append(["open", socket.protocol])
            for message in messages:
                socket.send(message)
        def ended(event):
            seen.append(["close", event.code, event.reason, event.wasClean])
            over.set()
        def heard(event):
            seen.append(event.data if len(event.data) < 100 else len(event.data))
        socket.onopen, socket.onclose, socket.onmessage = opened, ended, heard
        socket.onerror = lambda event: seen.append(["error", event.message])
        await over.wait()
        return seen

    async def fetch(self, request):
        path = request.url.rpartition("/")[2]
        return await fetch(f"{self.env.AT}/{path}", headers=request.headers)

    async def leave(self):
        await fetch(self.env.AT, headers={"Upgrade": "websocket", "Sec-WebSocket-Protocol": "tea"})
"""


async def speaks(socket: Any) -> None:
    """A server that says everything again, and some things else."""
    await socket.send(f"hello {socket.request.path} {socket.request.headers.get('x-a', '')}".strip())
    async for message in socket:
        match message:
            case "bye":
                await socket.close(4000, "so long")
            case "cut":
                socket.transport.abort()
            case "much":
                await socket.send("x" * 20_000)
            case _:
                await socket.send(message)


class Web:
    """The server, a way to it, and what is known of that."""

    def __init__(self, port: int, **limits: Any) -> None:
        self.at, self.log = f"127.0.0.1:{port}", asyncio.Queue[Egress]()
        rule = Rule(origin=f"http://{self.at}", private=True, headers={"x-a": "b"})
        self.fetcher = Fetcher(allow=[rule], limits=FetchLimits(**limits), log=self.log.put_nowait)

    def has_time(self) -> None:
        """What is asked for from now on may take as long as it usually may."""
        self.fetcher._network.limits = replace(self.fetcher._network.limits, total_s=FetchLimits().total_s)


@pytest.fixture
def opened(runner: asyncio.Runner) -> Iterator[Callable[..., Web]]:
    """Make a way to the server, which is there as long as the test."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[Any]:
        async with websockets.serve(speaks, "127.0.0.1", 0, subprotocols=["tea"], max_size=None) as server:  # type: ignore[list-item]
            yield server

    context, ways = serving(), list[Web]()
    server = runner.run(context.__aenter__())

    def make(**limits: Any) -> Web:
        ways.append(Web(server.sockets[0].getsockname()[1], **limits))
        return ways[-1]

    yield make
    for way in ways:
        runner.run(way.fetcher.__aexit__(None, None, None))
    runner.run(context.__aexit__(None, None, None))


async def test_a_server_on_the_network_is_spoken_to(worker: Make, opened: Callable[..., Web]) -> None:
    """Text and bytes of any length, with the host's headers and the protocol that was agreed on, to either side's end;
    and it is on the record when it is over."""
    web = opened()
    entry = worker(SOURCE, global_outbound=web.fetcher).get_entrypoint()
    assert await entry.go(f"ws://{web.at}/a?b", ["hi", b"\0", "x" * 200_000, "bye"]) == [
        ["open", "tea"], "hello /a?b b", "hi", b"\0", 200_000, ["close", 4000, "so long", True],
    ]  # fmt: skip
    record = await web.log.get()
    assert (record.status, record.url, record.error) == (101, f"http://{web.at}/a", "")
    assert min(record.sent_bytes, record.received_bytes) > 200_000


async def test_what_goes_wrong_is_an_error_and_the_end(worker: Make, opened: Callable[..., Web]) -> None:
    """A connection that breaks, a message that is too long, a place that may not be reached, a server that says no."""
    web = opened(message_bytes=10_000)
    entry = worker(SOURCE, global_outbound=web.fetcher).get_entrypoint()
    hello = [["open", "tea"], "hello / b"]
    lost = [["error", "the connection was lost"], ["close", 1006, "the connection was lost", False]]
    assert await entry.go(f"ws://{web.at}/", ["cut"]) == [*hello, *lost]
    assert await entry.go(f"ws://{web.at}/", ["much"]) == [*hello, *lost]
    for url, words in (
        ("ws://elsewhere.example/", "not among the places"),
        (f"wss://{web.at}/", "not among the places"),
    ):
        (kind, told), (_, code, *_) = await entry.go(url, [])
        assert (kind, code, words in told) == ("error", 1006, True)
    response = await worker(SOURCE, global_outbound=web.fetcher, env={"AT": f"http://{web.at}"}).get_entrypoint().fetch(
        "https://a.b/", headers={"upgrade": "websocket"}
    )  # fmt: skip
    assert response.status == 400  # for want of a protocol


async def test_a_server_that_has_not_understood_is_no_partner(worker: Make, server: Any) -> None:
    """What says that it switches to something, and does not know the key that it was sent."""
    lines = "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Sec-WebSocket-Accept: nonsense", "", ""
    server.answer = lambda *_: "\r\n".join(lines).encode()
    async with Fetcher(allow=[Rule(origin=server.url, private=True)], log=lambda record: None) as fetcher:
        seen = await worker(SOURCE, global_outbound=fetcher).get_entrypoint().go(f"ws{server.url[4:]}", [])
    assert seen[0] == ["error", "ConnectionError: the server switched to something that nobody has asked for"]


async def test_one_that_is_passed_on_is_spoken_on_by_whoever_has_it(worker: Make, opened: Callable[..., Web]) -> None:
    """Also when the sandbox that opened it has gone; and it counts as a request under way for as long as it is open."""
    asked = {"upgrade": "websocket", "sec-websocket-protocol": "tea"}
    for seconds in (0.5, 5.0, 50.0):  # a machine that is too busy to open one in time has more of it
        web = opened(at_once=1, at_once_per_tenant=1, total_s=seconds)
        entry = worker(SOURCE, global_outbound=web.fetcher, env={"AT": f"http://{web.at}"}).get_entrypoint()
        try:
            response = await entry.fetch("https://a.b/c", headers=asked)
            break
        except TenantError as error:
            assert "took too long" in str(error)  # noqa: PT017 - nor is it sure to be raised
    async with response:
        socket: Any = response.web_socket
        assert await anext(socket) == "hello /c b"
        seen = await entry.go(f"ws://{web.at}/", [])
        assert seen[0][0] == "error"
        assert "no turn came" in seen[0][1]
        await socket.send("still there")  # long after a request would have had to be over
        assert await anext(socket) == "still there"
    web.has_time()
    assert (await entry.go(f"ws://{web.at}/", ["bye"]))[0] == ["open", "tea"]


async def test_one_that_nobody_wants_is_closed(
    worker: Make, opened: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it takes no turn from others for longer than a silent request would."""
    web, response = opened(at_once=1, at_once_per_tenant=1, idle_s=100.0), dialed.response
    entry = worker(SOURCE, global_outbound=web.fetcher, env={"AT": f"http://{web.at}"}).get_entrypoint()
    with monkeypatch.context() as patch:
        patch.setattr(dialed, "response", lambda a, b, c, d, _: response(a, b, c, d, 0.1))
        await entry.leave()
    assert (await entry.go(f"ws://{web.at}/", ["bye"]))[-1] == ["close", 4000, "so long", True]


async def test_open_ones_leave_turns_for_requests(opened: Callable[..., Web]) -> None:
    """They have no deadline: a few tenants could else keep all others from the network for ever. Half is theirs."""
    at = opened().at
    limits = FetchLimits(at_once=4, at_once_per_tenant=2)
    async with Network(limits=limits, log=lambda record: None) as network:
        rule = Rule(origin=f"http://{at}", private=True)
        one, two = (Fetcher(allow=[rule], tenant=name, network=network) for name in ("one", "two"))
        asked = {"headers": {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "tea"}}
        dialed = [await one.fetch(f"http://{at}/", asked) for _ in range(2)]
        waiting = asyncio.ensure_future(two.fetch(f"http://{at}/", asked))
        for _ in range(3):
            assert (await two.fetch(f"http://{at}/")).attributes["status"] == 426
        assert not waiting.done()
        dialed.pop().dropped()
        dialed.append(await waiting)
        assert [sent.attributes["status"] for sent in dialed] == [101, 101]
        for sent in dialed:
            sent.dropped()
