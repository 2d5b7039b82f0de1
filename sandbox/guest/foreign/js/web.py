"""What the web has: requests, responses, headers, addresses, forms. They are those of `workers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from cloister.sandbox.guest import blobs, forms, http
from cloister.sandbox.guest.headers import Headers as _Headers


class _Facade(type):
    """A name of JavaScript's for a class of `workers`."""

    made: type[Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.made)


def _options(given: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, http.FetchResponse):  # the head of another one
        given = {"status": given.status, "status_text": given.status_text, "headers": given._headers}
    elif isinstance(given, http.Request):
        body = {} if given.body is None else {"body": given.body}
        given = {"method": given.method, "headers": given._headers, "redirect": given.redirect, "cf": given.cf, **body}
    names = {"statusText": "status_text", "webSocket": "web_socket", "referrerPolicy": "referrer_policy"}
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
        names = ("status", "status_text", "headers", "web_socket")
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


class Request(metaclass=_Facade):
    """Makes requests."""

    made = http.Request

    @staticmethod
    def new(resource: Any, init: Any = None, **options: Any) -> http.Request:
        """`Request.new(url, method="POST")`, or with the options as a map."""
        known = _options(init, options)
        if "body" in known:
            known["body"] = _body(known["body"])
        return http.Request(str(resource) if isinstance(resource, URL) else resource, **known)


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

    def has(self, name: str) -> bool:
        """Whether there is one of that name."""
        return name in self

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


class URLSearchParams:
    """The part of an address after its question mark."""

    __module__ = "js"

    def __init__(self, given: Any = "") -> None:
        if isinstance(given, str):
            self.pairs = parse_qsl(given.removeprefix("?"), keep_blank_values=True)
        else:
            items: Iterable[Any] = given.items() if isinstance(given, Mapping) else given
            self.pairs = [(str(name), str(value)) for name, value in items]

    @classmethod
    def new(cls, given: Any = "") -> URLSearchParams:
        """Of text, a map or pairs."""
        return cls(given)

    def get(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for other, value in self.pairs if other == name), None)

    def getAll(self, name: str) -> list[str]:  # noqa: N802
        """Each value of that name."""
        return [value for other, value in self.pairs if other == name]

    def has(self, name: str) -> bool:
        """Whether there is one of that name."""
        return self.get(name) is not None

    def append(self, name: str, value: Any) -> None:
        """One more of that name."""
        self.pairs.append((name, str(value)))

    def delete(self, name: str) -> None:
        """None of that name any longer."""
        self.pairs[:] = [pair for pair in self.pairs if pair[0] != name]

    def set(self, name: str, value: Any) -> None:
        """One of that name."""
        self.delete(name)
        self.append(name, value)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Names and values."""
        return iter(self.pairs)

    __iter__ = entries

    def keys(self) -> Iterator[str]:
        """Names."""
        return (name for name, _ in self.pairs)

    def toString(self) -> str:  # noqa: N802
        """As text."""
        return urlencode(self.pairs)

    __str__ = toString

    def __body__(self) -> tuple[bytes, str]:
        """What it is as a body."""
        return str(self).encode(), "application/x-www-form-urlencoded;charset=UTF-8"


class URL:
    """An address and its parts."""

    __module__ = "js"

    def __init__(self, url: Any, base: Any = None) -> None:
        whole = str(url) if base is None else urljoin(str(base), str(url))
        parts = urlsplit(whole)
        if not parts.scheme or not (parts.netloc or parts.path):
            raise TypeError(f"Invalid URL string: {whole!r:.200}")
        self._scheme, self._host = parts.scheme, parts.netloc.lower()
        self.pathname = parts.path or "/"
        self.hash = f"#{parts.fragment}" if parts.fragment else ""
        self.searchParams = URLSearchParams(parts.query)
        self._query: tuple[str, list[tuple[str, str]]] = parts.query, [*self.searchParams.pairs]

    @classmethod
    def new(cls, url: Any, base: Any = None) -> URL:
        """Of text, to be read from another one's place."""
        return cls(url, base)

    @property
    def search(self) -> str:
        """From the question mark on."""
        text, pairs = self._query
        query = text if pairs == self.searchParams.pairs else str(self.searchParams)
        return f"?{query}" if query else ""

    @search.setter
    def search(self, text: str) -> None:
        query = text.removeprefix("?")
        self.searchParams.pairs[:] = parse_qsl(query, keep_blank_values=True)
        self._query = query, [*self.searchParams.pairs]

    @property
    def protocol(self) -> str:
        """Such as `https:`."""
        return f"{self._scheme}:"

    @property
    def host(self) -> str:
        """With the port, if it says one that is not the usual."""
        usual = {"http": ":80", "https": ":443"}.get(self._scheme, ":")
        return self._host.rpartition("@")[2].removesuffix(usual)

    @property
    def hostname(self) -> str:
        """Without the port."""
        return urlsplit(f"//{self._host}").hostname or ""

    @property
    def port(self) -> str:
        """Empty for the usual one."""
        return self.host.removeprefix(self.hostname).removeprefix(":")

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return f"{self._scheme}://{self.host}"

    @property
    def href(self) -> str:
        """The whole."""
        kept = (self._scheme, self._host, self.pathname, self.search.removeprefix("?"), self.hash.removeprefix("#"))
        return urlunsplit(kept)

    def toString(self) -> str:  # noqa: N802
        """The whole."""
        return self.href

    __str__ = toJSON = toString  # noqa: N815


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
