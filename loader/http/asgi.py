"""A tenant's `fetch` as an ASGI application, to be mounted under Starlette or FastAPI or served by itself.

Both bodies stream, and neither side is read faster than the other takes it. A client that goes away cancels what was
begun for it. What the tenant answers is checked before it becomes HTTP, and what belongs to the connection is the
server's: the tenant has no say in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

from cloister.ipc import IpcError
from cloister.sandbox import LimitExceeded, SandboxDied, SandboxError

from ..errors import EntrypointNotFound, LoaderError, NoCapacity, RestartBackedOff, TenantError, TenantThrottled
from .headers import Malformed, Pairs, find, headers
from .inbox import Gone, Inbox, Receive, Refused
from .messages import Request, Response

_log = logging.getLogger("cloister.http")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_CONNECTION: Final = frozenset(
    "connection content-length keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding"
    " upgrade".split()
)
"""What is between the server and its client."""
_NO_BODY: Final = frozenset({204, 205, 304})
_PREFIX: Final = b"x-forwarded-prefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one request may take. `body_bytes` is of the request's, `response_bytes` of the response's, None for any."""

    header_bytes: int = 32 * 1024
    url_bytes: int = 8 * 1024
    body_bytes: int | None = 64 * 1024 * 1024
    response_bytes: int | None = None
    idle_s: float = 60.0
    """Seconds that the tenant may take for each next piece of its response, and the client to take it."""


class Fetches(Protocol):
    """What answers a request: an `Entrypoint` does."""

    async def fetch(self, request: Request, /) -> Response:
        """The answer."""


_ANSWERS: Final[list[tuple[type[Exception], int, str]]] = [
    (EntrypointNotFound, 501, "This worker serves no HTTP."),
    (TenantError, 500, "The worker raised an exception."),
    (LimitExceeded, 503, "The worker exceeded its limits."),
    (TenantThrottled, 429, "The worker is asked more than it may be. Try again later."),
    (RestartBackedOff, 503, "The worker's process was ended again and again. Try again later."),
    (NoCapacity, 503, "There is no room for the worker now. Try again."),
    (SandboxDied, 502, "The worker's process ended."),
    (SandboxError, 503, "The worker cannot be run now. Try again."),
    (IpcError, 502, "The worker's process ended."),
    (LoaderError, 500, "The worker could not be loaded."),
]
"""What a client is told of each failure, which is little; the log has the rest. The first that fits."""


def asgi(target: Fetches, *, limits: HttpLimits | None = None, strip_root_path: bool = False) -> Application:
    """An ASGI application that has each request answered by an entrypoint's `fetch`.

    A tenant sees the URL that the client asked for. With `strip_root_path` it sees it as if it stood at the root, and
    finds in the header `x-forwarded-prefix` where it is mounted.
    """
    bounds = limits or HttpLimits()

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await Exchange(bounds, _at_root(scope) if strip_root_path else scope, receive, send).serve(target)
            case "websocket":
                await _refuse_socket(scope, receive, send)
            case "lifespan":
                await _live(receive, send)

    return application


