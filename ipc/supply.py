"""What a stream has ready before it is asked for: so many items, so many bytes, and so many of all that one connection
reads.

Whoever reads chooses how many streams it begins and leaves there; what is ready for it must not grow with that. Where
those of its connection have as much as they may together, each makes an item only while somebody waits for one.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from . import values
from .stubs import Channel

AHEAD: Final = 16
"""Items that are made before they are asked for."""
AHEAD_BYTES: Final = 256 * 1024
"""So many bytes of one stream, and the item with which they are reached."""
AHEAD_IN_ALL: Final = 8 << 20
"""The same of all streams that one connection reads."""
_SMALL: Final = 64  # bytes that anything counts


class _Total:
    """Of one connection."""

    size = 0


_totals: Final[weakref.WeakKeyDictionary[Channel, _Total]] = weakref.WeakKeyDictionary()


class Supply:
    """That of one stream."""

    def __init__(self) -> None:
        self._items: deque[tuple[Any, int]] = deque()
        self._size = 0
        self._total = _Total()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> Any:
        """The item that is next."""
        return self._items[0][0]

    @property
    def full(self) -> bool:
        """Whether nothing more is to be made before somebody asks."""
        return len(self._items) >= AHEAD or self._size >= AHEAD_BYTES or self._total.size >= AHEAD_IN_ALL

    def read_over(self, channel: Channel) -> None:
        """It counts for this connection from now on."""
        total = _totals.get(channel)
        if total is None:
            total = _totals[channel] = _Total()
        if total is not self._total:
            self._total.size -= self._size
            total.size += self._size
            self._total = total

    def put(self, item: Any) -> None:
        """One more is ready."""
        size = _SMALL + _bytes_of(item)
        self._items.append((item, size))
        self._count(size)

    def take(self) -> Any:
        """The next one, which is handed over."""
        item, size = self._items.popleft()
        self._count(-size)
        return item

    def clear(self) -> None:
        """Nobody will have them."""
        self._items.clear()
        self._count(-self._size)

    def _count(self, size: int) -> None:
        self._size += size
        self._total.size += size


def _bytes_of(item: Any) -> int:
    """With all that is inside it, as long as that is no more than all may have: it may have itself inside."""
    size, inside = 0, [item]
    while inside and size < AHEAD_IN_ALL:
        match inside.pop():
            case bytes() | bytearray() | str() as text:
                size += len(text)
            case memoryview() as view:
                size += view.nbytes
            case values.Encoded() as encoded:
                size += len(encoded.data)
            case dict() as found:
                size += _SMALL * len(found)
                inside += _large(found.keys())
                inside += _large(found.values())
            case list() | tuple() | set() | frozenset() as found:
                size += _SMALL * len(found)
                inside += _large(found)
    return size


def _large(items: Iterable[Any]) -> list[Any]:
    """Those that have a size of their own; mostly there are none."""
    return [each for each in items if type(each) not in _NUMBERS]


_NUMBERS: Final = frozenset({type(None), bool, int, float})
