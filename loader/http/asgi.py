"""A tenant's `fetch` as an ASGI application, to be mounted under Starlette or FastAPI or served by itself.

Both bodies stream, and neither side is read faster than the other takes it. A client that goes away cancels what was
begun for it. What the tenant answers is checked before it becomes HTTP, and what belongs to the connection is the
server's: the tenant has no say in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from ..errors import TenantError
from . import answers, asked
from .asked import HttpLimits
from .headers import Pairs, find
from .inbox import Gone, Inbox, Receive, Refused
from .messages import Request, Response
from .outgoing import Overrun, Send, announced, pass_on
from .upgrade import Upgrade

Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_CONNECTION: Final = frozenset(
    "connection content-length keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding"
    " upgrade".split()
)
"""What is between the server and its client."""


class Fetches(Protocol):
    """What answers a request: an `Entrypoint` does."""

    async def fetch(self, request: Request, /) -> Response:
        """The answer."""


def asgi(target: Fetches, *, limits: HttpLimits | None = None, strip_root_path: bool = False) -> Application:
    """An ASGI application that has each request answered by an entrypoint's `fetch`.

    A tenant sees the URL that the client asked for. With `strip_root_path` it sees it as if it stood at the root, and
    finds in the header `x-forwarded-prefix` where it is mounted.
    """
    bounds = limits or HttpLimits()

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await Exchange(bounds, asked.at_root(scope) if strip_root_path else scope, receive, send).serve(target)
            case "websocket":
                await Upgrade(bounds, asked.at_root(scope) if strip_root_path else scope, receive, send).serve(target)
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
            known = None if self._started else answers.to(error, self._scope["path"])
            if known is None:
                raise
            over: Refused | None = (
                self._inbox.refused
            )  # the tenant may have passed on, in its words, what it was told of the body
            await self._say(*((over.status, str(over)) if over is not None else known))
        finally:
            await self._inbox.close()

    async def _answer(self, target: Fetches) -> None:
        response = await target.fetch(self._request())
        async with response:
            if response.web_socket is not None:
                raise TenantError("Malformed", "fetch() gave a web socket to who asked for none")
            await self._start(response)
            if self._scope["method"] != "HEAD":
                await pass_on(response, self._limits, self._send, "http.response.body")
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, response: Response) -> None:
        kept = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers
                if name.lower() not in _CONNECTION]  # fmt: skip
        if (length := announced(response)) is not None:
            kept.append((b"content-length", str(length).encode()))
        self._started = True
        await self._send({"type": "http.response.start", "status": response.status, "headers": kept})

    def _request(self) -> Request:
        given = asked.headers_of(self._scope, self._limits)
        return asked.request(self._scope, given, self._limits, self._body(given))

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


async def _live(receive: Receive, send: Send) -> None:
    for _ in range(2):
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
