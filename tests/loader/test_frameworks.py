"""Web applications inside a tenant: the two protocols by the book, and the frameworks that people write them with."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from cloister.ipc import RpcTarget
from cloister.loader import Loader, TenantError, WorkerCode, WorkerStub
from cloister.loader.bindings import Database, DatabaseLimits, Databases
from cloister.loader.http import Request

Make = Callable[..., WorkerStub]

APPS = """
import asgi
import json
import logging
from workers import Response, WorkerEntrypoint, env, wsgi

async def lifespan(scope, receive, send):
    await env.LOG.note((await receive())["type"])
    scope["state"]["began"] = True
    await send({"type": "lifespan.startup.complete"})
    await env.LOG.note((await receive())["type"])
    await send({"type": "lifespan.shutdown.complete"})

async def about(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    known = ("type", "method", "scheme", "path", "state", "http_version")
    told = {name: scope[name] for name in known} | {
        "raw_path": scope["raw_path"].decode(), "query": scope["query_string"].decode(), "env": scope["env"].PLAN,
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]], "body": len(body),
    }
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"1"), (b"set-cookie", b"a=1"),
                                                                         (b"set-cookie", b"b=2")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

async def no_lifespan(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body", "body": b"not sent"})

async def streams(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(5):
        await env.LOG.note(f"piece {number}")
        await send({"type": "http.response.body", "body": b"%d;" % number, "more_body": number < 4})

async def endless(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    await send({"type": "http.response.start", "status": 200})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    except OSError as error:
        await env.LOG.note(f"{error} {(await receive())['type']}")
        raise

async def fails_to_stop(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        return await send({"type": "http.response.body", "body": b"x"})
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "still open"})

async def silent(scope, receive, send):
    pass

async def echo(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})

Echo = asgi.entrypoint(echo, options=asgi.Options())
Echo.__name__ = "Echo"

async def fails_to_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def raises(scope, receive, send):
    raise RuntimeError("before the answer")

async def raises_later(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})
    raise RuntimeError("after the answer")

