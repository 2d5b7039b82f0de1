"""Headers, as Cloudflare's Python SDK has them. Kept with the standard library, for those who ask."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from . import scope

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
UNSENDABLE: Final = re.compile(r"[\r\n\x00]")
Pairs = list[tuple[str, str]]


class Headers:
    """Names, whatever their case, and values, in order. What is missing is None; what is repeated comes joined by
    commas, but for `Set-Cookie`, of which `get_all` gives each."""

    __module__ = "workers"

    def __init__(self, given: Any = None) -> None:
        self.pairs: Pairs = []
        items = given.items() if isinstance(given, Mapping) else given or ()
        if not isinstance(items, Iterable) or isinstance(items, str | bytes):
            raise TypeError("Received unexpected type for headers argument")
        for name, value in items:
            self.append(name, value)

    def append(self, name: str, value: Any) -> None:
        """One more of that name."""
        whole = text(value).strip(" \t")
        if not isinstance(name, str) or not TOKEN.fullmatch(name) or UNSENDABLE.search(whole):
            raise TypeError(f"Invalid header: {name!r:.80}: {whole!r:.80}")
        self.pairs.append((name, whole))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, all of them joined."""
        found = self.get_all(name)
        return default if not found else found[0] if name.lower() == "set-cookie" else ", ".join(found)

    def get_all(self, name: str, default: Any = None) -> Any:
        """Each value of that name; joined to one, but for `Set-Cookie`, where the compatibility date says so."""
        found = [value for other, value in self.pairs if other.lower() == name.lower()]
        whole = name.lower() == "set-cookie" or "python_request_headers_preserve_commas" not in scope.flags
        return (found if whole else [", ".join(found)] if found else []) or default

    def __capability__(self) -> Any:
        """What they cross as: names and values to be read, and nothing to call."""
        from .guises import Copied

        return Copied("Headers", pairs=[[*pair] for pair in self.pairs])

    def __setitem__(self, name: str, value: Any) -> None:
        del self[name]
        self.append(name, value)

    def getSetCookie(self) -> list[str]:  # noqa: N802 - the name of the SDK
        """Each value of `Set-Cookie`."""
        return self.get_all("set-cookie", [])  # type: ignore[no-any-return]

    def keys(self) -> list[str]:
        """Each name once, in small letters and in order, as Fetch has it."""
        return sorted({name.lower() for name, _ in self.pairs})

    def items(self) -> Pairs:
        """Each name with its value; `Set-Cookie` as often as it is there."""
        return [
            (name, value)
            for name in self.keys()
            for value in (self.getSetCookie() if name == "set-cookie" else [self.get(name)])
        ]

    def values(self) -> list[str]:
        """The values of `items`."""
        return [value for _, value in self.items()]

    __getitem__ = get

    def __delitem__(self, name: str) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0].lower() != name.lower()]

    set, delete = __setitem__, __delitem__

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get_all(name) is not None

    has = __contains__

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({dict(self.items())!r})"


Mapping.register(Headers)  # which is what web frameworks ask for


def text(value: Any) -> str:
    """A value as JavaScript would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def received(attributes: Mapping[str, Any], stub: Any) -> Headers:
    """Headers of another side's."""
    stub.dispose()
    return Headers(attributes["pairs"])
