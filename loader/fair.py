"""Who is next where tenants take turns: the one that has had the least for its weight. No clock, no futures.

Stride scheduling: each turn moves an owner's mark on by one over its weight, and the owner with the lowest mark has the
next one. Who comes anew begins at the mark of the last turn, so that nobody saves turns up while it wants none; who
comes back begins no lower than it left.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)
_SWEEP: Final = 64
"""So many entries that stand for nothing any more are left lying."""
_REMEMBERED: Final = 4096
"""Of so many owners that have left, at least, it is remembered where they were: the last ones."""


class _Line(Generic[Item]):
    """What one owner waits with."""

    __slots__ = ("items", "listed", "mark", "weight")

    def __init__(self, mark: float) -> None:
        self.items: OrderedDict[Item, None] = OrderedDict()
        self.mark = mark
        self.weight = 1.0
        self.listed = False  # stands in the heap, with its mark


class FairQueue(Generic[Owner, Item]):
    """Items in lines, one for each owner that has any."""

    def __init__(self) -> None:
        self._lines: dict[Owner, _Line[Item]] = {}
        self._left: dict[Owner, float] = {}  # the marks of owners that have no line, where they are yet to come
        self._sweep_at = _SWEEP
        self._heap: list[tuple[float, int, Owner]] = []
        self._order = itertools.count()
        self._mark = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        for line in list(self._lines.values()):
            yield from list(line.items)

    def of(self, owner: Owner) -> list[Item]:
        """The items of one owner in their order."""
        line = self._lines.get(owner)
        return list(line.items) if line is not None else []

    def length(self, owner: Owner) -> int:
        """How many one owner has."""
        line = self._lines.get(owner)
        return len(line.items) if line is not None else 0

    def push(self, owner: Owner, item: Item, weight: float = 1.0, *, first: bool = False) -> None:
        """One more, at the end of its owner's line. `first`: it has had a turn in vain, and is the next to have one."""
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line(max(self._mark, self._left.pop(owner, 0.0)))
        line.weight = weight
        line.items[item] = None
        self._size += 1
        if first:
            line.items.move_to_end(item, last=False)
            line.mark, line.listed = self._mark - 1, False
        self._list(owner, line)

    def remove(self, owner: Owner, item: Item) -> bool:
        """It waits no longer; False if it did not."""
        line = self._lines.get(owner)
        if line is None or item not in line.items:
            return False
        del line.items[item]
        self._drop_one(owner, line)
        return True

    def wake(self, owner: Owner) -> None:
        """An owner that was passed over may have turns again."""
        line = self._lines.get(owner)
        if line is not None:
            self._list(owner, line)

    def pop(self, may: Callable[[Owner], bool] = lambda _: True) -> tuple[Owner, Item] | None:
        """Whose turn it is, and with what. An owner that may not have one is passed over until it is woken."""
        while self._heap:
            mark, _, owner = heapq.heappop(self._heap)
            line = self._lines.get(owner)
            if line is None or not line.listed or mark != line.mark:
                continue  # it stands for nothing any more
            line.listed = False
            if not may(owner):
                continue
            self._mark = max(self._mark, mark)
            line.mark = self._mark + 1 / line.weight
            item, _ = line.items.popitem(last=False)
            self._drop_one(owner, line)
            if line.items:
                self._list(owner, line)
            return owner, item
        return None

    def _drop_one(self, owner: Owner, line: _Line[Item]) -> None:
        self._size -= 1
        if not line.items:
            del self._lines[owner]
            self._left[owner] = line.mark
            if len(self._left) > self._sweep_at:
                self._forget()

    def _forget(self) -> None:
        """Keep what is of use of the marks of those who have left. How much that is says when to look again, so that it
        costs each turn the same, however many come once and never again.
        """
        useful = [(owner, mark) for owner, mark in self._left.items() if mark > self._mark]
        self._left = dict(useful[-_REMEMBERED:])
        self._sweep_at = _SWEEP + 2 * len(self._left)

    def _list(self, owner: Owner, line: _Line[Item]) -> None:
        if line.listed:
            return
        line.listed = True
        heapq.heappush(self._heap, (line.mark, next(self._order), owner))
        if len(self._heap) > _SWEEP + 2 * len(self._lines):
            lines = [(line.mark, owner) for owner, line in self._lines.items() if line.listed]
            self._heap = [(mark, next(self._order), owner) for mark, owner in sorted(lines, key=lambda each: each[0])]
