"""Web sockets: a tenant accepts them and its host speaks them, with a client on a real server and without one."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets

from cloister.ipc import CodecError, RpcTarget
from cloister.loader import CodeError, Limits, Loader, TenantError, WorkerCode, WorkerStub
from cloister.loader.bindings import DurableObjects, Fetcher, StorageQuotaExceeded, hibernation
from cloister.loader.http import HttpLimits, Response, asgi
from cloister.loader.http.outgoing import Overrun
from cloister.loader.http.sockets import Closed, WebSocket
from cloister.sandbox import LimitExceeded, SandboxError

Make = Callable[..., WorkerStub]
Code = Callable[..., WorkerCode]
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UPGRADE = {"headers": {"upgrade": "websocket"}}

ECHO = """
import asyncio
from workers import Response, WorkerEntrypoint
from js import WebSocketPair
from pyodide.ffi import create_proxy

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.headers.get("Upgrade") != "websocket":
            return Response("Expected a WebSocket upgrade", status=426)
        if request.url.endswith("/no"):
            return Response("not you", status=403, headers={"x-a": "b"})
        client, server = WebSocketPair.new().object_values()
        server.accept()

        async def heard(event):
            match event.data:
                case "bye":
                    server.close(3001, "so long")
                case "fail":
                    raise ValueError("no tea")
                case "many":
                    for n in range(40):
                        server.send(b"%d" % n + b"x" * 900_000)
                case "long":
                    server.send("x" * 2_000_000)
                case "longer":
                    server.send(b"x" * 17_000_000)
                case "half":
                    server.send("a\\ud83d \\ud83d\\ude00")
                    server.close(2999, "half \\ud83d")
                case "stay":
                    await asyncio.Event().wait()
                case "linger":
                    server.addEventListener("close", lambda event: asyncio.Event().wait())
                case "pour":
                    server.send("x" * 900_000)
                    asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(heard(event)))
                case "wait":
                    await self.env.GATE.wait()
                    server.send("waited")
                case "open":
                    await self.env.GATE.open()
                case other:
                    server.send(other)

        async def ended(event):
            await self.env.GATE.told([event.code, event.reason, event.wasClean, server.readyState])

        server.addEventListener("message", create_proxy(heard))
        server.addEventListener("close", create_proxy(ended))
        server.send("hello")
        offered = request.headers.get("sec-websocket-protocol") or ""
        chosen = {"sec-websocket-protocol": "tea"} if "tea" in offered else {}
        return Response(None, status=101, headers={**chosen, "x-a": "b"}, web_socket=client)
"""


class Gate(RpcTarget):
    """What a tenant waits for, and what it has told."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self.ends: asyncio.Queue[Any] = asyncio.Queue()

    async def wait(self) -> None:
        """Until it is open."""
        await self._opened.wait()

    async def open(self) -> None:
        """It is."""
        self._opened.set()

    async def told(self, what: Any) -> None:
        """How something ended."""
        await self.ends.put(what)


@pytest.fixture
def gate(runner: asyncio.Runner) -> Gate:
    """The gate of this test."""

    async def make() -> Gate:
        return Gate()

    return runner.run(make())


@pytest.fixture
def echo(worker: Make, gate: Gate) -> Any:
    """A tenant that says everything again."""
    return worker(ECHO, env={"GATE": gate}).get_entrypoint()


connect = functools.partial(websockets.connect, open_timeout=100)


def spoken_on(response: Any) -> WebSocket:
    """Its web socket."""
    assert isinstance(response.web_socket, WebSocket)
    return response.web_socket


@asynccontextmanager
async def served(application: Any) -> AsyncIterator[str]:
    """The URL of a real server for an application."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_level="error"))
        serving = asyncio.ensure_future(server.serve([listening]))
        try:
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def test_a_host_speaks_on_a_tenants_web_socket(echo: Any, gate: Gate) -> None:
    """Text and bytes, in order, until one of them ends it."""
    response = await echo.fetch("http://a.b/", **UPGRADE)
    assert (response.status, response.headers) == (101, (("x-a", "b"),))
    async with response:
        talk = spoken_on(response)
        assert await anext(talk) == "hello"
        for message in ("tea", b"\x00\xff", "ä" * 300_000, b"x" * 900_000):
            await talk.send(message)
            assert await anext(talk) == message
        await talk.close(4000, "enough")
        assert await gate.ends.get() == [4000, "enough", True, 3]
        assert talk.closed == Closed(4000, "enough")
        with pytest.raises(ConnectionResetError, match="is closed"):
            await talk.send("more")


async def test_a_tenant_ends_it(echo: Any, gate: Gate) -> None:
    """With a code and a reason; what it had said before is heard."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("bye")
        assert [message async for message in spoken_on(response)] == ["hello"]
        assert spoken_on(response).closed == Closed(3001, "so long")
        assert (await gate.ends.get())[0] == 3001


