"""A tenant within the service of its host, as whoever writes one has it: under FastAPI and Starlette, with middleware,
on a real server; and from Flask, which does not await.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import flask
import httpx
import pytest
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from werkzeug.serving import make_server

from cloister.loader import BlockingHost, Host, LoaderConfig, TenantError, WorkerCode

Code = Callable[..., WorkerCode]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

SOURCE = """
from workers import Response, RpcTarget, WorkerEntrypoint

class Cart(RpcTarget):
    def __init__(self):
        self.count = 0
    def add(self, n):
        self.count += n
        return self.count

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return f"Hello {name}"

    def fail(self):
        raise ValueError("no tea")

    def cart(self):
        return Cart()

    def use(self, cart):  # which comes home as itself
        return cart.add(10)

    async def squares(self, end):
        try:
            for n in range(end):
                yield n * n
        finally:
            await self.env.BOARD("squares")

    async def fetch(self, request):
        path = request.url.partition("?")[0].rpartition("/")[2]
        if path == "events":
            async def events():
                try:
                    while True:
                        await self.env.BOARD("event")
                        yield b"data: tick\\n\\n"
                finally:
                    await self.env.BOARD("over")
            return Response(events(), headers={"content-type": "text/event-stream"})
        if path == "count":
            size = 0
            async for piece in request.body:
                size += len(piece)
            return Response(str(size))
        if path == "chat":
            from js import WebSocketPair
            client, server = WebSocketPair.new().object_values()
            server.accept()
            server.addEventListener("message", lambda event: server.send(event.data))
            return Response(None, status=101, web_socket=client)
        if path == "from":
            return Response(request.cf.country)
        if path == "unread":
            return Response("enough", status=202)
        if path == "echo":
            return Response(request.body)
        told = {"method": str(request.method), "url": request.url, "prefix": request.headers.get("x-forwarded-prefix"),
                "x-a": request.headers.get("x-a")}
        return Response.json(told, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-r", "1"), ("x-r", "2")])
"""


class Board:
    """What a tenant did, as it tells."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    def __call__(self, what: str) -> None:
        self.marks.append(what)


@pytest.fixture
def board() -> Board:
    """What the tenants of this test did."""
    return Board()


@pytest.fixture
def host(runner: asyncio.Runner, code: Code, tmp_path: Path, board: Board) -> Iterator[Host]:
    """A host whose tenants all run the same."""
    made = Host(tmp_path / "app.db", get_code=lambda _: code(SOURCE, env={"BOARD": board.__call__}), spares=1)
    yield runner.run(made.__aenter__())
    runner.run(made.__aexit__(None, None, None))


async def passed_on(request: Any, call_next: Any) -> Any:
    """Middleware of the usual kind, which stands between the server and everything that is mounted."""
    response = await call_next(request)
    response.headers["x-seen"] = "yes"
    return response


def under_fastapi(host: Host) -> Any:
    """A service of its own, that calls tenants and has one mounted."""
    service = fastapi.FastAPI()

    @service.get("/greet/{tenant_id}")
    async def greet(tenant_id: str, name: str) -> str:
        return str(await host.tenant(tenant_id).greet(name))

    service.mount("/shops/t-42", host.asgi("t-42"))
    service.mount("/plain/t-42", host.asgi("t-42", strip_root_path=True))
    service.middleware("http")(passed_on)
    return service


def under_starlette(host: Host) -> Any:
    """The same with plain Starlette, and compression."""
    routes = [Mount("/shops/t-42", host.asgi("t-42")), Mount("/plain/t-42", host.asgi("t-42", strip_root_path=True))]
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=passed_on), Middleware(GZipMiddleware)]
    return Starlette(routes=routes, middleware=middleware)


