"""Requests and responses as the host has them. A short body travels with its head, a longer one is asked for in pieces.

What comes out of a sandbox is checked here, once: names and values that could not stand in a header, a status that is
none, pieces that are no bytes. It refuses to know who is at the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from cloister.ipc import CapabilityError, Stub, values
from cloister.ipc.streams import RemoteStream
from cloister.ipc.stubs import Channel

INLINE: Final = 256 * 1024
"""Bytes of a body that travel with its head."""
_CLASS: Final = "workers.class"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_UNSENDABLE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_MOST_HEADERS: Final = 256
_MOST_HEADER_BYTES: Final = 64 * 1024
Pairs = tuple[tuple[str, str], ...]
Body = bytes | AsyncIterator[bytes] | None
Whole = bytes | None


class Malformed(ValueError):
    """A request or a response that could not be sent as HTTP. The message says what of it."""


def headers(given: object) -> Pairs:
    """Names and values that can stand in a header. `Malformed` names the first that cannot."""
    if isinstance(given, Mapping):
        given = list(given.items())
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise Malformed("headers are a map, or a list of pairs")
    pairs: list[tuple[str, str]] = []
    size = 0
    for pair in given:
        match pair:
            case [str(name), str(value)] if _TOKEN.fullmatch(name) and not _UNSENDABLE.search(value):
                pairs.append((name, value.strip(" \t")))
                size += len(name) + len(value)
            case _:
                raise Malformed(f"a header that cannot be sent: {pair!r:.120}")
        if len(pairs) > _MOST_HEADERS or size > _MOST_HEADER_BYTES:
            raise Malformed(f"more than {_MOST_HEADERS} headers, or {_MOST_HEADER_BYTES:,} bytes of them")
    return tuple(pairs)


def find(pairs: Pairs, name: str) -> str | None:
    """The first value of a header."""
    return next((value for other, value in pairs if other.lower() == name), None)


class Sent:
    """A message on its way into a sandbox, as the capability that it crosses as."""

    uncounted = True
    """Reading what one was given is no subrequest."""

    def __init__(self, kind: str, head: Mapping[str, Any], body: Body) -> None:
        if isinstance(body, bytes) and len(body) > INLINE:
            body = pieces(body)
        self.attributes = {_CLASS: kind, **head}
        if not hasattr(body, "__aiter__"):
            self.attributes["body"] = body
        self._body = body
        self._turn = asyncio.Lock()

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """The next piece of the body."""
        if method != "next" or not isinstance(self._body, AsyncIterator):
            raise CapabilityError(f"a body has no method {method!r:.40}; it has next()")
        async with self._turn:
            piece = await anext(self._body, None)
        return values.dumps({"done": piece is None, "value": piece})

    def dropped(self) -> None:
        """Nobody over there will read on."""
        if self._body is not None and not isinstance(self._body, bytes):
            asyncio.get_running_loop().create_task(_close(self._body))


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body in pieces that fit into a frame."""
    for start in range(0, len(body), INLINE):
        yield body[start : start + INLINE]


