"""Names and values of headers, checked: what could not stand in a header never becomes one.

It refuses to know whose they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
UNSENDABLE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_MOST_HEADERS: Final = 256
_MOST_HEADER_BYTES: Final = 64 * 1024
Pairs = tuple[tuple[str, str], ...]


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
            case [str(name), str(value)] if TOKEN.fullmatch(name) and not UNSENDABLE.search(value):
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