@asynccontextmanager
async def served(application: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An application on a real socket, and a client of it."""
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical", lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as door:
        running = asyncio.ensure_future(server._serve([door]))
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.getsockname()[1]}", timeout=100) as client:
                yield client
        finally:
            server.should_exit = True
            await running


@pytest.fixture(params=[under_fastapi, under_starlette])
def service(request: pytest.FixtureRequest, host: Host) -> Any:
    """What the tenant is mounted under."""
    return request.param(host)


async def test_methods_paths_and_repeated_headers_come_and_go_as_they_are(service: Any) -> None:
    """With HEAD answered without a body, and paths encoded as the client encoded them."""
    async with served(service) as client:
        for method in ("GET", "OPTIONS", "DELETE", "PATCH", "PURGE"):
            response = await client.request(
                method, "/shops/t-42/a%2Fb/%C3%BC?x=%20y", headers=[("x-a", "1"), ("x-a", "2")]
            )
            told = response.json()
            assert (told["method"], told["x-a"]) == (method, "1, 2")
            assert told["url"] == f"{client.base_url}/shops/t-42/a%2Fb/%C3%BC?x=%20y"
            assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert response.headers.get_list("x-r") == ["1", "2"]
            assert response.headers["x-seen"] == "yes"
        head = await client.head("/shops/t-42/", headers={"accept-encoding": "identity"})
        assert (head.status_code, head.content, int(head.headers["content-length"]) > 0) == (200, b"", True)


async def test_a_tenant_may_see_its_urls_as_if_it_stood_at_the_root(service: Any) -> None:
    """Encoded as they were; it is told where it is mounted, and by nobody else."""
    async with served(service) as client:
        for path, seen in (("/a%2Fb/c?d=e", "/a%2Fb/c?d=e"), ("/", "/"), ("//x", "//x")):
            response = await client.get(f"/plain/t-42{path}", headers={"x-forwarded-prefix": "/evil"})
            assert response.json()["url"] == f"{client.base_url}{seen}"
            assert response.json()["prefix"] == "/plain/t-42"
        assert (await client.get("/%70lain/t-42/%C3%BC")).json()["url"] == f"{client.base_url}/%C3%BC"


async def test_bodies_stream_in_both_directions(service: Any) -> None:
    """Of any size, with and without a length; also one that the tenant does not read."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(160):
            yield bytes([number]) * 100_000

    async with served(service) as client:
        assert (await client.post("/shops/t-42/count", content=pieces())).text == str(160 * 100_000)
        assert (await client.post("/shops/t-42/count", content=bytes(9_000_000))).text == "9000000"
        echoed = await client.post(
            "/shops/t-42/echo", content=bytes(range(256)) * 2000
        )  # a client that reads afterwards
        assert echoed.content == bytes(range(256)) * 2000
        assert (await client.post("/shops/t-42/unread", content=pieces())).status_code == 202
        assert (await client.get("/shops/t-42/")).status_code == 200


async def test_a_client_that_goes_away_ends_what_streams(service: Any, board: Board, eventually: Eventually) -> None:
    """Through all middleware."""
    async with served(service) as client:
        async with client.stream("GET", "/shops/t-42/events", headers={"accept-encoding": "identity"}) as response:
            assert (await anext(response.aiter_raw())).startswith(b"data: tick\n\n")
        await eventually(lambda: "over" in board.marks)


async def test_a_service_calls_tenants_in_its_own_handlers(host: Host) -> None:
    """In the same event loop, at once."""
    async with served(under_fastapi(host)) as client:
        found = await asyncio.gather(*(client.get(f"/greet/t-{n % 3}?name=n{n}") for n in range(20)))
        assert [response.json() for response in found] == [f"Hello n{n}" for n in range(20)]


async def test_a_web_socket_is_the_tenants_to_take_or_not(service: Any) -> None:
    """By a server that speaks them, through all middleware."""
    async with served(service) as client:
        url = f"{str(client.base_url).replace('http', 'ws')}/shops/t-42"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{url}/unread", open_timeout=100)
        assert refused.value.response.body == b"enough"
        async with websockets.connect(f"{url}/chat", open_timeout=100) as socket:
            await socket.send("tea")
            assert await socket.recv() == "tea"


async def test_a_client_without_a_server_does_as_well(host: Host) -> None:
    """`httpx.ASGITransport`, as in tests of a service."""
    transport = httpx.ASGITransport(app=host.asgi("t-42"))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        assert (await client.get("/tea")).json()["url"] == "http://shop.example/tea"
        assert (await client.post("/count", content=b"x" * 1000)).text == "1000"


async def test_a_middleware_says_where_a_request_is_from(host: Host) -> None:
    """What it puts into the scope under that name the tenant finds in `request.cf`. No client can say it."""
    said: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": "/from", "raw_path": b"/from", "query_string": b"",
             "headers": [], "scheme": "https", "http_version": "2", "cf": {"country": "PT"}}  # fmt: skip

    events = iter([{"type": "http.request"}])

    async def receive() -> Any:
        event = next(events, None)
        return event if event is not None else await asyncio.Event().wait()

    async def send(event: Any) -> None:
        said.append(event)

    await host.asgi("t-42")(scope, receive, send)
    assert (said[0]["status"], said[1]["body"]) == (200, b"PT")


