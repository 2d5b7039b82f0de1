"""Requests, responses and `fetch`, as Cloudflare's Python SDK has them.

Either crosses the wire as a capability whose attributes are its head, and its body too if that is short; a longer one
is asked for in pieces, so that nobody has to hold what nobody has read. A message that is sent takes its body along.
Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from http import HTTPMethod, HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub

from . import scope
from .values import JsDict

INLINE: Final = 256 * 1024
"""Bytes of a body that travel with its head, and of one piece of a longer body."""
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSENDABLE: Final = re.compile(r"[\r\n\x00]")
_METHODS: Final = {method.value: method for method in HTTPMethod}
_REDIRECTS: Final = {301, 302, 303, 307, 308}
Pairs = list[tuple[str, str]]


class Headers:
    """Names, whatever their case, and values, in order. What is missing is None; what is repeated comes joined by
    commas, but for `Set-Cookie`, of which `get_all` gives each."""

    __module__ = "workers"

    def __init__(self, given: Any = None) -> None:
        self.pairs: Pairs = []
        items = given.items() if isinstance(given, Mapping | Headers) else given or ()
        if not isinstance(items, Iterable) or isinstance(items, str | bytes):
            raise TypeError("Received unexpected type for headers argument")
        for name, value in items:
            self.append(name, value)

    def append(self, name: str, value: Any) -> None:
        """One more of that name."""
        text = _text(value).strip(" \t")
        if not isinstance(name, str) or not _TOKEN.fullmatch(name) or _UNSENDABLE.search(text):
            raise TypeError(f"Invalid header: {name!r:.80}: {text!r:.80}")
        self.pairs.append((name, text))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, all of them joined."""
        found = self.get_all(name)
        return default if not found else found[0] if name.lower() == "set-cookie" else ", ".join(found)

    def get_all(self, name: str, default: Any = None) -> Any:
        """Each value of that name."""
        return [value for other, value in self.pairs if other.lower() == name.lower()] or default

    def __setitem__(self, name: str, value: Any) -> None:
        del self[name]
        self.append(name, value)

    def keys(self) -> list[str]:
        """Each name once, as it was first written."""
        return list({name.lower(): name for name, _ in reversed(self.pairs)}.values())[::-1]

    def items(self) -> Pairs:
        """Each name with its value; `Set-Cookie` as often as it is there."""
        cookies = [pair for pair in self.pairs if pair[0].lower() == "set-cookie"]
        return [(name, self.get(name)) for name in self.keys() if name.lower() != "set-cookie"] + cookies

    def values(self) -> list[str]:
        """The values of `items`."""
        return [value for _, value in self.items()]

    __getitem__ = get

    def __delitem__(self, name: str) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0].lower() != name.lower()]

    set, delete = __setitem__, __delitem__

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get_all(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({dict(self.items())!r})"


class Stream(RpcTarget):
    """A body: an asynchronous iterator of bytes that can be read once, here or by whoever it is sent to."""

    __module__ = "workers"

    def __init__(self, source: bytes | AsyncIterator[Any]) -> None:
        self._whole = source if isinstance(source, bytes) else b""
        self._rest = None if isinstance(source, bytes) else source
        self.used = False

    @property
    def short(self) -> bool:
        """Whether it is all here, and little enough to go with the head."""
        return self._rest is None and len(self._whole) <= INLINE

    async def next(self) -> dict[str, Any]:
        """The next piece, for the other side."""
        piece = await anext(self, None)
        return {"done": piece is None, "value": piece}

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.used = True
        while not self._whole:
            if self._rest is None:
                raise StopAsyncIteration
            self._whole = _bytes(await anext(self._rest))
        piece, self._whole = self._whole[:INLINE], self._whole[INLINE:]
        return piece

    async def aclose(self) -> None:
        """Nobody reads on."""
        rest, self._rest, self._whole = self._rest, None, b""
        if (close := getattr(rest, "aclose", None)) is not None:
            with contextlib.suppress(RuntimeError):  # it is being read, and told so
                await close()

    def take(self) -> bytes:
        """All of a short one at once."""
        self.used = True
        return self._whole


class Bodied(RpcTarget):
    """What has a body: how that is read, and how it is sent."""

    body: Stream | None = None

    @property
    def body_used(self) -> bool:
        """Whether the body was read, or sent, or begun to be."""
        return self.body is not None and self.body.used

    bodyUsed = body_used  # noqa: N815 - the names of the SDK

    def _open(self) -> Stream:
        if self.body_used:
            raise OSError("Body already used")
        return self.body if self.body is not None else Stream(b"")

    async def bytes(self) -> bytes:
        """The body."""
        return b"".join([piece async for piece in self._open()])

    async def text(self) -> str:
        """The body as text."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def buffer(self) -> memoryview:
        """The body, without copying it once more."""
        return memoryview(await self.bytes())

    arrayBuffer = memoryview = buffer  # noqa: N815

    async def _json(self, **options: Any) -> Any:
        return json.loads(await self.text(), **{"object_hook": JsDict, **options})

    json: Any = _json

    async def next(self) -> dict[str, Any]:
        """The next piece of the body, for the other side."""
        return {"done": True, "value": None} if self.body is None else await self.body.next()

    def rpc_disposed(self) -> None:
        """Nobody over there will read on."""
        if self.body is not None:
            scope.loop.create_task(self.body.aclose())

    def _sent(self, kind: str, **head: Any) -> dict[str, Any]:
        """The attributes of the capability that this becomes."""
        stream = self._open() if self.body is not None else None
        whole = None if stream is None else stream.take() if stream.short else ...
        return {"workers.class": kind, **head} | ({} if whole is ... else {"body": whole})

    def _receive(self, attributes: Mapping[str, Any], stub: Stub) -> None:
        whole = attributes["body"] if "body" in attributes else _pieces(stub.dup())
        self.body = None if whole is None else Stream(whole)

    def _copied(self, other: Any) -> Any:
        if not self._open().short:
            raise TypeError("a body that streams cannot be read twice, so it cannot be cloned")
        if self.body is not None:
            other.body = Stream(self.body._whole)
        return other


class Request(Bodied):
    """What was asked. `Request(url_or_request, method=..., headers=..., body=...)`."""

    __module__ = "workers"
    url: str
    redirect: str
    _headers: Headers

    def __init__(self, input: Any, /, **options: Any) -> None:  # noqa: A002 - the name of the SDK
        if isinstance(input, Request):
            options = {"method": input.method, "headers": input._headers, "redirect": input.redirect, **options}
            if "body" not in options and input.body is not None:
                options["body"] = input._open()
        self.url = _normal(input.url if isinstance(input, Request) else input)
        method = str(getattr(options.get("method"), "value", options.get("method") or "GET"))
        method = method.upper() if method.upper() in _METHODS else method
        if not _TOKEN.fullmatch(method):
            raise TypeError(f"{method!r:.40} is not a valid HTTP method.")
        self.method: Any = _METHODS.get(method, method)
        self.redirect = str(options.get("redirect") or "follow")
        self.cf = JsDict(options["cf"]) if options.get("cf") else None
        self._headers = Headers(options.get("headers"))
        self.body, kind = _body(options.get("body"), "Request")
        if self.body is not None and method in {"GET", "HEAD"}:
            raise TypeError("Request with a GET or HEAD method cannot have a body.")
        if kind and "content-type" not in self._headers:
            self._headers.append("content-type", kind)

    @property
    def headers(self) -> Headers:
        """A copy of the headers."""
        return Headers(self._headers.pairs)

    def clone(self) -> Request:
        """Another one of the same, body included."""
        copy: Request = self._copied(
            Request(self.url, method=self.method, headers=self._headers, redirect=self.redirect)
        )
        return copy

    def rpc_attributes(self) -> Mapping[str, Any]:
        """The head, and a short body."""
        return self._sent("Request", url=self.url, method=str(getattr(self.method, "value", self.method)),
                          headers=self._headers.pairs, redirect=self.redirect)  # fmt: skip

    @classmethod
    def _received(cls, attributes: Mapping[str, Any], stub: Stub) -> Request:
        options = {name: attributes.get(name) for name in ("method", "headers", "redirect", "cf")}
        request = cls(attributes["url"], **options)
        request._receive(attributes, stub)
        return request

    def __repr__(self) -> str:
        return f"Request(method={str(getattr(self.method, 'value', self.method))!r}, url={self.url!r})"


class _Json:
    """`Response.json(data)` makes a response; `await response.json()` reads one."""

    def __get__(self, instance: Response | None, owner: type[Response]) -> Callable[..., Any]:
        return owner.from_json if instance is None else instance._json


class FetchResponse(Bodied):
    """What was answered."""

    __module__ = "workers"
    status: int
    status_text: str
    _headers: Headers
    type = "default"
    url = ""
    redirected = False

    def __init__(
        self, body: Any = None, status: Any = None, status_text: str = "", headers: Any = None, web_socket: None = None
    ) -> None:
        if web_socket is not None:
            raise TypeError("there are no web sockets here")
        if isinstance(body, FetchResponse):
            if status is not None or status_text or headers is not None:
                raise ValueError("Expected no options when constructing Response from a js.Response")
            status, status_text, headers, body = body.status, body.status_text, body._headers, body.body
        self.status = 200 if status is None else int(status)
        if not 200 <= self.status <= 599:
            raise ValueError(f"status {self.status} is not one of 200 to 599")
        self.status_text = str(status_text) or _phrase(self.status)
        if _UNSENDABLE.search(self.status_text):
            raise TypeError("Invalid statusText")
        self._headers = Headers(headers)
        self.body, kind = _body(body, "Response")
        if kind and "content-type" not in self._headers:
            self._headers.append("content-type", kind)

    @property
    def headers(self) -> Headers:
        """A copy of the headers."""
        return Headers(self._headers.pairs)

    @property
    def ok(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300

    @property
    def statusText(self) -> str:  # noqa: N802 - the name of the SDK
        """See `status_text`."""
        return self.status_text

    def raise_for_status(self) -> None:
        """`OSError` for an error of the client's or the server's."""
        if self.status >= 400:
            raise OSError(f"{self.status} {self.status_text}: {self.url}")

    def clone(self) -> Any:
        """Another one of the same, body included."""
        return self._copied(type(self)(None, self.status, self.status_text, self._headers))

    def replace_body(self, body: Any) -> Any:
        """The same status and headers around another body."""
        return type(self)(body, self.status, self.status_text, self._headers)

    def rpc_attributes(self) -> Mapping[str, Any]:
        """The head, and a short body."""
        return self._sent("Response", status=self.status, status_text=self.status_text, headers=self._headers.pairs,
                          url=self.url, redirected=self.redirected)  # fmt: skip

    @classmethod
    def _received(cls, attributes: Mapping[str, Any], stub: Stub) -> Any:
        response = cls(None, attributes["status"], attributes["status_text"], attributes["headers"])
        response.url, response.redirected = attributes.get("url", ""), attributes.get("redirected", False)
        response._receive(attributes, stub)
        return response

    def __repr__(self) -> str:
        kind = self._headers.get("content-type")
        return f"Response(status={self.status}, status_text={self.status_text!r}, content_type={kind!r})"


class Response(FetchResponse):
    """What a worker answers: `Response("text", status=..., headers=...)`, `Response.json(data)`, and what it gets."""

    __module__ = "workers"
    json = _Json()

    @classmethod
    def from_json(cls, data: Any, status: Any = 200, status_text: str = "", headers: Any = None) -> Response:
        """A value as JSON."""
        response = cls(json.dumps(data).encode(), status, status_text, headers)
        if "content-type" not in response._headers:
            response._headers.append("content-type", "application/json")
        return response

    @classmethod
    def redirect(cls, url: str, status: Any = 302) -> Response:
        """Somewhere else."""
        if int(status) not in _REDIRECTS:
            raise ValueError(f"{status} is not a redirect status")
        return cls(None, status, headers={"location": _normal(url)})

    @staticmethod
    def error() -> Response:
        """What stands for an answer that never came."""
        raise OSError("Response.error() is not supported")


async def fetch(resource: Any, /, **options: Any) -> Response:
    """Ask the network, by way of what the host granted as `global_outbound`. `OSError` where that fails."""
    return await outbound().fetch(Request(resource, **options))  # type: ignore[no-any-return]


def outbound() -> Any:
    """What the host granted for it. `PermissionError` if there is nothing."""
    if scope.outbound is None:
        raise PermissionError(
            errno.EACCES,
            "this worker is not permitted to reach the network: the host granted it no global_outbound. "
            "It can call the bindings in its env",
        )
    return scope.outbound


def dress(stub: Stub) -> Any:
    """What the other side sent, as an object of its class."""
    kind = stub._attributes["workers.class"]
    if kind in {"Request", "Response"}:
        return (Request if kind == "Request" else Response)._received(stub._attributes, stub)
    from . import bound

    return bound.dress(kind, stub)


def _body(body: Any, where: str) -> tuple[Stream | None, str]:
    """What is read of it, and of which type it is unless somebody says otherwise."""
    match body:
        case None:
            return None, ""
        case str():
            return Stream(body.encode()), "text/plain;charset=UTF-8"
        case bytes() | memoryview():
            return Stream(bytes(body)), ""
        case Stream():
            if body.used:
                raise OSError("Body already used")
            return body, ""
        case _ if hasattr(body, "__aiter__"):
            return Stream(aiter(body)), ""
    raise TypeError(f"Unsupported type in {where}: {type(body).__name__}")


async def _pieces(stub: Stub) -> AsyncIterator[bytes]:
    """A body of the other side's."""
    with stub:
        while not (answer := await stub.next())["done"]:
            yield answer["value"]


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise TypeError(f"a body yields bytes or text, not {type(piece).__name__}")


def _text(value: Any) -> str:
    """As JavaScript would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _normal(url: Any) -> str:
    parts = urlsplit(str(url))
    if not parts.scheme or not parts.netloc or _UNSENDABLE.search(str(url)):
        raise TypeError(f"Invalid URL: {url!r:.200}")
    return urljoin(str(url), "/") if not parts.path and not parts.query and not parts.fragment else str(url)
