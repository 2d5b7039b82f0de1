"""Who is warm, and who may leave: an LRU in which nothing in use can be found, and so cannot be evicted.

What is in use is held apart and counted; when the last user lets go it enters the LRU as the most recently used, or
is left to go before anything else. It knows no sandboxes: entries are whatever the loader keeps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Entry = TypeVar("Entry")


class PinnedLRU(Generic[Key, Entry]):
    """At most `maxsize` entries, pinned ones included."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self._idle: OrderedDict[Key, Entry] = OrderedDict()  # the one that was used last at the end
        self._passing: dict[Key, Entry] = {}  # idle as well, and the first to leave
        self._pinned: dict[Key, Entry] = {}
        self._pins: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._idle) + len(self._passing) + len(self._pinned)

    def __iter__(self) -> Iterator[tuple[Key, Entry]]:
        yield from list(self._idle.items())
        yield from list(self._passing.items())
        yield from list(self._pinned.items())

    @property
    def pinned(self) -> int:
        """How many entries are in use."""
        return len(self._pinned)

    def peek(self, key: Key) -> Entry | None:
        """The entry of a key, which does not count as a use."""
        for held in (self._pinned, self._passing, self._idle):
            if key in held:
                return held[key]
        return None

    def pin(self, key: Key) -> Entry | None:
        """The entry of a key, held until `unpin` is called as often; None if there is none."""
        if key not in self._pinned:
            idle = self._passing if key in self._passing else self._idle
            if key not in idle:
                return None
            self._pinned[key] = idle.pop(key)
        self._pins[key] = self._pins.get(key, 0) + 1
        return self._pinned[key]

    def add(self, key: Key, entry: Entry) -> None:
        """A new entry, pinned once. The caller has made room."""
        if len(self) >= self.maxsize:
            raise OverflowError("the cache is full; make room first")
        self._pinned[key] = entry
        self._pins[key] = 1

    def unpin(self, key: Key, entry: Entry, *, passing: bool = False) -> bool:
        """Let go of an entry once; a passing one leaves before all others. Whether nobody uses it any more. What was
        removed meanwhile stays removed."""
        if self._pinned.get(key) is not entry:
            return False
        self._pins[key] -= 1
        if self._pins[key]:
            return False
        del self._pins[key]
        (self._passing if passing else self._idle)[key] = self._pinned.pop(key)
        return True

    def remove(self, key: Key, entry: Entry) -> bool:
        """Forget an entry, in use or not; False if the key stands for another one by now."""
        if self._pinned.get(key) is entry:
            del self._pinned[key], self._pins[key]
            return True
        for idle in (self._passing, self._idle):
            if key in idle and idle[key] is entry:
                del idle[key]
                return True
        return False

    def make_room(self) -> tuple[bool, tuple[Key, Entry] | None]:
        """Whether one more fits, and who had to leave for it: the one that was used least recently."""
        if len(self) < self.maxsize:
            return True, None
        leaver = self.leave()
        return leaver is not None, leaver

    def first_to_leave(self) -> tuple[Key, Entry] | None:
        """Who leaves next: nobody if all are in use."""
        return next(iter((self._passing or self._idle).items()), None)

    def leave(self) -> tuple[Key, Entry] | None:
        """The same, and it is gone from here."""
        leaver = self.first_to_leave()
        if leaver is not None:
            self.remove(*leaver)
        return leaver
