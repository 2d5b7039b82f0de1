"""Requests, responses and `fetch`, as Cloudflare's Python SDK has them.

Either crosses the wire as a capability whose attributes are its head, and its body too if that is short; a longer one
is asked for in pieces, so that nobody has to hold what nobody has read. A message that is sent takes its body along.
Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable, Mapping
from http import HTTPMethod, HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

from cloister.ipc.stubs import Stub

from . import scope
from .bodies import Bodied, Stream, given
from .headers import TOKEN, UNSENDABLE, Headers, text
from .values import JsDict

_METHODS: Final = {method.value: method for method in HTTPMethod}
_CODINGS: Final = {"gzip", "br"}
"""What the runtime knows of `Content-Encoding`. A body of any other is sent as it was made."""
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_USUAL: Final = {
    "cache": "default", "credentials": "same-origin", "mode": "cors", "referrer": "about:client", "referrer_policy": "",
    "integrity": "", "keepalive": False, "destination": "", "signal": None,
}  # fmt: skip
"""What requests have beside, unless it is said, and what for no host here asks."""


class Request(Bodied):
    """What was asked. `Request(url_or_request, method=..., headers=..., body=...)`."""

    __module__ = "workers"
    url: str
    redirect: str
    cache: str
    credentials: str
    mode: str
    referrer: str
    referrer_policy: str
    integrity: str
    keepalive: bool
    destination: str
    signal: Any
    _headers: Headers

    def __init__(self, input: Any, /, **options: Any) -> None:  # noqa: A002 - the name of the SDK
        if isinstance(input, Request):
            known = {name: getattr(input, name) for name in ("method", "redirect", "cf", *_USUAL)}
            options = {**known, "headers": input._headers, **options}
            if "body" not in options and input.body is not None:
                options["body"] = input._open()
        self.url = _normal(input.url if isinstance(input, Request) else input)
        method = str(getattr(options.get("method"), "value", options.get("method") or "GET"))
        method = method.upper() if method.upper() in _METHODS else method
        if not TOKEN.fullmatch(method):
            raise TypeError(f"{method!r:.40} is not a valid HTTP method.")
        self.method: Any = _METHODS.get(method, method)
        self.redirect = str(options.get("redirect") or "follow")
        cf = options.get("cf") or None
        self.cf = cf if cf is None or isinstance(cf, JsDict) else JsDict(cf)
        for name, usual in _USUAL.items():
            setattr(self, name, usual if options.get(name) is None else options[name])
        self._headers = Headers(options.get("headers"))
        body = options.get("body")
        self.body, kind = given(",".join(map(text, body)) if isinstance(body, list) else body, "Request")
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
            Request(self.url, method=self.method, headers=self._headers, redirect=self.redirect, cf=self.cf)
        )
        return copy

    def rpc_attributes(self) -> Mapping[str, Any]:
        """The head, and a short body."""
        return self._sent("Request", url=self.url, method=str(getattr(self.method, "value", self.method)),
                          headers=self._headers.pairs, redirect=self.redirect,
                          **({"cf": self.cf} if self.cf else {}))  # fmt: skip

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
    encode_body = "automatic"
    """Whether the body is compressed as the headers say when it leaves, or was by the program, `manual`."""

    web_socket: Any = None
    """An end of a pair, which whoever is answered speaks on."""

    def __init__(
        self, body: Any = None, status: Any = None, status_text: str = "", headers: Any = None, web_socket: Any = None,
        *, encode_body: str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(body, FetchResponse):
            if status is not None or status_text or headers is not None:
                raise ValueError("Expected no options when constructing Response from a js.Response")
            web_socket, encode_body = body.web_socket, encode_body or body.encode_body
            status, status_text, headers, body = body.status, body.status_text, body._headers, body.body
        self.status = 200 if status is None else int(status)
        if web_socket is not None:
            self._upgrade(web_socket, body)
        elif not 200 <= self.status <= 599:
            raise ValueError(f"status {self.status} is not one of 200 to 599")
        if encode_body is not None:
            if encode_body not in {"automatic", "manual"}:
                raise TypeError(f"encodeBody: unexpected value: {encode_body!r:.40}")
            self.encode_body = encode_body
        self.status_text = str(status_text) or _phrase(self.status)
        if UNSENDABLE.search(self.status_text):
            raise TypeError("Invalid statusText")
        self._headers = Headers(headers)
        self.body, kind = given(body, "Response")
        if kind and "content-type" not in self._headers:
            self._headers.append("content-type", kind)

    @property
    def headers(self) -> Headers:
        """A copy of the headers."""
        return Headers(self._headers.pairs)

    def _upgrade(self, web_socket: Any, body: Any) -> None:
        if self.status != 101 or body is not None:
            raise TypeError("Responses with a WebSocket must have status code 101, and no body.")
        self.web_socket = web_socket

    @property
    def webSocket(self) -> Any:  # noqa: N802 - the name of the SDK
        """See `web_socket`."""
        return self.web_socket

    async def connect(self, line: Any) -> Any:
        """Whoever was answered speaks on its web socket. See `sockets`."""
        if self.web_socket is None:
            raise TypeError("the response has no web socket")
        return await self.web_socket.connect(line)

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
        return self._copied(self.replace_body(None))

    def replace_body(self, body: Any) -> Any:
        """The same status and headers around another body."""
        return type(self)(body, self.status, self.status_text, self._headers, encode_body=self.encode_body)

    @property
    def _coding(self) -> str | None:
        said = self._headers.get("content-encoding")
        return said if said in _CODINGS else None

    def _arrived(self, body: Stream) -> Self:
        """Whoever reads it has what was compressed."""
        if self._coding is None:
            self.body = body
        else:
            from . import codings

            self.body = codings.Coded(body, self._coding)
        self.encode_body, self._going = "automatic", None
        return self

    def rpc_attributes(self) -> Mapping[str, Any]:
        """The head, and a short body, compressed if that is what the head says."""
        pairs = self._headers.pairs
        if self.body is not None and self.encode_body == "automatic" and self._coding is not None:
            from . import codings

            self._going = codings.encoded(self._open(), self._coding)
            pairs = [pair for pair in pairs if pair[0].lower() != "content-length"]
        socket = {} if self.web_socket is None else self.web_socket.sent()
        return self._sent("Response", status=self.status, status_text=self.status_text, headers=pairs,
                          url=self.url, redirected=self.redirected, **socket)  # fmt: skip

    @classmethod
    def _received(cls, attributes: Mapping[str, Any], stub: Stub) -> Any:
        socket = None
        if attributes.get("web_socket"):
            from . import sockets

            socket = sockets.received(stub.dup())
        response = cls(None, attributes["status"], attributes["status_text"], attributes["headers"], socket)
        response.url, response.redirected = attributes.get("url", ""), attributes.get("redirected", False)
        response._receive(attributes, stub)
        return response if response.body is None else response._arrived(response.body)

    def rpc_returned(self, attributes: Mapping[str, Any]) -> Self:
        """Another of the same whose body can be read, as anybody's who was sent it."""
        again = super().rpc_returned(attributes)
        if self._coding is None or again.body is None:
            return again
        if again is not self:
            return again._arrived(again.body)
        return copy.copy(self)._arrived(again.body if self._going is None else self._going)

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


async def fetch(resource: Any, **options: Any) -> Response:
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


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _normal(url: Any) -> str:
    parts = urlsplit(str(url))
    if not parts.scheme or not parts.netloc or UNSENDABLE.search(str(url)):
        raise TypeError(f"Invalid URL: {url!r:.200}")
    return urljoin(str(url), "/") if not parts.path and not parts.query and not parts.fragment else str(url)
