"""`workers.asgi`: an ASGI application answers requests: `await asgi.fetch(app, request, self.env, self.ctx)`.

Its lifespan is that of one request, as in Cloudflare's SDK: a worker's object is too. Bodies stream both ways, and
neither side is read faster than the other takes it. Web sockets are the business of `workers.websocket`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Awaitable
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from cloister.sandbox.guest import scope
from cloister.sandbox.guest.entrypoints import WorkerEntrypoint
from cloister.sandbox.guest.http import Response

from .gateway import BaseOptions

logger = logging.getLogger("asgi")
ASGI: Final = {"version": "3.0", "spec_version": "2.0"}
_NO_BODY: Final = frozenset({101, 103, 204, 205, 304})
_background: set[asyncio.Future[Any]] = set()


class Options(BaseOptions):
    """How an application is served."""


def request_to_scope(req: Any, env: Any, ws: bool = False, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an application is told of a request. `env` is in it, and `path` decoded."""
    url = urlsplit(req.url)
    path = url.path or "/"
    port = url.port or (443 if url.scheme == "https" else 80)
    found = {
        "type": "websocket" if ws else "http",
        "asgi": ASGI,
        "http_version": "1.1",
        "method": str(getattr(req.method, "value", req.method)),
        "scheme": url.scheme,
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": url.query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in _pairs(req)],
        "server": (url.hostname or "", port),
        "client": None,
        "env": env,
    }
    return found if state is None else {**found, "state": dict(state)}


def run_in_background(coro: Awaitable[Any]) -> asyncio.Future[Any]:
    """Work that nobody waits for; what it raises is logged."""
    task = asyncio.ensure_future(coro)
    _background.add(task)

    def done(over: asyncio.Future[Any]) -> None:
        _background.discard(over)
        if not over.cancelled() and (error := over.exception()) is not None:
            logger.error("Unhandled exception in background task", exc_info=error)

    task.add_done_callback(done)
    return task


async def fetch(app: Any, req: Any, env: Any, ctx: Any = None, *, options: Options | None = None) -> Response:
    """The application's answer. What it raises before it has answered is raised; afterwards it is logged."""
    lifespan = Lifespan(app)
    state = await lifespan.start()
    exchange = Exchange(app, req, options)
    serving = asyncio.ensure_future(exchange.serve(request_to_scope(req, env, state=state)))
    try:
        response = await exchange.answer
    except BaseException as error:
        if isinstance(error, Exception):
            logger.exception("ASGI request failed")
        serving.cancel()
        await asyncio.wait({serving})
        await lifespan.stop()
        raise
    if serving.done() or response.body is None or response.body.short:
        await asyncio.wait({serving})
        await lifespan.stop()
    else:
        scope.wait_until(_finish(serving, lifespan))
    return response


def entrypoint(app: Any, *, options: Options | None = None) -> type[WorkerEntrypoint]:
    """An entrypoint that has an application answer everything, web sockets too: `Default = asgi.entrypoint(app)`."""

    class Default(WorkerEntrypoint):
        async def fetch(self, request: Any) -> Response:
            if (request.headers.get("upgrade") or "").lower() == "websocket":
                return await websocket(app, request, self.env)
            return await fetch(app, request, self.env, options=options)

    return Default


async def _finish(serving: asyncio.Future[None], lifespan: Lifespan) -> None:
    await asyncio.wait({serving})
    await lifespan.stop()


async def websocket(app: Any, req: Any, env: Any = None) -> Response:
    """The application's answer to who asks for a web socket, on which it speaks from then on."""
    from . import websocket as sockets

    return await sockets.answer(app, request_to_scope(req, env, ws=True), req)