async def test_one_message_waits_for_another(echo: Any) -> None:
    """What is done about one does not hold up those after it."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        talk = spoken_on(response)
        assert await anext(talk) == "hello"
        waiting = asyncio.ensure_future(talk.send("wait"))
        await talk.send("open")
        await waiting
        assert await anext(talk) == "waited"


async def test_no_message_overtakes_those_that_wait_for_the_beginning(echo: Any) -> None:
    """However early it comes after."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        talk = spoken_on(response)
        first = asyncio.ensure_future(talk.send("first"))
        opening = asyncio.ensure_future(talk.open())
        while talk._line is None or not talk._line.done():  # noqa: ASYNC110 - in each turn of the loop
            await asyncio.sleep(0)
        await talk.send("second")
        await asyncio.gather(first, opening)
        assert [await anext(talk) for _ in range(3)] == ["hello", "first", "second"]


async def test_what_a_listener_raises_is_logged_and_the_next_message_heard(
    worker: Make, gate: Gate, eventually: Any
) -> None:
    """As in a browser."""
    lines: list[Any] = []
    stub = worker(ECHO, env={"GATE": gate}, streaming_tails=(lines.append,))
    async with await stub.get_entrypoint().fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("fail")
        await spoken_on(response).send("still")
        assert [await anext(spoken_on(response)) for _ in range(2)] == ["hello", "still"]
    await eventually(lambda: any("ValueError: no tea" in getattr(line, "text", "") for line in lines))


async def test_a_message_that_is_too_long_ends_it(echo: Any) -> None:
    """Whatever the tenant thinks of it."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("long")
        assert [message async for message in spoken_on(response)] == ["hello"]
        assert (spoken_on(response).closed or Closed(0, "")).code == 1009


async def test_much_that_is_sent_at_once_comes_in_order(echo: Any) -> None:
    """However much it is together."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("many")
        assert await anext(spoken_on(response)) == "hello"
        for number in range(40):
            message = await anext(spoken_on(response))
            assert isinstance(message, bytes)
            assert (message[:2].rstrip(b"x"), len(message) > 900_000) == (b"%d" % number, True)


async def test_what_no_frame_can_have_ends_it_all_the_same(echo: Any) -> None:
    """However long a message is; half a character becomes a sign, and so does a code that no server sends."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("longer")
        assert [message async for message in spoken_on(response)] == ["hello"]
        assert spoken_on(response).closed == Closed(1009, "a message is longer than can be sent")
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("half")
        assert [message async for message in spoken_on(response)] == ["hello", "a\ufffd \U0001f600"]
        assert spoken_on(response).closed == Closed(1000, "half ?")


async def test_a_message_of_the_hosts_that_cannot_be_sent_ends_nothing(echo: Any) -> None:
    """It is none of the tenant's doing."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        for message in ("\ud83d", b"x" * 17_000_000):
            with pytest.raises(CodecError):
                await spoken_on(response).send(message)
        await spoken_on(response).send("tea")
        assert [await anext(spoken_on(response)) for _ in range(2)] == ["hello", "tea"]


