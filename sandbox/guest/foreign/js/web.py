"""What the web has: requests, responses, headers, addresses, forms. They are those of `workers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cloister.sandbox.guest import blobs, forms, http
from cloister.sandbox.guest.headers import Headers as _Headers

from .addresses import URL


class _Facade(type):
    """A name of JavaScript's for a class of `workers`."""

    made: type[Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.made)


def _options(given: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, http.FetchResponse):  # the head of another one
        given = {"status": given.status, "status_text": given.status_text, "headers": given._headers,
                 "encode_body": given.encode_body}  # fmt: skip
    elif isinstance(given, http.Request):
        body = {} if given.body is None else {"body": given.body}
        given = {"method": given.method, "headers": given._headers, "redirect": given.redirect, "cf": given.cf, **body}
    names = {
        "statusText": "status_text",
        "webSocket": "web_socket",
        "encodeBody": "encode_body",
        "referrerPolicy": "referrer_policy",
    }
    return {names.get(name, name): value for name, value in {**(given or {}), **more}.items()}


def _body(given: Any) -> Any:
    """JavaScript takes more as a body than Cloudflare's SDK does."""
    if isinstance(given, blobs.Blob):
        return given._data
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    known = given is None or isinstance(given, str | bytes | http.FetchResponse)
    return given if known or hasattr(given, "__aiter__") or hasattr(type(given), "__body__") else str(given)


class _Response(http.Response):
    """A response whose headers can be changed, as those that JavaScript makes."""

    @property
    def headers(self) -> _Headers:
        """The headers themselves."""
        return self._headers


class Response(metaclass=_Facade):
    """Makes responses."""

    made = http.Response

    @staticmethod
    def new(body: Any = None, init: Any = None, **options: Any) -> http.Response:
        """`Response.new("text", status=201)`, or with the options as a map."""
        known = _options(init, options)
        names = ("status", "status_text", "headers", "web_socket", "encode_body")
        return _Response(_body(body), **{name: known[name] for name in names if name in known})

    @staticmethod
    def json(data: Any, init: Any = None, **options: Any) -> http.Response:
        """A value as JSON."""
        headers = _Headers(_options(init, options).get("headers"))
        if "content-type" not in headers:
            headers.append("content-type", "application/json")
        return Response.new(
            json.dumps(data, separators=(",", ":"), ensure_ascii=False), {**(init or {}), **options, "headers": headers}
        )

    @staticmethod
    def redirect(url: str, status: int = 302) -> http.Response:
        """Somewhere else."""
        return http.Response.redirect(url, status)


class _Request(http.Request):
    """A request whose headers can be changed, as those that JavaScript makes."""

    @property
    def headers(self) -> _Headers:
        """The headers themselves."""
        return self._headers


class Request(metaclass=_Facade):
    """Makes requests."""

    made = http.Request

    @staticmethod
    def new(resource: Any, init: Any = None, **options: Any) -> http.Request:
        """`Request.new(url, method="POST")`, or with the options as a map."""
        known = _options(init, options)
        if "body" in known:
            known["body"] = _body(known["body"])
        return _Request(str(resource) if isinstance(resource, URL) else resource, **known)


async def fetch(resource: Any, init: Any = None, **options: Any) -> http.Response:
    """See `workers.fetch`; the options may be a map."""
    return await http.fetch(Request.new(resource, init, **options))


class Headers(_Headers):
    """Names and values."""

    __module__ = "js"

    @classmethod
    def new(cls, given: Any = None) -> Headers:
        """Of a map or of pairs."""
        return cls(given)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Names and values."""
        return iter(self.items())

    def __iter__(self) -> Iterator[Any]:
        return self.entries()


class FormData(metaclass=_Facade):
    """Makes forms."""

    made = forms.FormData
    new = forms.FormData


class Blob(metaclass=_Facade):
    """Makes blobs."""

    made = blobs.Blob

    @staticmethod
    def new(parts: Any = (), init: Any = None, **options: Any) -> blobs.Blob:
        """`Blob.new(["text"], type="text/plain")`."""
        return blobs.Blob(parts, _options(init, options).get("type"))


class File(metaclass=_Facade):
    """Makes files."""

    made = blobs.File

    @staticmethod
    def new(parts: Any, name: str, init: Any = None, **options: Any) -> blobs.File:
        """`File.new(["text"], "a.txt", type="text/plain")`."""
        known = _options(init, options)
        return blobs.File(parts, name, known.get("type"), last_modified=known.get("lastModified"))


class _Signal:
    aborted, reason = False, None


class AbortController:
    """What a request is told by that nobody wants it. Here it is only a sign."""

    def __init__(self) -> None:
        self.signal = _Signal()

    @classmethod
    def new(cls) -> AbortController:
        """One of them."""
        return cls()

    def abort(self, reason: Any = None) -> None:
        """Nobody wants it."""
        self.signal.aborted, self.signal.reason = True, reason