def plain(environ, start_response):
    body = environ["wsgi.input"].read()
    known = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "wsgi.url_scheme", "HTTP_X_ONE", "CONTENT_TYPE",
             "SERVER_NAME", "SERVER_PORT")
    told = {name: environ.get(name) for name in known} | {"body": len(body), "env": environ["workers.env"].PLAN}
    start_response("200 Fine", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [json.dumps(told).encode()]

class Endless:
    def __iter__(self):
        return self
    def __next__(self):
        return b"x" * 65536
    def close(self):
        print("closed")

def forever(environ, start_response):
    start_response("200 OK", [])
    return Endless()

class Pieces:
    def __init__(self, start_response):
        self.start_response = start_response
    def __iter__(self):
        yield b""
        self.start_response("200 OK", [])
        for number in range(3):
            yield b"%d;" % number
    def close(self):
        print("closed")

def lazy(environ, start_response):
    return Pieces(start_response)

def never(environ, start_response):
    return [b"x"]

def written(environ, start_response):
    write = start_response("200 OK", [])
    write(b"first ")
    return [b"second"]

def crashes(environ, start_response):
    raise RuntimeError("before the answer")

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        kind, name = request.url.split("/")[3:5]
        protocol = asgi if kind == "a" else wsgi
        return await protocol.fetch(globals()[name.partition("?")[0]], request, self.env, self.ctx)

Other = wsgi.entrypoint(plain)
"""


class Log(RpcTarget):
    """What the application did, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def note(self, what: str) -> None:
        """One more thing."""
        self.notes.append(what)


@pytest.fixture
def log() -> Log:
    """What the application of this test did."""
    return Log()


@pytest.fixture
def apps(worker: Make, log: Log) -> Any:
    """The entrypoint of a tenant with all the applications."""
    return worker(APPS, env={"LOG": log, "PLAN": "pro"}).get_entrypoint()


async def test_an_asgi_application_is_told_what_is_asked(apps: Any, log: Log, eventually: Any) -> None:
    """The scope by the book, the body in pieces, and its lifespan around the one request."""
    url = "http://shop.example/a/about/%C3%A4%2Fb?x=%20"
    body = b"x" * 700_000
    response = await apps.fetch(url, method="POST", headers=[("X-One", "1")], body=body)
    assert response.status == 201
    assert [pair for pair in response.headers if pair[0] == "set-cookie"] == [
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]
    told = await response.json()
    assert ["x-one", "1"] in told.pop("headers")
    assert told == {
        "type": "http", "method": "POST", "scheme": "http", "path": "/a/about/ä/b", "raw_path": "/a/about/%C3%A4%2Fb",
        "query": "x=%20", "env": "pro", "state": {"began": True}, "http_version": "1.1", "body": len(body),
    }  # fmt: skip
    assert log.notes == ["lifespan.startup", "lifespan.shutdown"]


async def test_an_asgi_application_may_know_nothing_of_lifespans(apps: Any) -> None:
    """Whether it raises or returns; and a status without a body has none."""
    response = await apps.fetch("http://a.b/a/no_lifespan")
    assert (response.status, await response.bytes()) == (204, b"")


async def test_an_asgi_application_streams(apps: Any, log: Log) -> None:
    """As fast as it is read, and no faster."""
    response = await apps.fetch("http://a.b/a/streams")
    assert response.status == 200
    assert len(log.notes) < 5
    assert await response.text() == "0;1;2;3;4;"
    assert log.notes == [f"piece {number}" for number in range(5)]


@pytest.mark.parametrize("read", [False, True])
async def test_an_asgi_application_is_told_that_nobody_reads_on(
    worker: Make, log: Log, read: bool, eventually: Any
) -> None:
    """When it sends and when it asks, also if nobody ever began to read; what it raises then is no news."""
    lines: list[Any] = []
    stub = worker(APPS, env={"LOG": log, "PLAN": ""}, streaming_tails=(lines.append,))
    response = await stub.get_entrypoint().fetch("http://a.b/a/endless")
    if read:
        assert len(await anext(aiter(response))) == 65536
    await response.aclose()
    await eventually(lambda: log.notes == ["nobody reads the response any longer http.disconnect"])
    assert await (await stub.get_entrypoint().fetch("http://a.b/a/streams")).text() == "0;1;2;3;4;"
    assert not [line.text for line in lines if "Exception" in getattr(line, "text", "")]


@pytest.mark.parametrize("read", [False, True])
async def test_a_wsgi_application_is_closed_when_nobody_reads_on(
    worker: Make, log: Log, read: bool, eventually: Any
) -> None:
    """Also if nobody ever began to."""
    lines: list[Any] = []
    stub = worker(APPS, env={"LOG": log, "PLAN": ""}, streaming_tails=(lines.append,))
    response = await stub.get_entrypoint().fetch("http://a.b/w/forever")
    if read:
        assert len(await anext(aiter(response))) == 65536
    await response.aclose()
    await eventually(lambda: any("closed" in getattr(line, "text", "") for line in lines))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("silent", "did not generate a response"),
        ("fails_to_stop", "still open"),
        ("fails_to_start", "no database"),
        ("raises", "before the answer"),
    ],
)
async def test_what_an_asgi_application_does_wrong_is_raised(apps: Any, name: str, words: str) -> None:
    """Before it has answered."""
    with pytest.raises(TenantError, match=f"RuntimeError: .*{words}"):
        await apps.fetch(f"http://a.b/a/{name}")


async def test_what_an_asgi_application_does_wrong_afterwards_is_logged(
    worker: Make, log: Log, eventually: Any
) -> None:
    """The answer is given all the same."""
    lines: list[Any] = []
    stub = worker(APPS, env={"LOG": log, "PLAN": ""}, streaming_tails=(lines.append,))
    assert await (await stub.get_entrypoint().fetch("http://a.b/a/raises_later")).text() == "ok"
    await eventually(lambda: any("after the answer" in getattr(line, "text", "") for line in lines))


