"""Where in a value that is which cannot be sent. It is looked for when it has failed: who encodes keeps no account of
the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .errors import CodecError
from .values import Named
from .walk import MAX_DEPTH

_MAX_WORDS, _MAX_KEY = 200, 40
_Way = tuple[str, tuple[Any, ...]]
_MAX_ITEMS = 65_536
"""So many are looked at: a part that is in a set of a set is not found, and a value may hold another many times."""


def tell(error: CodecError, value: object) -> None:
    """Add to what an error says at which place its `part` is, unless that is the whole value; and let go of it."""
    part, error.part = error.part, None
    found = None if part is None else _way(value, part, MAX_DEPTH, iter(range(_MAX_ITEMS)))
    if found is None or found == ("", ()):
        return
    root, keys = found
    way = "".join(f"[{key!r:.{_MAX_KEY}}]" for key in keys)
    error.args = (f"{error}, at {root or 'value'}{way:.{_MAX_WORDS}}",)


def _way(value: object, part: object, depth: int, left: Iterator[int]) -> _Way | None:
    """The way from a value to its part: the last name on it, of what is sent together, and the keys from there. None of
    either if it is that itself, or the key of a map, or in a set."""
    if value is part:
        return "", ()
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | set | frozenset) and any(key is part for key in value):
        return "", ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for (key, item), _ in zip(items, left if depth else (), strict=False):
        if (way := _way(item, part, depth - 1, left)) is not None:
            root, keys = way
            if root:
                return way
            if isinstance(value, Named):
                return value.names[min(key, len(value.names) - 1)], keys
            return "", (str.__str__(key) if isinstance(key, str) else key, *keys)
    return None