async def test_the_body_of_a_request_by_later_versions_of_http_needs_no_length(host: Host) -> None:
    """Where the end of the stream says how long it is."""
    for version in ("2", "3"):
        said: list[Any] = []
        events = iter([{"type": "http.request", "body": b"tea", "more_body": True}, {"type": "http.request"}])

        async def receive(events: Iterator[Any] = events) -> Any:
            event = next(events, None)
            return event if event is not None else await asyncio.Event().wait()

        async def send(event: Any, said: list[Any] = said) -> None:
            said.append(event)

        scope = {"type": "http", "method": "POST", "path": "/count", "raw_path": b"/count", "query_string": b"",
                 "headers": [], "scheme": "https", "http_version": version}  # fmt: skip
        await host.asgi("t-42")(scope, receive, send)
        assert (said[0]["status"], said[1]["body"]) == (200, b"3")


@pytest.fixture
def flasks(tmp_path: Path, code: Code, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[httpx.Client, Board]]:
    """A client of a Flask application that serves in threads, each of which calls tenants."""
    caplog.set_level(logging.ERROR, "werkzeug")
    board = Board()
    config = LoaderConfig(spares=1, drain_s=5.0)

    def get_code(_: str) -> WorkerCode:
        return code(SOURCE, env={"BOARD": board.__call__})

    with BlockingHost(tmp_path / "app.db", get_code=get_code, config=config) as host:
        server = make_server("127.0.0.1", 0, flask_application(host), threaded=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=100) as client:
            yield client, board
        server.shutdown()
        serving.join()
        server.server_close()


def flask_application(host: BlockingHost) -> flask.Flask:
    """What a tenant can be asked for."""
    service = flask.Flask("service")

    @service.get("/<tenant>/greet")
    def greet(tenant: str) -> str:
        return str(host.tenant(tenant).greet(flask.request.args["name"]))

    @service.get("/<tenant>/fail")
    def fail(tenant: str) -> tuple[str, int]:
        try:
            return host.tenant(tenant).fail(), 200
        except TenantError as error:
            return str(error), 502

    @service.get("/<tenant>/cart")
    def cart(tenant: str) -> list[int]:
        with host.tenant(tenant).cart() as cart:
            return [cart.add(1), cart.add(2), host.tenant(tenant).use(cart)]

    @service.get("/<tenant>/squares")
    def squares(tenant: str) -> list[int]:
        found = []
        with host.tenant(tenant).squares(1_000_000) as stream:
            for square in stream:
                found.append(square)
                if len(found) == 4:
                    return found
        return found

    @service.route("/<tenant>/<path:path>", methods=["GET", "POST"])
    def fetch(tenant: str, path: str) -> flask.Response:
        asked = flask.request
        response = host.tenant(tenant).fetch(
            asked.url, method=asked.method, body=asked.get_data() or None, headers=list(asked.headers)
        )
        return flask.Response(iter(response), status=response.status, headers=list(response.headers))

    return service


def test_a_flask_application_calls_tenants(flasks: tuple[httpx.Client, Board]) -> None:
    """Values, errors, objects and streams, which end where the reader has enough."""
    client, board = flasks
    assert client.get("/a/greet?name=Bob").text == "Hello Bob"
    assert (client.get("/a/fail").status_code, client.get("/a/fail").text) == (502, "ValueError: no tea")
    assert client.get("/a/cart").json() == [1, 3, 13]
    assert client.get("/a/squares").json() == [0, 1, 4, 9]
    while board.marks != ["squares"]:
        assert client.get("/a/greet?name=Ann").text == "Hello Ann"  # until the end of the stream has been told


def test_a_flask_application_passes_requests_on(flasks: tuple[httpx.Client, Board]) -> None:
    """And hands the response on piece by piece, headers included."""
    client, board = flasks
    response = client.get("/b/tea?x=1")
    assert (response.json()["url"], response.headers.get_list("x-r")) == (f"{client.base_url}/b/tea?x=1", ["1", "2"])
    assert client.post("/b/count", content=bytes(3_000_000)).text == "3000000"
    assert client.post("/b/echo", content=bytes(3_000_000)).content == bytes(3_000_000)
    with client.stream("GET", "/b/events") as events:
        assert next(events.iter_raw()) == b"data: tick\n\n"
    while "over" not in board.marks:
        client.get("/b/greet?name=Ann")  # until the server has found out that nobody reads on