async def test_a_wsgi_application_is_told_what_is_asked(apps: Any) -> None:
    """The environment by the book, and the body as a file."""
    body = b"x" * 700_000
    headers = [("x-one", "1"), ("X-One", "2"), ("content-type", "a/b")]
    response = await apps.fetch("https://shop.example/w/plain/%C3%A4?x=%20", method="POST", headers=headers, body=body)
    assert [pair[1] for pair in response.headers if pair[0] == "Set-Cookie"] == ["a=1", "b=2"]
    assert response.status_text == "Fine"
    assert await response.json() == {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/w/plain/ä".encode().decode("latin-1"), "QUERY_STRING": "x=%20",
        "wsgi.url_scheme": "https", "HTTP_X_ONE": "1, 2", "CONTENT_TYPE": "a/b", "SERVER_NAME": "shop.example",
        "SERVER_PORT": "443", "body": len(body), "env": "pro",
    }  # fmt: skip


async def test_a_wsgi_application_knows_how_long_a_short_body_is(worker: Make) -> None:
    """Though nobody said it: many read no further than they were told."""
    source = """
    from workers import wsgi
    def app(environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        start_response("200 OK", [])
        return [f"{length} ".encode() + environ["wsgi.input"].read(length)]
    Default = wsgi.entrypoint(app)
    """
    entry = worker(source).get_entrypoint()
    assert await (await entry.fetch("http://a.b/", method="POST", body="hello")).text() == "5 hello"
    assert await (await entry.fetch("http://a.b/")).text() == "0 "


async def test_a_wsgi_application_gives_pieces(worker: Make, apps: Any, log: Log, eventually: Any) -> None:
    """It may say its status with the first of them, and is closed after the last; what was written comes before."""
    lines: list[Any] = []
    stub = worker(APPS, env={"LOG": log, "PLAN": ""}, streaming_tails=(lines.append,))
    assert await (await stub.get_entrypoint().fetch("http://a.b/w/lazy")).text() == "0;1;2;"
    await eventually(lambda: any("closed" in getattr(line, "text", "") for line in lines))
    assert await (await apps.fetch("http://a.b/w/written")).text() == "first second"
    for name, words in (("crashes", "before the answer"), ("never", "did not call start_response")):
        with pytest.raises(TenantError, match=words):
            await apps.fetch(f"http://a.b/w/{name}")


async def test_an_asgi_application_is_an_entrypoint(worker: Make) -> None:
    """In one line; it finds the worker's bindings."""
    source = """
    from workers import asgi
    async def app(scope, receive, send):
        assert scope["type"] in ("http", "lifespan")
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{scope['path']} {scope['env'].PLAN}".encode()})
    Default = asgi.entrypoint(app)
    """
    entry = worker(source, env={"PLAN": "x"}).get_entrypoint()
    assert await (await entry.fetch("http://a.b/z")).text() == "/z x"


async def test_a_wsgi_application_is_an_entrypoint(worker: Make, log: Log) -> None:
    """In one line."""
    source = APPS.replace("class Default(WorkerEntrypoint)", "class Another(WorkerEntrypoint)")
    source = source.replace("Other = wsgi", "Default = wsgi")
    entry = worker(source, env={"LOG": log, "PLAN": "x"}).get_entrypoint()
    assert (await (await entry.fetch("http://a.b/z")).json())["PATH_INFO"] == "/z"


# Frameworks