async def test_who_is_told_of_the_end_holds_nobody(echo: Any) -> None:
    """Whatever the tenant does about it."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("linger")
        spoken_on(response).idle_s = 0.05


@pytest.mark.parametrize(("words", "times"), [("linger", 1), ("stay", 1), ("stay", 70)])
async def test_a_client_that_has_gone_is_let_go_of(
    loader: Loader, echo: Any, eventually: Any, words: str, times: int
) -> None:
    """Whatever its tenant is doing, and with how many messages: nothing of it is left, and the sandbox may leave."""
    application = asgi(echo, limits=HttpLimits(idle_s=0.05))
    async with served(application) as url:
        before = len(asyncio.all_tasks())
        async with connect(url) as client:
            assert await client.recv() == "hello"
            for _ in range(times):
                await client.send(words)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        await asyncio.wait_for(loader.drain(echo._stub.tenant_id), 100)


async def test_a_client_that_takes_nothing_is_let_go_of(
    loader: Loader, echo: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And what its tenant sends it, too."""
    async with served(asgi(echo, limits=HttpLimits(idle_s=0.1))) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, HANDSHAKE)
            assert b" 101 " in await loop.sock_recv(client, 1000)
            await loop.sock_sendall(client, b"\x81\x84\0\0\0\0pour")
            await eventually(lambda: "took nothing" in caplog.text)
            await asyncio.wait_for(loader.drain(echo._stub.tenant_id), 100)


async def test_it_ends_with_its_sandbox(loader: Loader, echo: Any) -> None:
    """Which is told to whoever listens; and the sandbox stays while it is open."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        assert await anext(spoken_on(response)) == "hello"
        assert loader.evict(echo._stub.tenant_id)
        assert [message async for message in spoken_on(response)] == []
        assert (spoken_on(response).closed or Closed(0, "")).code == 1012


async def test_a_response_that_is_dropped_ends_it(echo: Any, gate: Gate) -> None:
    """Also if nobody ever spoke on it."""
    async with await echo.fetch("http://a.b/", **UPGRADE) as response:
        assert await anext(spoken_on(response)) == "hello"
    assert (await gate.ends.get())[0] == 1000


async def test_a_client_speaks_to_a_tenant(echo: Any, gate: Gate) -> None:
    """By way of a server that speaks web sockets, with the protocol that was chosen."""
    async with served(asgi(echo)) as url:
        async with connect(url, subprotocols=[websockets.Subprotocol("tea")]) as client:
            assert (client.subprotocol, client.response and client.response.headers["x-a"]) == ("tea", "b")
            for number in range(200):
                await client.send(f"{number}")
            assert [await client.recv() for _ in range(201)] == ["hello", *(f"{number}" for number in range(200))]
            await client.send(b"\x00")
            assert await client.recv() == b"\x00"
        assert (await gate.ends.get())[:2] == [1000, ""]
        async with connect(url) as client:
            await client.send("bye")
            assert await client.recv() == "hello"
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await client.recv()
            assert ended.value.rcvd is not None
            assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (3001, "so long")


async def test_a_tenant_says_no(echo: Any) -> None:
    """In its own words; and by HTTP it is asked as ever."""
    async with served(asgi(echo)) as url:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(f"{url}/no")
        assert refused.value.response.status_code == 403
        assert refused.value.response.body == b"not you"
        assert refused.value.response.headers["x-a"] == "b"
    assert (await echo.fetch("http://a.b/")).status == 426


@pytest.mark.parametrize(("limits", "takes", "words"), [
    (HttpLimits(response_bytes=1000), True, "longer than 1,000 bytes"),
    (HttpLimits(idle_s=0.05), True, "^$"),
    (HttpLimits(idle_s=0.05), False, "the client took nothing of the response for 0.05 s"),
])  # fmt: skip
async def test_a_no_holds_nobody_longer_than_a_yes(limits: HttpLimits, takes: bool, words: str) -> None:
    """It may have a body, which is bounded like any other."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100
        await asyncio.Event().wait()

    class Refuses:
        async def fetch(self, _: Any, /) -> Response:
            return Response(endless(), 403)

    async def send(event: Any) -> None:
        if not takes and event.get("body"):
            await asyncio.Event().wait()

    events = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        return next(events, None) or await asyncio.Event().wait()

    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": [(b"host", b"a.b")],
             "extensions": {"websocket.http.response": {}}}  # fmt: skip
    answering = asyncio.ensure_future(asgi(Refuses(), limits=limits)(scope, receive, send))
    ended, _ = await asyncio.wait({answering}, timeout=60)
    answering.cancel()
    assert ended
    with pytest.raises((Overrun, TimeoutError), match=words):
        answering.result()


