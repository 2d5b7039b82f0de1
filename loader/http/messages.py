"""Requests and responses as the host has them.

What is wrong with one is said where it is made, so that whoever made it is blamed. They refuse to know who is at the
other end.
"""

from __future__ import annotations

import asyncio
import json
import re
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Self
from urllib.parse import urlsplit

from cloister.ipc import Stub

from ..errors import TenantError
from .bodies import CLASS, Body, Sent, Whole, close, opened
from .headers import TOKEN, UNSENDABLE, Malformed
from .headers import headers as checked
from .sockets import SentSocket, WebSocket

_REDIRECTS: Final = ("follow", "manual", "error")
_OPTIONS: Final = ("method", "headers", "redirect", "cf")
_NO_URL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Message:
    """What has headers and a body that is read once."""

    def __init__(self, headers: object, body: Body | str) -> None:
        self.headers = checked(headers)
        self._body: Body = _body(body)
        self._used = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        if self._used:
            raise RuntimeError("the body was read before")
        self._used = True
        if isinstance(self._body, bytes):
            yield self._body
        elif self._body is not None:
            async for piece in self._body:
                yield piece

    async def bytes(self) -> bytes:
        """The body."""
        return b"".join([piece async for piece in self])

    async def text(self) -> str:
        """The body as text."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(await self.bytes())

    @property
    def whole(self) -> Whole:
        """The body if all of it is here, None if it streams."""
        return b"" if self._body is None else self._body if isinstance(self._body, bytes) else None


class Request(Message):
    """What is asked of a tenant: `Request("https://shop.example/", method="POST", body=b"...")`.

    `url` is absolute. `body` is text, bytes or an asynchronous iterator of bytes, which is read as fast as the tenant
    reads. `cf` are plain values that the tenant finds as `request.cf`, such as the client's country. `Malformed` says
    what of it could not be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: object = (),
        body: Body | str = None,
        redirect: str = "follow",
        cf: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(headers, body)
        if not isinstance(method, str) or not TOKEN.fullmatch(method):
            raise Malformed(f"{method!r:.40} is no method")
        if redirect not in _REDIRECTS:
            raise Malformed(f"redirect is {', '.join(_REDIRECTS)}, not {redirect!r:.40}")
        self.url, self.method, self.redirect = _url(url), method, redirect
        self.cf = None if cf is None else dict(cf)
        if not _is_plain(self.cf):
            raise Malformed("cf is a map of plain values, such as {'country': 'PT'}")

    def sent(self) -> Sent:
        """The same on its way into a sandbox."""
        head = {"url": self.url, "method": self.method, "headers": list(self.headers), "redirect": self.redirect}
        return Sent("Request", head if self.cf is None else {**head, "cf": self.cf}, self._body)

    @classmethod
    def received(cls, value: object, options: Mapping[str, Any]) -> Request:
        """What a sandbox asked for: a request, or a URL and options as of `fetch`. `Malformed`."""
        if isinstance(value, str):
            known = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
            if isinstance(given := known.get("headers"), Stub) and given._attributes.get(CLASS) == "Headers":
                known["headers"] = given._attributes.get("pairs")
            body = options.get("body")
            if body is not None and not isinstance(body, str | bytes):
                raise Malformed(f"a body of {type(body).__name__}; wrap it in a Request")
            return cls(value, body=body, **known)
        attributes, body = opened(value, "Request")
        match attributes:
            case {"url": str(url), "method": str(method), "headers": list(pairs), "redirect": str(redirect)}:
                return cls(url, method=method, headers=pairs, body=body, redirect=redirect, cf=attributes.get("cf"))
        raise Malformed("a request without a URL, a method and headers")