STARLETTE = """
    import asgi
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route
    from workers import WorkerEntrypoint

    async def hello(request):
        form = dict(await request.form()) if request.method == "PUT" else None
        return JSONResponse({"hello": request.path_params["name"], "form": form, "env": request.scope["env"].PLAN})

    async def stream(request):
        async def pieces():
            for number in range(3):
                yield f"{number};"
        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/hello/{name}", hello, methods=["GET", "PUT"]), Route("/stream", stream)])

    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return await asgi.fetch(app, request, self.env, self.ctx)
"""
FASTAPI = """
    from contextlib import asynccontextmanager
    from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
    from fastapi.middleware.cors import CORSMiddleware
    from pydantic import BaseModel
    from workers import WorkerEntrypoint, asgi

    @asynccontextmanager
    async def lifespan(app):
        yield {"began": True}

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    class Item(BaseModel):
        name: str
        price: float = 1.5

    @app.get("/hello/{name}")
    async def hello(name: str, request: Request, times: int = 1):
        return {"hello": name * times, "env": request.scope["env"].PLAN, "began": request.state.began}

    @app.get("/sync")
    def sync(env=asgi.env):
        return {"env": env.PLAN}

    @app.post("/items", status_code=201)
    async def create(item: Item, request: Request, tasks: BackgroundTasks):
        db = request.scope["env"].DB
        await db.exec("CREATE TABLE IF NOT EXISTS items (name TEXT, price REAL)")
        await db.prepare("INSERT INTO items VALUES (?, ?)").bind(item.name, item.price).run()
        tasks.add_task(print, "noted")
        return (await db.prepare("SELECT * FROM items").all()).results

    @app.get("/missing")
    async def missing():
        raise HTTPException(404, "nothing here")

    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return await asgi.fetch(app, request.js_object, self.env)
"""
FLASK = """
    from flask import Flask, jsonify, request, stream_with_context
    from pyodide.ffi import run_sync
    from workers import wsgi

    app = Flask(__name__)

    @app.get("/hello/<name>")
    def hello(name):
        return jsonify(hello=name, env=request.environ["workers.env"].PLAN)

    @app.post("/items")
    def create():
        db = request.environ["workers.env"].DB
        run_sync(db.exec("CREATE TABLE IF NOT EXISTS items (name TEXT)"))
        run_sync(db.prepare("INSERT INTO items VALUES (?)").bind(request.get_json()["name"]).run())
        return jsonify([dict(row) for row in run_sync(db.prepare("SELECT * FROM items").all()).results]), 201

    @app.post("/form")
    def form():
        return request.form["a"] + request.files["file"].read().decode()

    @app.get("/stream")
    def stream():
        @stream_with_context
        def pieces():
            for number in range(3):
                yield f"{number};"
        return pieces()

    Default = wsgi.entrypoint(app)
"""
DJANGO = """
    import asgi
    import django
    from django.conf import settings
    from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path
    from workers import WorkerEntrypoint, wsgi

    settings.configure(DEBUG=False, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware"], INSTALLED_APPS=[], TEMPLATES=[
        {"BACKEND": "django.template.backends.django.DjangoTemplates"}], LANGUAGE_CODE="de")
    django.setup()

    def hello(request, name):
        bindings = request.scope["env"] if hasattr(request, "scope") else request.environ["workers.env"]
        return JsonResponse({"hello": name, "env": bindings.PLAN, "posted": request.POST.get("a")})

    def page(request):
        from django.template import Template, Context
        from django.utils.translation import gettext
        words = Template("{% for n in ns %}{{ n }};{% endfor %}").render(Context({"ns": [1, 2]}))
        return HttpResponse(words + gettext("yes,no,maybe"))

    from django.views.decorators.csrf import csrf_exempt
    urlpatterns = [path("hello/<name>", csrf_exempt(hello)), path("page", page)]

    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    as_asgi, as_wsgi = get_asgi_application(), get_wsgi_application()

    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            return await asgi.fetch(as_asgi, request, self.env, self.ctx)

    class Older(WorkerEntrypoint):
        async def fetch(self, request):
            return await wsgi.fetch(as_wsgi, request, self.env)
"""
PROFILES = {
    "starlette": ("starlette.applications", "starlette.responses", "typing_extensions"),
    "fastapi": ("fastapi", "fastapi.middleware.cors"),
    "flask": ("flask",),
    "django": ("django", "django.core.asgi", "django.core.wsgi"),
}