class Exchange:
    """One request and its response."""

    def __init__(self, limits: HttpLimits, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._limits, self._scope, self._send = limits, scope, send
        self._inbox = Inbox(receive, limits.body_bytes)
        self._started = False

    async def serve(self, target: Fetches) -> None:
        """Have it answered. What goes wrong after the answer was begun is raised, so that the server breaks it off."""
        try:
            await self._inbox.unless_gone(self._answer(target))
        except Gone:
            return
        except Refused as error:
            await self._say(error.status, str(error))
        except Exception as error:
            known = next((answer for answer in _ANSWERS if isinstance(error, answer[0])), None)
            if known is None or self._started:
                raise
            _log.warning("%s was answered with %d: %s", self._scope["path"], known[1], error)
            over: Refused | None = (
                self._inbox.refused
            )  # the tenant may have passed on, in its words, what it was told of the body
            await self._say(*((over.status, str(over)) if over is not None else known[1:]))
        finally:
            await self._inbox.close()

    async def _answer(self, target: Fetches) -> None:
        response = await target.fetch(self._request())
        async with response:
            await self._start(response)
            if self._scope["method"] != "HEAD" and response.status not in _NO_BODY:
                sent = 0
                async for piece in _in_time(response, self._limits.idle_s):
                    sent += len(piece)
                    if self._limits.response_bytes is not None and sent > self._limits.response_bytes:
                        raise Overrun(f"the response is longer than {self._limits.response_bytes:,} bytes")
                    await self._pass_on(piece)
        await self._send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, piece: bytes) -> None:
        seconds = self._limits.idle_s
        try:
            async with asyncio.timeout(seconds):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            raise Overrun(f"the client took nothing of the response for {seconds:g} s") from None

    async def _start(self, response: Response) -> None:
        kept = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers
                if name.lower() not in _CONNECTION]  # fmt: skip
        if response.whole is not None and response.status not in _NO_BODY:
            kept.append((b"content-length", str(len(response.whole)).encode()))
        self._started = True
        await self._send({"type": "http.response.start", "status": response.status, "headers": kept})

    def _request(self) -> Request:
        scope = self._scope
        given = self._headers()
        host = find(given, "host") or ":".join(str(part) for part in scope.get("server") or ("localhost",) if part)
        if any(sign in host for sign in "/\\@?# \t") or not host.isascii():
            raise Refused(400, "The Host header is malformed.")
        raw = scope.get("raw_path") or scope["path"].encode()
        target = raw.decode("latin-1") + (
            f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        )
        if len(target) > self._limits.url_bytes:
            raise Refused(414, "The URL is too long.")
        try:
            return Request(f"{scope.get('scheme', 'http')}://{host}{target}", method=scope["method"], headers=given,
                           body=self._body(given))  # fmt: skip
        except Malformed as error:
            raise Refused(400, "The request is malformed.") from error

    def _headers(self) -> Pairs:
        if sum(len(name) + len(value) for name, value in self._scope["headers"]) > self._limits.header_bytes:
            raise Refused(431, "The headers are too large.")
        try:
            return headers(
                [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._scope["headers"]]
            )
        except Malformed as error:
            raise Refused(400, "A header is malformed.") from error

    def _body(self, given: Pairs) -> AsyncIterator[bytes] | None:
        length = find(given, "content-length")
        old = self._scope.get("http_version", "1.1") in {"1.0", "1.1"}  # which say whether there is one
        if length is None and find(given, "transfer-encoding") is None and old:
            return None
        most = self._limits.body_bytes
        if most is not None and length is not None and length.isdecimal() and int(length) > most:
            raise Refused(413, f"The body is longer than {most:,} bytes.")
        return None if length == "0" else self._inbox.body()

    async def _say(self, status: int, words: str) -> None:
        if self._started:
            raise Overrun(words)
        body = f"{words}\n".encode()
        known = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": known})
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else body})


class Overrun(Exception):
    """An answer that was begun, and cannot be finished."""


def _at_root(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The same request, as an application at the root would get it."""
    root = scope.get("root_path", "").rstrip("/")
    kept = [
        (name, value) for name, value in scope["headers"] if name.lower() != _PREFIX
    ]  # of which clients know nothing
    path, raw, prefix = scope["path"], scope.get("raw_path"), quote(root).encode()
    if path == root or path.startswith(f"{root}/"):  # or it was left out by the server already
        path = path.removeprefix(root) or "/"
        raw = raw.removeprefix(prefix) or b"/" if raw is not None and raw.startswith(prefix) else quote(path).encode()
    return {**scope, "path": path, "raw_path": raw, "headers": [*kept, (_PREFIX, prefix)] if root else kept}


async def _in_time(response: Response, seconds: float) -> AsyncIterator[bytes]:
    reading = aiter(response)
    while True:
        async with asyncio.timeout(seconds):
            piece = await anext(reading, None)
        if piece is None:
            return
        yield piece


async def _refuse_socket(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    words = b"This worker has no WebSockets; ask it by HTTP.\n"
    if "websocket.http.response" in (scope.get("extensions") or {}):
        known = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode())]
        await send({"type": "websocket.http.response.start", "status": 501, "headers": known})
        await send({"type": "websocket.http.response.body", "body": words})
    else:
        await send({"type": "websocket.close", "code": 1003, "reason": words.decode().strip()})


async def _live(receive: Receive, send: Send) -> None:
    for _ in range(2):
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