class Exchange:
    """One request and its answer."""

    def __init__(self, app: Any, request: Any, options: Options | None) -> None:
        self._app, self._request = app, request
        self._encode_body = None if options is None else options.encode_body
        self._pieces = None if request.body is None else aiter(request.body)
        self._asked = False
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._over = asyncio.Event()
        self._left = False
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def serve(self, scope_: dict[str, Any]) -> None:
        """Let the application work on it."""
        try:
            await self._app(scope_, self._receive, self._send)
            if not self.answer.done():
                self.answer.set_exception(RuntimeError("The application did not generate a response"))
        except Exception as error:
            if not self.answer.done():
                self.answer.set_exception(error)
            elif not (self._left and isinstance(error, OSError)):
                logger.exception("Exception in ASGI application after response started")
        finally:
            if not self._over.is_set():
                self._over.set()
                with contextlib.suppress(asyncio.QueueFull):
                    self._queue.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self._asked:
            await self._over.wait()
            return {"type": "http.disconnect"}
        piece = None if self._pieces is None else await anext(self._pieces, None)
        self._asked = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            pairs = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in
                     event.get("headers", ())]  # fmt: skip
            self._head = event["status"], pairs
        elif event["type"] == "http.response.body":
            if self._head is None:
                raise RuntimeError("the application sent a body before http.response.start")
            await self._send_body(*self._head, bytes(event.get("body", b"")), event.get("more_body", False))

    async def _send_body(self, status: int, pairs: list[tuple[str, str]], body: bytes, more: bool) -> None:
        if not self.answer.done():
            content = None if status in _NO_BODY else _Streamed(self, body) if more else body
            self.answer.set_result(Response(content, status, headers=pairs, encode_body=self._encode_body))
            if not more:
                self._over.set()
            return
        if self._left:
            raise ConnectionResetError("nobody reads the response any longer")
        if not self._over.is_set():
            if body:
                await self._queue.put(body)
            if not more:
                await self._queue.put(None)
                self._over.set()

    async def next(self) -> bytes | None:
        """A further piece of the answer, None after the last."""
        return None if self._over.is_set() and self._queue.empty() else await self._queue.get()

    def leave(self) -> None:
        """Nobody reads on. The application is told so, when it asks and when it sends."""
        if not self._over.is_set():
            self._left = True
            self._over.set()
        while not self._queue.empty():  # whoever waits for room need not
            self._queue.get_nowait()


class _Streamed:
    """An answer that is being made. Whether anybody ever began to read it or not, it can be left."""

    def __init__(self, exchange: Exchange, first: bytes) -> None:
        self._exchange, self._first = exchange, first

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece: bytes | None = self._first
        self._first = b""
        piece = piece or await self._exchange.next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._exchange.leave()


class Lifespan:
    """Of an application, for one request. One that knows nothing of it is served without."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[bool] = loop.create_future()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._state: dict[str, Any] = {}

    async def start(self) -> dict[str, Any]:
        """Its state. `RuntimeError` if it says that it cannot start."""
        self._events.put_nowait({"type": "lifespan.startup"})
        run_in_background(self._run())
        await self._started
        return self._state

    async def stop(self) -> None:
        """Tell it, and wait for what it does about it. `RuntimeError` if it says that it cannot stop."""
        if self._started.done() and self._started.exception() is None and self._started.result():
            self._events.put_nowait({"type": "lifespan.shutdown"})
            await self._stopped

    async def _run(self) -> None:
        about = {"type": "lifespan", "asgi": ASGI, "state": self._state}
        try:
            await self._app(about, self._events.get, self._send)
        except Exception as error:
            if self._started.done():
                logger.exception("Exception in ASGI lifespan application")
            else:
                logger.debug(
                    "ASGI lifespan task raised before reporting startup; treating the app as not supporting lifespan",
                    exc_info=error,
                )
        if not self._started.done():
            self._started.set_result(False)
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _send(self, event: dict[str, Any]) -> None:
        done: asyncio.Future[Any] = self._started if "startup" in event["type"] else self._stopped
        kind = event["type"].rpartition(".")[2]
        if kind not in {"complete", "failed"} or done.done():
            return
        if kind == "complete":
            done.set_result(True)
        else:
            what = "startup" if done is self._started else "shutdown"
            done.set_exception(RuntimeError(event.get("message") or f"ASGI lifespan {what} failed"))


def _pairs(request: Any) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = request.headers.pairs
    return pairs


def __getattr__(name: str) -> Any:
    if name == "env":  # for which FastAPI has to be there
        fastapi = importlib.import_module("fastapi")

        async def env(request: Any) -> Any:
            return request.scope["env"]

        env.__annotations__["request"] = fastapi.Request
        found = globals()["env"] = fastapi.Depends(env)
        return found
    raise AttributeError(f"module 'workers.asgi' has no attribute {name!r}")