class Message:
    """What has headers and a body that is read once."""

    def __init__(self, given: object, body: Body | str) -> None:
        self.headers = headers(given)
        self._body: Body = body.encode() if isinstance(body, str) else body
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

    `body` is text, bytes or an asynchronous iterator of bytes, which is read as fast as the tenant reads.
    """

    def __init__(
        self, url: str, *, method: str = "GET", headers: object = (), body: Body | str = None, redirect: str = "follow"
    ) -> None:
        super().__init__(headers, body)
        if not isinstance(method, str) or not _TOKEN.fullmatch(method):
            raise Malformed(f"{method!r:.40} is no method")
        self.url, self.method, self.redirect = url, method, redirect

    def sent(self) -> Sent:
        """The same on its way into a sandbox."""
        head = {"url": self.url, "method": self.method, "headers": list(self.headers), "redirect": self.redirect}
        return Sent("Request", head, self._body)

    @classmethod
    def received(cls, value: object, options: Mapping[str, Any]) -> Request:
        """What a sandbox asked for: a request, or a URL and options as of `fetch`. `Malformed`."""
        if isinstance(value, str):
            known = {name: options[name] for name in ("method", "headers", "redirect") if options.get(name) is not None}
            body = options.get("body")
            if body is not None and not isinstance(body, str | bytes):
                raise Malformed(f"a body of {type(body).__name__}; wrap it in a Request")
            return cls(value, body=body, **known)
        attributes, body = opened(value, "Request")
        match attributes:
            case {"url": str(url), "method": str(method), "headers": list(pairs), "redirect": str(redirect)}:
                return cls(url, method=method, headers=pairs, body=body, redirect=redirect)
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
    ) -> None:
        super().__init__(headers, body)
        if type(status) is not int or not 200 <= status <= 599 or _UNSENDABLE.search(status_text):
            raise Malformed(f"{status!r:.20} {status_text!r:.80} is no status")
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
        return Sent("Response", head, self._body if self.whole is not None else _Lent(self))

    @classmethod
    def received(cls, value: object) -> Response:
        """What a sandbox answered. `Malformed`."""
        attributes, body = opened(value, "Response")
        match attributes:
            case {"status": int(status), "status_text": str(text), "headers": list(pairs)}:
                return cls(body, status, status_text=text, headers=pairs)
        raise Malformed("a response without a status and headers")

    async def _read(self) -> AsyncIterator[bytes]:
        try:
            async for piece in super()._read():
                yield piece
        finally:
            await self.aclose()

    def hold(self, resources: AsyncExitStack) -> None:
        """What is closed when the body was read, or closed, or when nobody has the response any longer."""
        self._held = resources
        loop = asyncio.get_running_loop()
        weakref.finalize(self, _close_later, loop, resources)

    async def aclose(self) -> None:
        """Let go of what is left of it. Harmless when repeated."""
        if self._body is not None and not isinstance(self._body, bytes):
            await _close(self._body)
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


def opened(value: object, kind: str) -> tuple[Mapping[str, Any], Body]:
    """The attributes of what crossed as a capability, and its body. `Malformed`."""
    if not isinstance(value, Stub) or value._attributes.get(_CLASS) != kind:
        raise Malformed(f"a {kind} was expected, not {type(value).__name__}")
    whole = value._attributes.get("body", ...)
    if whole is None or isinstance(whole, bytes):
        return value._attributes, whole
    if whole is not ...:
        raise Malformed(f"a body of {type(whole).__name__}")
    return value._attributes, _asked_for(value.dup())


async def read(source: object) -> AsyncIterator[bytes]:
    """What a sandbox gave to be read: a stream, a body, or a message with one. `Malformed`."""
    if isinstance(source, RemoteStream):
        async with source:
            async for piece in source:
                yield _piece(piece)
    elif isinstance(source, Stub):
        whole = source._attributes.get("body", ...)
        if whole is not ...:
            yield _piece(whole or b"")
        else:
            async for piece in _asked_for(source.dup()):
                yield piece
    else:
        raise Malformed(f"{type(source).__name__} is no stream of bytes")


async def read_whole(source: object, most: int) -> bytes:
    """All of it, if that is no more than so many bytes. `Malformed`."""
    data = bytearray()
    async for piece in read(source):
        data += piece
        if len(data) > most:
            raise Malformed(f"it has more than {most:,} bytes")
    return bytes(data)


def _piece(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if not isinstance(piece, bytes):
        raise Malformed(f"a piece of a body that is {type(piece).__name__}")
    return piece


async def _close(body: AsyncIterator[bytes]) -> None:
    if (close := getattr(body, "aclose", None)) is not None:
        with contextlib.suppress(RuntimeError):  # it is being read, by whoever closes it
            await close()


def _close_later(loop: asyncio.AbstractEventLoop, resources: AsyncExitStack) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(resources.aclose()))


async def _asked_for(stub: Stub) -> AsyncIterator[bytes]:
    with stub:
        while True:
            match await stub.next():
                case {"done": True}:
                    return
                case {"done": False, "value": bytes(piece)}:
                    yield piece
                case other:
                    raise Malformed(f"a piece of a body that is {other!r:.80}")
