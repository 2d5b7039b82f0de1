"""Addresses and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
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