async def test_a_clients_message_that_is_too_long_ends_it(echo: Any) -> None:
    """Before the tenant has it."""
    async with served(asgi(echo, limits=HttpLimits(message_bytes=1000))) as url, connect(url) as client:
        assert await client.recv() == "hello"
        await client.send("x" * 1001)
        with pytest.raises(websockets.ConnectionClosed) as ended:
            await client.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009
    async with served(asgi(echo, limits=HttpLimits(message_bytes=1000))) as url, connect(url) as client:
        assert await client.recv() == "hello"
        await client.send("\u00e4" * 501)  # which are two bytes each
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()


async def test_a_tenant_that_took_both_ends_is_blamed(worker: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The client hears that it failed, and the log has it."""
    source = ECHO.replace("server.accept()", "server.accept(); client.accept()")
    async with served(asgi(worker(source).get_entrypoint())) as url, connect(url) as client:
        with pytest.raises(websockets.ConnectionClosed) as ended:
            await client.recv()
    assert ended.value.rcvd is not None
    assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1011, "The worker raised an exception.")
    assert "after calling accept()" in caplog.text


async def test_who_did_not_ask_for_one_gets_none(worker: Make) -> None:
    """A tenant that answers so to plain HTTP is at fault."""
    source = """
    from workers import *
    from js import WebSocketPair
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return Response(None, status=101, web_socket=WebSocketPair.new()[0])
    """
    said = await spoken(asgi(worker(source).get_entrypoint()))
    assert said[0]["status"] == 500


async def spoken(application: Any) -> list[Any]:
    """What an application says to a request."""
    said: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": [],
             "scheme": "http"}  # fmt: skip
    events = iter([{"type": "http.request"}])

    async def receive() -> Any:
        event = next(events, None)
        return event if event is not None else await asyncio.Event().wait()

    async def send(event: Any) -> None:
        said.append(event)

    await application(scope, receive, send)
    return said


async def test_misuse_is_answered_in_javascripts_words(worker: Make) -> None:
    """Before accepting, after the end, and with what is no message, or no address."""
    source = """
    import js
    from workers import *
    def told(way):
        try:
            way()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    class Default(WorkerEntrypoint):
        async def go(self):
            one, other = js.WebSocketPair.new().object_values()
            found = [told(lambda: one.send("x"))]
            one.accept()
            found += [told(lambda: one.send(1)), told(lambda: one.close(1005)), one.readyState]
            one.close()
            one.close()
            found += [one.readyState, told(lambda: one.send("x"))]
            one.close(1005)  # which would be no code, if there were still something to close
            found += [told(lambda: Response(None, web_socket=other)), told(lambda: js.WebSocket.new("nowhere"))]
            try:
                await fetch("http://a.b", method="POST", headers={"Upgrade": "websocket"})
            except TypeError as error:
                found.append(str(error))
            return found
    """
    found = await worker(source, global_outbound=Fetcher(allow=["http://a.b"])).get_entrypoint().go()
    assert found == [
        "TypeError: You must call accept() on this WebSocket before sending messages.",
        "TypeError: a message is text or bytes, not int", "TypeError: Invalid WebSocket close code.", 1, 2,
        "TypeError: Can't call WebSocket send() after close().",
        "TypeError: Responses with a WebSocket must have status code 101, and no body.",
        "TypeError: Invalid URL: 'nowhere'",
        "a web socket is asked for with GET, not POST",
    ]  # fmt: skip


CALLS = """
import asyncio, js
from pyodide.ffi import create_proxy
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def go(self, url, messages):
        socket = js.WebSocket.new(url, ["chat"])
        seen, over = [], asyncio.Event()
        def opened(event):
            seen.append(["open", socket.readyState, socket.url == url])
            for message in messages:
                socket.send(message)
        def ended(event):
            seen.append(["close", event.code, event.reason, event.wasClean, socket.readyState])
            over.set()
        try:
            socket.send("too early")
        except TypeError as error:
            seen.append([str(error), socket.readyState])
        socket.addEventListener("open", create_proxy(opened))
        socket.onmessage = create_proxy(lambda event: seen.append(event.data))
        socket.addEventListener("error", create_proxy(lambda event: seen.append(["error", event.message])))
        socket.addEventListener("close", create_proxy(ended))
        await over.wait()
        return seen
"""


async def test_a_worker_opens_a_web_socket_by_an_address(worker: Make, echo: Any) -> None:
    """By way of what is granted for the network. What fails is told as JavaScript does: an error, and then the end."""
    early = ["Can't call WebSocket send() before it is open.", 0]
    calls = worker(CALLS, global_outbound=echo).get_entrypoint()
    assert await calls.go("wss://a.b/yes", ["hi", b"\0", "bye"]) == [
        early, ["open", 1, True], "hello", "hi", b"\0", ["close", 3001, "so long", True, 3]
    ]  # fmt: skip
    for outbound, url, words in (
        (echo, "wss://a.b/no", "OSError: wss://a.b/no answered 403, and opened no web socket"),
        (None, "ws://a.b/", "not permitted to reach the network"),
    ):
        seen = await worker(CALLS, global_outbound=outbound).get_entrypoint().go(url, [])
        assert seen[0] == early
        assert seen[1][0] == "error"
        assert words in seen[1][1]
        assert (seen[2][:2], seen[2][3:]) == (["close", 1006], [False, 3])


async def test_an_attachment_is_what_it_was_when_it_was_made(worker: Make) -> None:
    """What becomes of the value afterwards is not kept, whoever has it."""
    source = """
    from js import WebSocketPair
    from pyodide.ffi import to_js
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            one, found = WebSocketPair.new()[0], []
            for value in ({"n": [1]}, to_js({"n": [1]})):
                one.serializeAttachment(value)
                value["n"].append(2)
                one.deserializeAttachment()["n"].append(3)
                found.append(one.deserializeAttachment()["n"])
            return [len(one) for one in found]
    """
    assert await worker(source).get_entrypoint().go() == [1, 1]


ROOM = """
import json
from js import WebSocketPair, WebSocketRequestResponsePair, Object
from pyodide.ffi import to_js
from workers import DurableObject, Response, WorkerEntrypoint

class Room(DurableObject):
    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        ctx.setWebSocketAutoResponse(WebSocketRequestResponsePair.new("ping", "pong"))

    async def fetch(self, request):
        client, server = WebSocketPair.new()
        self.ctx.acceptWebSocket(server, to_js([request.url.rpartition("/")[2]]))
        server.serializeAttachment(to_js({"n": len(self.ctx.getWebSockets())}))
        return Response(None, status=101, web_socket=client)

    async def webSocketMessage(self, ws, message):
        count = await self.ctx.storage.get("count") or 0
        await self.ctx.storage.put("count", count + 1)
        for one in self.ctx.get_websockets("tea"):
            one.send(f"{ws.deserializeAttachment().n}: {message} {count} {self.ctx.getTags(ws)[0]}")
        if message == "fail":
            raise ValueError("no tea")

    async def webSocketClose(self, ws, code, reason, wasClean):
        await self.env.GATE.told([code, reason, wasClean, len(self.ctx.getWebSockets())])

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.url.endswith("/flood"):
            return await self.flood()
        if not request.url.endswith("/relay"):
            return await self.env.ROOMS.getByName("a").fetch(request)
        asked = self.env.ROOMS.getByName("a").fetch("http://a.b/coffee", {"headers": {"Upgrade": "websocket"}})
        room = (await asked).webSocket
        room.accept()
        client, server = WebSocketPair.new().object_values()
        server.accept()
        server.addEventListener("message", lambda event: room.send(event.data))
        server.addEventListener("close", lambda event: room.close(event.code, "relayed"))
        return Response(None, status=101, web_socket=client)

    async def flood(self):
        from cloister.sandbox.guest.sockets import Line
        asked = self.env.ROOMS.getByName("a").fetch("http://a.b/coffee", {"headers": {"Upgrade": "websocket"}})
        stub = (await asked).webSocket._from
        way = await stub.connect(Line(WebSocketPair.new()[1]))
        client, server = WebSocketPair.new().object_values()
        server.accept()

        async def heard(event):
            try:
                await way.receive([""] * int(event.data))
            except Exception as error:
                await self.env.GATE.told([str(error)])
        server.addEventListener("message", heard)
        return Response(None, status=101, web_socket=client)
"""


@pytest.fixture
def rooms(runner: asyncio.Runner, loader: Loader, code: Code, gate: Gate, tmp_path: Path) -> Iterator[Any]:
    """A tenant with a room that all who come are in."""
    tenant_id = f"rooms-{tmp_path.name}"
    objects = DurableObjects(tmp_path / "objects", lambda tenant: loader.get(tenant, lambda: made))
    made = code(ROOM, env={"ROOMS": objects.namespace(tenant_id, "Room"), "GATE": gate})
    runner.run(objects.__aenter__())
    yield loader.get(tenant_id, lambda: made).get_entrypoint()
    runner.run(objects.__aexit__())


async def test_a_durable_object_is_called_for_each_message(rooms: Any, gate: Gate) -> None:
    """And knows all that are open, by tags, with what it has kept with each; some answers it has given in advance."""
    async with (
        await rooms.fetch("http://a.b/tea", **UPGRADE) as one,
        await rooms.fetch("http://a.b/tea", **UPGRADE) as two,
    ):
        first, second = spoken_on(one), spoken_on(two)
        await asyncio.gather(first.open(), second.open())
        await second.send("hi")
        assert [await anext(first), await anext(second)] == ["2: hi 0 tea"] * 2
        await first.send("ping")
        assert await anext(first) == "pong"
        await first.send("fail")
        await first.send("on")
        assert [await anext(second) for _ in range(2)] == ["1: fail 1 tea", "1: on 2 tea"]
        await first.close(4001, "gone")
        assert await gate.ends.get() == [4001, "gone", True, 1]


@pytest.mark.parametrize("way", ["evict", "redeploy"])
async def test_an_object_may_leave_while_its_sockets_are_open(
    loader: Loader, rooms: Any, gate: Gate, way: str, eventually: Any
) -> None:
    """It is made anew for the next message, and finds them with their tags and what it has kept with each. What it has
    answered in advance does not wake it."""
    tenant = rooms._stub.tenant_id
    async with (
        await rooms.fetch("http://a.b/tea", **UPGRADE) as one,
        await rooms.fetch("http://a.b/coffee", **UPGRADE) as two,
    ):
        first, second = spoken_on(one), spoken_on(two)
        await asyncio.gather(first.open(), second.open())
        await second.send("hi")
        assert await anext(first) == "2: hi 0 coffee"
        for number in range(1, 3):
            if way == "evict":
                await eventually(lambda: loader.evict(tenant))  # nobody uses it
                boots = loader.statistics().boots
                await first.send("ping")
                assert await anext(first) == "pong"
                assert loader.statistics().boots == boots
            else:
                assert await loader.redeploy(tenant)
            await second.send("still")
            assert await anext(first) == f"2: still {2 * number - 1} coffee"
            await first.send("there")
            assert await anext(first) == f"1: there {2 * number} tea"
        assert (first.closed, second.closed) == (None, None)
        loader.evict(tenant)
        await second.close(4002, "home")
        assert await gate.ends.get() == [4002, "home", True, 1]


HOTEL = """
from js import WebSocketPair
from workers import DurableObject, Response, WorkerEntrypoint

class Room(DurableObject):
    async def fetch(self, request):
        client, server = WebSocketPair.new()
        self.ctx.acceptWebSocket(server, ["a"])
        server.serializeAttachment({"n": [1]})
        server.send("early")
        if request.url.endswith("/brief"):
            self.ctx.setHibernatableWebSocketEventTimeout(300)
        return Response(None, status=101, web_socket=client)

    async def webSocketMessage(self, ws, message):
        if message == "stay":
            import asyncio
            await asyncio.Event().wait()
        if message == "large":
            try:
                ws.serializeAttachment("x" * 20_000)
            except TypeError as error:
                ws.send(str(error))
        if message == "leave":
            ws.close(3000, "enough")

    async def webSocketError(self, ws, error):
        await self.env.GATE.told(["error", str(error), ws.deserializeAttachment(), self.ctx.getTags(ws)])

    async def webSocketClose(self, ws, code, reason, wasClean):
        await self.env.GATE.told([code, reason, wasClean])

    def open(self):
        return [self.ctx.getHibernatableWebSocketEventTimeout(), *(ws.readyState for ws in self.ctx.getWebSockets())]

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return await self.env.ROOMS.getByName("a").fetch(request)
    async def open(self):
        return await self.env.ROOMS.getByName("a").open()
    async def intrude(self):
        return await self.env.ROOMS.getByName("a").webSocketMessage(1, "x")
"""


@pytest.fixture
def hotel(runner: asyncio.Runner, loader: Loader, code: Code, gate: Gate, tmp_path: Path) -> Iterator[Any]:
    """A tenant with an object that does odd things."""
    tenant_id = f"hotel-{tmp_path.name}"
    objects = DurableObjects(tmp_path / "objects", lambda tenant: loader.get(tenant, lambda: made))
    made = code(HOTEL, env={"ROOMS": objects.namespace(tenant_id, "Room"), "GATE": gate})
    runner.run(objects.__aenter__())
    yield loader.get(tenant_id, lambda: made).get_entrypoint()
    runner.run(objects.__aexit__())


async def test_a_connection_that_breaks_is_told_to_its_object(loader: Loader, hotel: Any, gate: Gate) -> None:
    """As an error, and as an end that nobody has said; also to one that has left meanwhile."""
    async with await hotel.fetch("http://a.b/", **UPGRADE) as response:
        assert await anext(spoken_on(response)) == "early"
        loader.evict(hotel._stub.tenant_id)
        await spoken_on(response).close(1006, "")  # as servers say it of whoever has not closed
        words = "WebSocket disconnected without sending Close frame."
        assert await gate.ends.get() == ["error", f"Error: {words}", {"n": [1]}, ["a"]]
        assert await gate.ends.get() == [1006, words, False]
        assert await hotel.open() == [None]


async def test_an_object_that_is_not_done_with_a_message_is_cancelled(hotel: Any, gate: Gate) -> None:
    """Within the time that it has said itself; its client hears of it, and it goes on for others."""
    async with (
        await hotel.fetch("http://a.b/brief", **UPGRADE) as one,
        await hotel.fetch("http://a.b/brief", **UPGRADE) as two,
    ):
        await asyncio.gather(spoken_on(one).open(), spoken_on(two).open())
        await spoken_on(one).send("stay")
        assert [message async for message in spoken_on(one)] == ["early"]
        assert spoken_on(one).closed == Closed(1011, "the object was not done with a message")
        assert (await gate.ends.get())[::2] == [1011, True]
        await spoken_on(two).send("large")
        assert await anext(spoken_on(two)) == "early"
        assert await anext(spoken_on(two)) == "what is attached to a web socket has at most 16,384 bytes"
        assert await hotel.open() == [300, 1]
        await spoken_on(two).send("leave")
        assert [message async for message in spoken_on(two)] == []
        assert spoken_on(two).closed == Closed(3000, "enough")
        assert await gate.ends.get() == [3000, "enough", True]
        assert await hotel.open() == [300]


async def test_what_a_tenant_holds_of_web_sockets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its objects together: how many there are, how many nobody was answered with, and what is attached to them,
    tags among that."""
    monkeypatch.setattr(hibernation, "_MOST", 4)
    monkeypatch.setattr(hibernation, "_MOST_WAITING", 3)
    monkeypatch.setattr(hibernation, "_MOST_ATTACHED_IN_ALL", 10)
    held = hibernation.Held()
    one, other = (hibernation.Sockets(held, lambda: None) for _ in range(2))
    numbers = [one.accept([]) for _ in range(3)]
    with pytest.raises(StorageQuotaExceeded, match="that are not answered with"):
        other.accept([])
    await one.of(numbers[0]).connect(None)
    other.accept([])
    with pytest.raises(StorageQuotaExceeded, match="at most 4 web sockets"):
        other.accept([])
    one.attach(numbers[0], b"x" * 8)
    one.attach(numbers[0], b"x" * 9)
    with pytest.raises(StorageQuotaExceeded, match="attaches at most 10 bytes"):
        one.attach(numbers[1], b"xx")
    monkeypatch.setattr(hibernation, "_MOST", 9)
    monkeypatch.setattr(hibernation, "_MOST_WAITING", 9)
    with pytest.raises(StorageQuotaExceeded, match="attaches at most 10 bytes"):
        other.accept(["\u00e9"])
    one.attach(numbers[0], b"x" * 8)
    other.accept(["\u00e9"])
    for sockets in (one, other):
        sockets.cut_off("over")
    assert (held.open, held.waiting, held.attached) == (0, 0, 0)


async def test_a_worker_tells_an_object_so_many_messages_at_once(rooms: Any, gate: Gate) -> None:
    """Each is a call that the host makes: a short list of many would be as many as there is memory for."""
    async with await rooms.fetch("http://a.b/tea", **UPGRADE) as listener:
        await spoken_on(listener).open()
        async with await rooms.fetch("http://a.b/flood", **UPGRADE) as relay:
            await spoken_on(relay).send("65")
            assert (await gate.ends.get())[0] == "at most 64 messages are told at once, not 65"
            await spoken_on(relay).send("64")
            assert [await anext(spoken_on(listener)) for _ in range(64)]


async def test_only_the_host_tells_an_object_of_its_sockets(hotel: Any) -> None:
    """Not whoever has a stub."""
    with pytest.raises(TenantError, match="no method 'webSocketMessage' may be called from outside"):
        await hotel.intrude()


async def test_a_worker_that_is_not_done_with_a_message_is_cancelled(worker: Make, gate: Gate) -> None:
    """Within the time that one call may take; the web socket stays, and so does whatever else it does."""

    async def converse(seconds: float) -> None:
        stub = worker(ECHO, env={"GATE": gate}, limits=Limits(wall_ms=int(1000 * seconds)))
        async with await stub.get_entrypoint().fetch("http://a.b/", **UPGRADE) as response:
            with pytest.raises(LimitExceeded, match=rf"was worked on for {seconds:g} s"):
                await spoken_on(response).send("stay")
            await spoken_on(response).send("tea")
            assert [await anext(spoken_on(response)) for _ in range(2)] == ["hello", "tea"]

    for seconds in (0.2, 2.0, 20.0):  # a machine that is too busy for the rest within that time has more of it
        try:
            await converse(seconds)
            break
        except (SandboxError, CodeError, AssertionError):
            if seconds == 20.0:
                raise


async def test_a_worker_speaks_to_a_durable_object_itself(rooms: Any, gate: Gate) -> None:
    """It accepts what the object answered with, and answers with a socket of its own."""
    async with await rooms.fetch("http://a.b/tea", **UPGRADE) as listener:
        await spoken_on(listener).open()
        async with await rooms.fetch("http://a.b/relay", **UPGRADE) as relay:
            await spoken_on(relay).send("through")
            assert await anext(spoken_on(listener)) == "2: through 0 coffee"
        assert (await gate.ends.get())[:2] == [1000, "relayed"]


async def test_an_asgi_application_speaks_on_web_sockets(worker: Make, gate: Gate) -> None:
    """By the book: connect, accept, messages, disconnect; or a refusal."""
    source = """
    import asgi
    from workers import WorkerEntrypoint
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        about = [scope["type"], scope["scheme"], scope["path"], scope["subprotocols"], (await receive())["type"]]
        if scope["path"] == "/no":
            return await send({"type": "websocket.close", "code": 1000})
        if scope["path"] == "/crash":
            raise RuntimeError("no tea")
        await send({"type": "websocket.accept", "subprotocol": "tea"})
        await send({"type": "websocket.send", "text": repr(about)})
        while (event := await receive())["type"] == "websocket.receive":
            if event.get("text") == "end":
                return
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        await scope["env"].GATE.told([event["type"], event["code"]])
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return await asgi.websocket(app, request, self.env)
    """
    app = worker(source, env={"GATE": gate}).get_entrypoint()
    offered = {"headers": {"upgrade": "websocket", "sec-websocket-protocol": "tea, coffee"}}
    async with await app.fetch("https://a.b/x%20y", **offered) as response:
        assert response.headers == (("sec-websocket-protocol", "tea"),)
        said = "['websocket', 'wss', '/x y', ['tea', 'coffee'], 'websocket.connect']"
        assert await anext(spoken_on(response)) == said
        await spoken_on(response).send(b"1")
        assert await anext(spoken_on(response)) == b"1"
    assert await gate.ends.get() == ["websocket.disconnect", 1000]
    async with await app.fetch("http://a.b/", **UPGRADE) as response:
        await spoken_on(response).send("end")
        assert len([message async for message in spoken_on(response)]) == 1
        assert (spoken_on(response).closed or Closed(0, "")).code == 1000
    assert (await app.fetch("http://a.b/no", **UPGRADE)).status == 403
    with pytest.raises(TenantError, match="RuntimeError: no tea"):
        await app.fetch("http://a.b/crash", **UPGRADE)
