"""How many instances of each scope are queued that never ran, so that they are not more than may be.

Counted in memory from what the verbs say, and from the table when that is first asked for, or when nobody knows any
longer. It writes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .errors import QueueFull

if TYPE_CHECKING:
    from .store import Store

_QUEUED = (
    "SELECT scope, count(*) FROM instances WHERE workflow = ? AND status = 'queued' AND (started IS NULL) = 1"
    " GROUP BY scope"
)


class Bounds(NamedTuple):
    """The most that may be queued, of each scope and of the workflow; None is no limit."""

    of_scope: int | None
    of_workflow: int | None


class Backlog:
    """Of all workflows, by their keys."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queued: dict[int, Counter[str]] = {}
        self._totals: Counter[int] = Counter()

    def check(self, key: int, scope: str, more: int, bounds: Bounds) -> None:
        """`QueueFull` if so many more are too many."""
        if key not in self._queued:
            self._queued[key] = Counter(dict(self._store.execute(_QUEUED, (key,)).fetchall()))
            self._totals[key] = self._queued[key].total()
        for most, queued, whose in (
            (bounds.of_scope, self._queued[key][scope], f"scope {scope!r} has"),
            (bounds.of_workflow, self._totals[key], "all scopes together have"),
        ):
            if most is not None and queued + more > most:
                raise QueueFull(
                    f"{whose} {queued:,} instances queued of the {most:,} that may be, and {more:,} more are too many;"
                    " create them when some have begun, or allow more (`WorkflowLimits`: `queued_per_scope`, `queued`)"
                )

    def add(self, key: int, scope: str, more: int) -> None:
        """So many more are queued, or less."""
        if (queued := self._queued.get(key)) is not None:
            self._totals[key] += more
            queued[scope] += more
            if not queued[scope]:
                del queued[scope]

    def forget(self) -> None:
        """Something was taken back."""
        self._queued.clear()