@pytest.fixture(scope="module")
def database(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A folder of databases."""
    databases = Databases(tmp_path_factory.mktemp("databases"), limits=DatabaseLimits(seconds=100))
    yield runner.run(databases.__aenter__())
    runner.run(databases.__aexit__(None, None, None))


@pytest.fixture
def framework(loader: Loader, database: Databases) -> Callable[..., Any]:
    """A tenant that serves with a framework, which its runtime profile has imported."""

    def make(name: str, source: str, entrypoint: str | None = None) -> Any:
        pytest.importorskip(name)
        code = WorkerCode(
            main_module="main.py",
            modules={"main.py": textwrap.dedent(source)},
            env={"PLAN": "pro", "DB": Database(database, name)},
            preload=PROFILES[name],
        )
        return loader.get(f"{name}-tenant", lambda: code).get_entrypoint(entrypoint)

    return make


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_an_entrypoint_of_an_application_serves_its_web_sockets_too(worker: Make, log: Log) -> None:
    """Whoever asks for one."""
    entry = worker(APPS, env={"LOG": log, "PLAN": ""}).get_entrypoint("Echo")
    assert await (await entry.fetch("http://a.b/")).text() == "x"
    async with await entry.fetch("http://a.b/", headers={"upgrade": "websocket"}) as response:
        socket = response.web_socket
        assert socket is not None
        await socket.send("tea")
        assert await anext(socket) == "tea"


async def test_starlette_serves(framework: Any) -> None:
    """Routes, forms, streams."""
    entry = framework("starlette", STARLETTE)
    told = await (await entry.fetch("http://a.b/hello/you")).json()
    assert told == {"hello": "you", "form": None, "env": "pro"}
    assert await (await entry.fetch("http://a.b/stream")).text() == "0;1;2;"
    assert (await entry.fetch("http://a.b/none")).status == 404


async def test_fastapi_serves(framework: Any) -> None:
    """Validation, dependencies, a database, background work, what runs in threads, middleware, errors, and its docs."""
    entry = framework("fastapi", FASTAPI)
    told = await (await entry.fetch("http://a.b/hello/you?times=2")).json()
    assert told == {"hello": "youyou", "env": "pro", "began": True}
    assert (await entry.fetch("http://a.b/hello/you?times=x")).status == 422
    assert await (await entry.fetch("http://a.b/sync")).json() == {"env": "pro"}
    made = Request("http://a.b/items", method="POST", body=pieces(b'{"name": ', b'"tea"}'),
                   headers=[("content-type", "application/json"), ("origin", "http://c.d")])  # fmt: skip
    response = await entry.fetch(made)
    assert response.status == 201
    assert ("access-control-allow-origin", "*") in response.headers
    assert await response.json() == [{"name": "tea", "price": 1.5}]
    missing = await entry.fetch("http://a.b/missing")
    assert (missing.status, await missing.json()) == (404, {"detail": "nothing here"})
    assert (await (await entry.fetch("http://a.b/openapi.json")).json())["paths"].keys() >= {"/items", "/sync"}


async def test_flask_serves(framework: Any) -> None:
    """Routes, JSON, forms with files, streams, and a database that is waited for in a plain function."""
    entry = framework("flask", FLASK)
    assert await (await entry.fetch("http://a.b/hello/you")).json() == {"hello": "you", "env": "pro"}
    kind = [("content-type", "application/json")]
    response = await entry.fetch("http://a.b/items", method="POST", body=b'{"name": "tea"}', headers=kind)
    assert (response.status, await response.json()) == (201, [{"name": "tea"}])
    form = (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n2\r\n--x--\r\n'
    )
    headers = [("content-type", "multipart/form-data; boundary=x"), ("content-length", str(len(form)))]
    assert await (await entry.fetch("http://a.b/form", method="POST", body=form, headers=headers)).text() == "12"
    assert await (await entry.fetch("http://a.b/stream")).text() == "0;1;2;"


@pytest.mark.parametrize("entrypoint", [None, "Older"])
async def test_django_serves(framework: Any, entrypoint: str | None) -> None:
    """Routes, forms and templates, by either protocol."""
    entry = framework("django", DJANGO, entrypoint)
    headers = [("content-type", "application/x-www-form-urlencoded"), ("content-length", "3")]
    response = await entry.fetch("http://a.b/hello/you", method="POST", body=b"a=1", headers=headers)
    assert await response.json() == {"hello": "you", "env": "pro", "posted": "1"}
    assert await (await entry.fetch("http://a.b/page")).text() == "1;2;Ja,Nein,Vielleicht"
    assert (await entry.fetch("http://a.b/none")).status == 404
