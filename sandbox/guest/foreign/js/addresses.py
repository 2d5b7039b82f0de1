"""Addresses and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit


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

    def values(self) -> Iterator[str]:
        """Values."""
        return (value for _, value in self.pairs)

    def sort(self) -> None:
        """By name."""
        self.pairs.sort(key=lambda pair: pair[0])

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.pairs)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.has(name)

    __getitem__, __len__ = get, lambda self: len(self.pairs)

    def toString(self) -> str:  # noqa: N802
        """As text."""
        return urlencode(self.pairs)

    __str__ = toString

    def __body__(self) -> tuple[bytes, str]:
        """What it is as a body."""
        return str(self).encode(), "application/x-www-form-urlencoded;charset=UTF-8"


_HOST: Final = re.compile(r"(\[.*\]|[^:]*)(?::(\d*))?")
_USUAL: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class URL:
    """An address and its parts."""

    __module__ = "js"

    def __init__(self, url: Any, base: Any = None) -> None:
        whole = str(url) if base is None else urljoin(str(base), str(url))
        parts = urlsplit(whole)
        if not parts.scheme or not (parts.netloc or parts.path):
            raise TypeError(f"Invalid URL string: {whole!r:.200}")
        self._scheme = parts.scheme
        self.username, self.password, self.host = parts.username or "", parts.password or "", parts.netloc
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

    @protocol.setter
    def protocol(self, text: str) -> None:
        self._scheme = text.removesuffix(":").lower()

    @property
    def host(self) -> str:
        """With the port, if it says one that is not the usual."""
        return f"{self.hostname}:{self.port}" if self.port else self.hostname

    @host.setter
    def host(self, text: str) -> None:
        found = _HOST.fullmatch(text.rpartition("@")[2].lower())
        self.hostname, self.port = found.groups(default="") if found else (text, "")

    @property
    def port(self) -> str:
        """Empty for the usual one."""
        return "" if self._port == _USUAL.get(self._scheme) else self._port

    @port.setter
    def port(self, number: Any) -> None:
        self._port = str(number)

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return f"{self._scheme}://{self.host}"

    @property
    def href(self) -> str:
        """The whole."""
        who = f"{self.username}{f':{self.password}' if self.password else ''}@" if self.username else ""
        kept = (self.pathname, self.search.removeprefix("?"), self.hash.removeprefix("#"))
        return urlunsplit((self._scheme, who + self.host, *kept))

    @href.setter
    def href(self, url: Any) -> None:
        vars(self).update(vars(URL(url)))

    def toString(self) -> str:  # noqa: N802
        """The whole."""
        return self.href

    __str__ = toJSON = toString  # noqa: N815
