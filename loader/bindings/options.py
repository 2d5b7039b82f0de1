"""Options of a tenant's call, in either spelling, as a dict or as keywords: the binding's names, or a clear error."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from cloister.ipc import Stub

MOST_LISTED: Final = 50_000
"""Values within what is told of the entries of one page: the host does nothing else while they are written."""
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")


def options(given: object, more: Mapping[str, Any], known: str, where: str) -> dict[str, Any]:
    """One map of all that was given, its names in Python's spelling. `TypeError` names the first that is unknown."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{where} takes its options as a dict or as keywords, not {type(given).__name__}")
    found = {_CAPITAL.sub(r"_\1", str(name)).lower(): value for name, value in {**(given or {}), **more}.items()}
    for name in found:
        if name not in known.split():
            raise TypeError(f"{where} has no option {name!r:.60}; it has {known.replace(' ', ', ') or 'none'}")
    return {name: value for name, value in found.items() if value is not None}


def headers(given: object) -> dict[str, str] | None:
    """A tenant's `Headers`, by names in small letters, the first of each; None for what is something else."""
    if not isinstance(given, Stub) or given._attributes.get("workers.class") != "Headers":
        return None
    found: dict[str, str] = {}
    for pair in given._attributes.get("pairs") or ():
        match pair:
            case [str(name), str(value)]:
                found.setdefault(name.lower(), value)
    return found


def key(value: object, most: int) -> str:
    """A key that can be stored. `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"a key is text that is not empty, not {value!r:.80}")
    if "\0" in value:
        raise ValueError("a key holds no zero character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("a key is text that can be written as UTF-8") from None
    if size > most:
        raise ValueError(f"a key has at most {most:,} bytes; this one has {size:,}")
    return value


def number(found: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number within bounds. `ValueError`."""
    value = found.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is a whole number from {low:,} to {high:,}, not {value!r:.40}")
    return value


def text(found: Mapping[str, Any], name: str, most: int = 4096) -> str:
    """Some text, empty without one. `TypeError`."""
    value = found.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise TypeError(f"{name} is text of at most {most:,} characters")
    return value


def as_json(value: object, what: str, most: int) -> str:
    """A value as JSON. `ValueError` if there is too much of it."""
    try:
        written = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not a JSON value: {error}") from error
    if len(written) > most:
        raise ValueError(f"{what} takes {len(written):,} bytes as JSON; at most {most:,} may be")
    return written


def within(text: str | bytes | None) -> int:
    """How many values some JSON has within, at most."""
    if isinstance(text, bytes):
        return sum(map(text.count, (b",", b"[", b"{")))
    return sum(map(text.count, ",[{")) if text else 0


def beyond(prefix: str) -> str | bytes:
    """What comes after all that begin so, as SQLite compares: the next text, or bytes, which come after every text."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return b""
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def cursor(key: str) -> str:
    """Where the next page begins, for a tenant to hand back."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def after(found: Mapping[str, Any]) -> str:
    """The key that a cursor stands for. `ValueError` if it was not one of ours."""
    given = text(found, "cursor")
    try:
        return base64.b64decode(given.encode(), b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise ValueError("the cursor is not one that list() gave") from None