class Response(Message):
    """What a tenant answered. Read it to its end, or close it: `async with`, or `await response.aclose()`."""

    def __init__(
        self,
        body: Body | str = None,
        status: int = 200,
        *,
        headers: object = (),
        status_text: str = "",
        url: str = "",
        redirected: bool = False,
        web_socket: WebSocket | None = None,
    ) -> None:
        super().__init__(headers, body)
        known = 200 <= status <= 599 if type(status) is int and web_socket is None else status == 101 and body is None
        if not known or UNSENDABLE.search(status_text):
            raise Malformed(f"{status!r:.20} {status_text!r:.80} is no status")
        self.web_socket = web_socket
        self._length: int | None = None
        self.status, self.status_text, self.url, self.redirected = status, status_text, url, redirected
        self._held = AsyncExitStack()

    def sent(self) -> Sent:
        """The same on its way into a sandbox."""
        head = {
            "status": self.status,
            "status_text": self.status_text,
            "headers": list(self.headers),
            "url": self.url,
            "redirected": self.redirected,
        }
        if self.web_socket is not None:
            return SentSocket(head, self)
        if self._length is not None:
            head["length"] = self._length
        return Sent("Response", head, self._body if self.whole is not None else _Lent(self))

    @classmethod
    def received(cls, value: object) -> Response:
        """What a sandbox answered. `Malformed`."""
        attributes, body = opened(value, "Response")
        match attributes:
            case {"status": int(status), "status_text": str(text), "headers": list(pairs)}:
                socket = WebSocket(value.dup()) if attributes.get("web_socket") is True else None  # type: ignore[attr-defined]
                response = cls(body, status, status_text=text, headers=pairs, web_socket=socket)
                length = attributes.get("length")
                response._length = length if type(length) is int and length >= 0 else None
                return response
        raise Malformed("a response without a status and headers")

    @property
    def length(self) -> int | None:
        """How many bytes the body has, None where nobody has said so."""
        return self._length if self.whole is None else len(self.whole)

    @property
    def lasts(self) -> bool:
        """Whether whoever answered is still needed: for its body, or for its web socket."""
        return self.whole is None or self.web_socket is not None

    async def _read(self) -> AsyncIterator[bytes]:
        try:
            async for piece in super()._read():
                yield piece
        except Malformed as error:
            raise TenantError("Malformed", f"the body of a response: {error}") from error
        finally:
            await self.aclose()

    def hold(self, resources: AsyncExitStack) -> None:
        """What is closed when the body was read, or closed, or when nobody has the response any longer."""
        self._held = resources
        if self.web_socket is not None:
            self.web_socket.needs = resources
        loop = asyncio.get_running_loop()
        weakref.finalize(self, _close_later, loop, resources)

    async def aclose(self) -> None:
        """Let go of what is left of it. Harmless when repeated."""
        if self._body is not None and not isinstance(self._body, bytes):
            await close(self._body)
        if self.web_socket is not None:
            await self.web_socket.close()
            self.web_socket.dispose()
        await self._held.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class _Lent:
    """The body of a response on its way elsewhere. What the response holds is held until it was read, or closed."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._pieces = aiter(response)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Nobody reads on."""
        await self._response.aclose()


def _is_plain(value: object) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(name, str) and _is_plain(one) for name, one in value.items())
    return False


def _close_later(loop: asyncio.AbstractEventLoop, resources: AsyncExitStack) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(resources.aclose()))


def _url(url: object) -> str:
    try:
        if isinstance(url, str) and not _NO_URL.search(url):
            parts = urlsplit(url)
            if parts.scheme and parts.hostname and " " not in parts.netloc and (parts.port is None or parts.port >= 0):
                return url
    except ValueError as error:
        raise Malformed(f"{url!r:.200} is no URL: {error}") from error
    raise Malformed(f"{url!r:.200} is no absolute URL, such as https://shop.example/tea")


def _body(body: Any) -> Body:
    match body:
        case None | bytes():
            return body
        case str():
            return body.encode()
        case bytearray() | memoryview():
            return bytes(body)
        case AsyncIterator():
            return body
        case _ if hasattr(type(body), "__aiter__"):
            return aiter(body)  # type: ignore[no-any-return]
    raise Malformed(f"a body is text, bytes or an asynchronous iterator of bytes, not {type(body).__name__}")
