"""A tenant's `fetch`: called by the host, and served as an ASGI application, as a client on a socket sees it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from cloister.ipc import RpcTarget
from cloister.loader import EntrypointNotFound, Host, Limits, Loader, TenantError, WorkerCode, WorkerStub
from cloister.loader.http import HttpLimits, Request, asgi
from cloister.loader.http.outgoing import Overrun

Make = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

SHOP = """
import asyncio
from workers import Request, Response, WorkerEntrypoint, env

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return await getattr(self, request.url.partition("?")[0].rpartition("/")[2] or "hello")(request)

    async def hello(self, request):
        return Response("hello", headers={"x-kind": "greeting"})

    async def about(self, request):
        headers = dict(request.headers.items())
        return Response.json({"method": request.method, "url": request.url, "headers": headers,
                              "body": await request.text()}, status=201)

    async def echo(self, request):
        return Response(request.body, headers=[("x-a", "1"), ("x-a", "2")])

    async def count(self, request):
        size = 0
        async for piece in request.body:
            size += len(piece)
        return Response(str(size))

    async def ticks(self, request):
        async def tick():
            for number in range(3):
                yield f"{number};"
        return Response(tick(), headers={"content-type": "text/event-stream"})

    async def endless(self, request):
        async def run():
            try:
                while True:
                    await env.BOARD.mark("piece")
                    yield b"x" * 65536
            finally:
                await env.BOARD.mark("stopped")
        return Response(run())

    async def slow(self, request):
        try:
            await env.BOARD.mark("begun")
            await asyncio.sleep(3600)
        finally:
            await env.BOARD.mark("cancelled")

    async def breaks(self, request):
        async def run():
            yield b"some"
            raise ValueError("halfway")
        return Response(run())

    async def raises(self, request):
        raise ValueError("secret detail")

    async def nothing(self, request):
        return None

    async def framing(self, request):
        return Response("ok", headers={"content-length": "999", "transfer-encoding": "chunked",
                                       "connection": "upgrade", "x-good": "yes"})

    async def smuggles(self, request):
        response = Response("ok")
        response._headers.pairs.append(("x-bad", "a\\r\\nset-cookie: b=c"))
        return response

    async def cookies(self, request):
        return Response(None, status=204, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")])

    async def empty(self, request):
        return Response(None)
"""


class Board(RpcTarget):
    """What a tenant did, as it tells."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    async def mark(self, what: str) -> None:
        """One more thing."""
        self.marks.append(what)


@pytest.fixture
def board() -> Board:
    """What the tenant of this test did."""
    return Board()


@pytest.fixture
def shop(worker: Make, board: Board) -> Any:
    """The entrypoint of a tenant that serves HTTP."""
    return worker(SHOP, env={"BOARD": board}).get_entrypoint()


async def test_a_host_has_a_request_answered(shop: Any) -> None:
    """Method, URL, headers and body arrive, and status, headers and body come back."""
    request = Request("https://shop.example/about?a=b", method="POST", headers={"X-One": "1"}, body="ä")
    response = await shop.fetch(request)
    assert response.status == 201
    assert response.headers == (("content-type", "application/json"),)
    told = await response.json()
    assert told == {
        "method": "POST",
        "url": "https://shop.example/about?a=b",
        "headers": {"x-one": "1"},
        "body": "ä",
    }


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_bodies_of_any_size_go_in_and_come_out(shop: Any, size: int) -> None:
    """Short ones with their head, longer ones in pieces."""
    body = bytes(n % 251 for n in range(size))
    response = await shop.fetch("https://shop.example/echo", method="POST", body=body)
    assert await response.bytes() == body
    assert response.headers == (("x-a", "1"), ("x-a", "2"))


async def test_a_body_is_read_as_fast_as_the_tenant_reads_and_not_faster(shop: Any) -> None:
    """Of a stream, no piece is asked for before the one before it was taken."""
    given = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(100):
            given += 1
            yield b"x" * 1000

    response = await shop.fetch("https://shop.example/count", method="POST", body=pieces())
    assert (await response.text(), given) == ("100000", 100)


async def test_a_response_is_made_as_fast_as_it_is_read(shop: Any, board: Board, eventually: Eventually) -> None:
    """An endless one costs nothing while nobody reads, and ends when its reader closes it."""
    response = await shop.fetch("https://shop.example/endless")
    reading = aiter(response)
    for count in range(1, 6):
        await anext(reading)
        assert board.marks.count("piece") <= count
    await response.aclose()
    await eventually(lambda: "stopped" in board.marks)


async def test_a_sandbox_stays_while_its_response_is_read(loader: Loader, shop: Any) -> None:
    """It is in use until the last piece, until it is closed, or until nobody has the response any longer."""
    before = loader.statistics().in_use
    response = await shop.fetch("https://shop.example/ticks")
    assert loader.statistics().in_use == before + 1
    assert [piece async for piece in response] == [b"0;", b"1;", b"2;"]
    assert loader.statistics().in_use == before
    response = await shop.fetch("https://shop.example/endless")
    assert loader.statistics().in_use == before + 1
    del response
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert loader.statistics().in_use == before


async def test_a_sandbox_stays_while_another_tenant_reads_its_response(
    loader: Loader, worker: Make, shop: Any, eventually: Eventually
) -> None:
    """A service that one tenant offers to another is in use until the last piece, too."""
    users: list[int] = []

    def look() -> None:
        users.append(sum(one.users for one in loader.statistics(detail=True).sandboxes if one.tenant_id == offering))

    offering = shop._stub.tenant_id
    outer = worker(
        """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def ask(self):
                response = await self.env.SHOP.fetch("https://shop.example/ticks")
                await self.env.LOOK()
                text = await response.text()
                await self.env.LOOK()
                await self.env.SHOP.fetch("https://shop.example/ticks")
                return text
        """,
        env={"SHOP": shop, "LOOK": look},
    ).get_entrypoint()
    assert await outer.ask() == "0;1;2;"
    assert users == [1, 0]

    def let_go() -> bool:
        look()
        return users[-1] == 0

    await eventually(let_go)


async def test_what_is_no_response_is_the_tenants_fault(shop: Any) -> None:
    """Whether by mistake or by malice; what it raises is told as for every call."""
    with pytest.raises(TenantError, match=r"TypeError: fetch\(\) must return a Response, not NoneType"):
        await shop.fetch("https://shop.example/nothing")
    with pytest.raises(TenantError, match=r"a header that cannot be sent: \['x-bad', "):
        await shop.fetch("https://shop.example/smuggles")
    with pytest.raises(TenantError, match="ValueError: secret detail"):
        await shop.fetch("https://shop.example/raises")


@pytest.mark.parametrize(
    "attributes",
    ["{}", "{'workers.class': 'Response'}",
     "{'workers.class': 'Response', 'status': 7, 'status_text': '', 'headers': []}",
     "{'workers.class': 'Response', 'status': True, 'status_text': '', 'headers': []}",
     "{'workers.class': 'Response', 'status': 200, 'status_text': 'a\\r\\nb: c', 'headers': []}",
     "{'workers.class': 'Response', 'status': 200, 'status_text': '', 'headers': [['a b', 'c']]}",
     "{'workers.class': 'Response', 'status': 200, 'status_text': '', 'headers': [['a', 'b\\0']]}",
     "{'workers.class': 'Response', 'status': 200, 'status_text': '', 'headers': [['a', 'b']] * 999}",
     "{'workers.class': 'Response', 'status': 200, 'status_text': '', 'headers': [], 'body': 3}"],
)  # fmt: skip
async def test_a_forged_response_is_refused(worker: Make, attributes: str) -> None:
    """A tenant owns its process and may send what it likes in place of a response."""
    source = f"""
    from workers import Response, WorkerEntrypoint
    class Forged(Response):
        def rpc_attributes(self):
            return {attributes}
    class Default(WorkerEntrypoint):
        def fetch(self):
            return Forged("x")
    """
    with pytest.raises(TenantError, match=r"fetch\(\) gave"):
        await worker(source).get_entrypoint().fetch("https://shop.example/")


async def test_pieces_that_are_no_bytes_are_refused(worker: Make) -> None:
    """By whoever reads them."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Forged(Response):
        async def next(self):
            return {"done": False, "value": {"a": 1}}
    class Default(WorkerEntrypoint):
        def fetch(self):
            async def nothing():
                yield b""
            return Forged(nothing())
    """
    response = await worker(source).get_entrypoint().fetch("https://shop.example/")
    with pytest.raises(TenantError, match="a piece of a body that is "):
        await response.bytes()


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("Response('a').headers['content-type']", "text/plain;charset=UTF-8"),
        ("Response(b'a').headers['content-type']", None),
        ("Response(None).body", None),
        ("Response.json({'a': 1}).headers['Content-Type']", "application/json"),
        ("Response.redirect('https://a.example').headers['location']", "https://a.example/"),
        ("Response('a', status=404).status_text", "Not Found"),
        ("Response('a').ok", True),
        ("repr(Response.json(1))", "Response(status=200, status_text='OK', content_type='application/json')"),
        ("Request('https://a.example').url", "https://a.example/"),
        ("Request('https://a.example', method='post').method", "POST"),
        ("repr(Request('https://a.example/', method='POST'))", "Request(method='POST', url='https://a.example/')"),
        ("Request(Request('https://a.example/', method='PUT', headers={'a': 'b'}), method='POST').headers['A']", "b"),
        ("Headers([('a', '1'), ('A', '2'), ('set-cookie', 'x'), ('set-cookie', 'y')]).items()",
         [["a", "1, 2"], ["set-cookie", "x"], ["set-cookie", "y"]]),
        ("Headers({'a': True, 'b': 12}).items()", [["a", "true"], ["b", "12"]]),
        ("Headers({'a': 1})['b']", None),
        ("caught(lambda: Response({}))", "TypeError: Unsupported type in Response: dict"),
        ("caught(lambda: Response('a', headers=3))", "TypeError: Received unexpected type for headers argument"),
        ("caught(lambda: Response('a', headers={'a': 'b\\r\\nc: d'}))",
         "TypeError: Invalid header: 'a': 'b\\r\\nc: d'"),
        ("caught(lambda: Response(Response('a'), status=3))",
         "ValueError: Expected no options when constructing Response from a js.Response"),
        ("caught(lambda: Response.redirect('https://a.example/', 200))", "ValueError: 200 is not a redirect status"),
        ("caught(lambda: Response.redirect('nowhere'))", "TypeError: Invalid URL: 'nowhere'"),
        ("caught(lambda: Response.json(object()))", "TypeError: Object of type object is not JSON serializable"),
        ("caught(lambda: fetch('https://a.example/', {}))",
         "TypeError: fetch() takes 1 positional argument but 2 were given"),
        ("caught(lambda: Response('a', status=500).raise_for_status())", "OSError: 500 Internal Server Error: "),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
async def test_the_names_of_the_sdk_do_what_they_do_there(worker: Make, expression: str, result: Any) -> None:
    """As Cloudflare's Python SDK has them."""
    source = f"""
    from workers import Headers, Request, Response, WorkerEntrypoint, fetch
    def caught(what):
        try:
            return what()
        except Exception as error:
            return f"{{type(error).__name__}}: {{error}}"
    class Default(WorkerEntrypoint):
        def main(self):
            return {expression}
    """
    assert await worker(source).get_entrypoint().main() == result


async def test_a_body_is_read_once_and_can_be_cloned_before(worker: Make) -> None:
    """A second read is an `OSError`, as there."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            response = Response.json({"a": {"b": 1}})
            copy = response.clone()
            found = [(await response.json()).a.b, response.body_used, copy.body_used, await copy.text()]
            try:
                await response.text()
            except OSError as error:
                return [*found, str(error)]
    """
    assert await worker(source).get_entrypoint().main() == [1, True, False, '{"a": {"b": 1}}', "Body already used"]


async def test_requests_and_responses_are_passed_between_tenants(worker: Make) -> None:
    """By way of the host, which reads neither: a service that one tenant offers to another."""
    inner = worker(
        """
        from workers import Response, WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def fetch(self, request):
                return Response((await request.text()).upper(), status=202, headers={"x-url": request.url})
        """
    ).get_entrypoint()

    outer = worker(
        """
        from workers import Request, Response, WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def ask(self):
                response = await self.env.SERVICE.fetch(Request("https://in.example/x", method="POST", body="quiet"))
                return [type(response).__name__, response.status, response.headers["x-url"], await response.text()]
        """,
        env={"SERVICE": inner},
    ).get_entrypoint()
    assert await outer.ask() == ["Response", 202, "https://in.example/x", "QUIET"]


@asynccontextmanager
async def served(application: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An application on a real socket, and a client of it."""
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical", lifespan="on", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as door:
        running = asyncio.ensure_future(server._serve([door]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.getsockname()[1]}", timeout=100) as client:
            yield client
        server.should_exit = True
        await running


async def test_a_tenant_is_served_under_starlette(shop: Any) -> None:
    """Mounted beside whatever else there is: real HTTP, both bodies."""
    async with served(Starlette(routes=[Mount("/shops/t-42", asgi(shop))])) as client:
        response = await client.get("/shops/t-42/hello")
        assert (response.status_code, response.text, response.headers["x-kind"]) == (200, "hello", "greeting")
        response = await client.post("/shops/t-42/about?x=1", content=b"body", headers={"x-b": "c"})
        told = response.json()
        assert (response.status_code, told["method"], told["body"]) == (201, "POST", "body")
        assert told["url"] == f"{client.base_url}/shops/t-42/about?x=1"
        assert told["headers"]["x-b"] == "c"


async def test_bodies_stream_through_a_server(shop: Any) -> None:
    """Larger than any buffer on the way, in both directions at once."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 30_000

    async with served(asgi(shop)) as client:
        response = await client.post("/echo", content=pieces())
        assert response.content == b"".join([piece async for piece in pieces()])
        assert (await client.get("/ticks")).text == "0;1;2;"
        assert (await client.head("/hello")).content == b""
        cookies = await client.get("/cookies")
        assert (cookies.status_code, cookies.headers.get_list("set-cookie")) == (204, ["a=1", "b=2"])
        assert (await client.get("/empty")).headers["content-length"] == "0"


async def test_what_belongs_to_the_connection_is_the_servers(shop: Any) -> None:
    """A tenant's framing is dropped; what could be read as two responses is refused."""
    async with served(asgi(shop)) as client:
        response = await client.get("/framing")
        assert (response.text, response.headers["content-length"], response.headers["x-good"]) == ("ok", "2", "yes")
        assert "transfer-encoding" not in response.headers
        assert response.headers.get("connection") != "upgrade"
        assert (await client.get("/smuggles")).status_code == 500


async def test_a_client_that_goes_away_cancels_what_was_begun(shop: Any, board: Board, eventually: Eventually) -> None:
    """Before the answer, and in the middle of it."""
    async with served(asgi(shop)) as client:
        asking = asyncio.ensure_future(client.get("/slow"))
        await eventually(lambda: "begun" in board.marks)
        asking.cancel()
        await eventually(lambda: "cancelled" in board.marks)
        async with client.stream("GET", "/endless") as response:
            await anext(response.aiter_raw())
        await eventually(lambda: "stopped" in board.marks)


async def test_a_slow_client_holds_up_the_tenant(shop: Any, board: Board, eventually: Eventually) -> None:
    """What nobody takes is not made: no more pieces than fit into the buffers on the way."""
    async with served(asgi(shop)) as client:
        async with client.stream("GET", "/endless") as response:
            await anext(response.aiter_raw())
            seen: list[int] = []

            def settled() -> bool:
                seen.append(len(board.marks))
                return len(seen) > 100 and seen[-1] == seen[-100]

            await eventually(settled)
        assert len(board.marks) < 1000


async def test_a_client_that_takes_nothing_is_given_up(loader: Loader, shop: Any) -> None:
    """It holds the sandbox no longer than the limit says."""
    before = loader.statistics().in_use
    for seconds in (0.05, 1.0, 20.0):  # on a busy machine it may be the tenant that is late
        application = asgi(shop, limits=HttpLimits(idle_s=seconds))
        with pytest.raises((Overrun, TimeoutError)) as caught:
            await spoken(application, path="/ticks", raw_path=b"/ticks", takes=False)
        if caught.type is Overrun:
            break
    assert "the client took nothing of the response" in str(caught.value)
    assert loader.statistics().in_use == before


async def test_failures_are_told_in_few_words(shop: Any, worker: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns of whose making it was; what was raised stands in the log."""
    caplog.set_level(logging.WARNING, "cloister.http")
    busy = worker(
        """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            def fetch(self):
                while True:
                    pass
        """,
        limits=Limits(cpu_ms=50),
    )
    async with served(asgi(shop)) as client:
        response = await client.get("/raises")
        assert (response.status_code, response.text) == (500, "The worker raised an exception.\n")
        assert "secret detail" in caplog.text
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/breaks")
    async with served(asgi(busy.get_entrypoint())) as client:
        assert (await client.get("/")).status_code == 503
    async with served(asgi(busy.get_entrypoint("Other"))) as client:
        assert (await client.get("/")).status_code == 501
    with pytest.raises(EntrypointNotFound):
        await busy.get_entrypoint("Other").fetch("https://a.example/")


async def test_what_is_too_large_is_refused_at_the_door(shop: Any) -> None:
    """With a length that says so, and without one; headers and URLs too."""
    limits = HttpLimits(body_bytes=1000, header_bytes=500, url_bytes=100, response_bytes=100_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with served(asgi(shop, limits=limits)) as client:
        assert (await client.post("/count", content=b"x" * 1000)).text == "1000"
        assert (await client.post("/count", content=b"x" * 1001)).status_code == 413
        assert (await client.post("/count", content=pieces())).status_code == 413
        assert (await client.get("/hello", headers={"a": "b" * 500})).status_code == 431
        assert (await client.get(f"/hello?{'x' * 100}")).status_code == 414
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/endless")


@pytest.mark.parametrize("host", ["a.example/b", "a@b.example", "a.example?x", "a b"])
async def test_a_host_header_that_could_be_read_twice_is_refused(shop: Any, host: str) -> None:
    """Before a tenant makes a URL of it."""
    assert (await spoken(asgi(shop), headers=[(b"host", host.encode())]))[0]["status"] == 400


async def spoken(application: Any, *, takes: bool = True, **about: Any) -> list[Any]:
    """What an application says to a client without a body, or, if so told, to one that takes no more than the head."""
    said: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": "/hello", "raw_path": b"/hello", "query_string": b"",
             "headers": [], "scheme": "http", **about}  # fmt: skip
    events = iter([{"type": "websocket.connect"} if about.get("type") == "websocket" else {"type": "http.request"}])

    async def receive() -> Any:
        event = next(events, None)
        return event if event is not None else await asyncio.Event().wait()

    async def send(event: Any) -> None:
        said.append(event)
        if not takes and event["type"] == "http.response.body":
            await asyncio.Event().wait()

    await application(scope, receive, send)
    return said


async def test_a_long_body_comes_with_its_length(worker: Any) -> None:
    """If the tenant has all of it; and what it then does not send, or sends beyond, is an error."""
    source = """
    from workers import *
    class Lying(Response):
        def rpc_attributes(self):
            return {**super().rpc_attributes(), "length": self.length}
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            answer = (Lying if "=" in request.url else Response)(b"x" * 300_000)
            answer.length = int(request.url.partition("=")[2] or 0)
            return answer
    """
    shop = asgi(worker(source).get_entrypoint())
    said = await spoken(shop)
    assert (b"content-length", b"300000") in said[0]["headers"]
    assert sum(len(event["body"]) for event in said[1:]) == 300_000
    for lie, words in (("299999", "longer than the 299,999"), ("300001", "ended after 300,000")):
        with pytest.raises(Overrun, match=words):
            await spoken(shop, query_string=f"a={lie}".encode())


async def test_a_web_socket_that_a_tenant_does_not_take_is_answered_as_the_server_can(shop: Any) -> None:
    """As a response, and else as a close before the socket was open."""
    plain = await spoken(asgi(shop), type="websocket")
    assert [(event["type"], event["code"]) for event in plain] == [("websocket.close", 1008)]
    answered = await spoken(asgi(shop), type="websocket", extensions={"websocket.http.response": {}})
    assert answered[0]["status"] == 200


@pytest.fixture
def host(runner: asyncio.Runner, code: Callable[..., WorkerCode], tmp_path: Any, board: Board) -> Iterator[Host]:
    """A host whose tenants all serve HTTP."""
    host = Host(tmp_path / "app.db", get_code=lambda _: code(SHOP, env={"BOARD": board}), spares=1)
    yield runner.run(host.__aenter__())
    runner.run(host.__aexit__(None, None, None))


async def test_a_host_mounts_a_tenant(host: Host) -> None:
    """By its id."""
    async with served(host.asgi("t-42")) as client:
        assert (await client.get("/hello")).text == "hello"
