"""How many instances are queued that never ran, so that they are not more than may be: of a scope, and of all.

The number of all is kept in memory. A scope is looked at only once all together are more than one may have, which is
rare, and a few of them are remembered: a million tenants may be queued and take no room here. It writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import QueueFull

if TYPE_CHECKING:
    from .store import Store

MOST_SCOPES = 4096
_QUEUED = "SELECT count(*) FROM instances WHERE workflow = ? AND status = 'queued' AND (started IS NULL) = 1"


class Bounds(NamedTuple):
    """The most that may be queued, of each scope and of the workflow; None is no limit."""

    of_scope: int | None
    of_workflow: int | None


class Backlog:
    """Of all workflows, by their keys."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._totals: dict[int, int] = {}
        self._of_scopes: dict[tuple[int, str], int] = {}

    def check(self, key: int, scope: str, more: int, bounds: Bounds) -> None:
        """`QueueFull` if so many more are too many."""
        total = self._total(key)
        if bounds.of_scope is not None and total + more > bounds.of_scope:
            _check(bounds.of_scope, self._of_scope(key, scope), more, f"scope {scope!r} has")
        _check(bounds.of_workflow, total, more, "all scopes together have")

    def at_hand(self, key: int | None, scope: str, bounds: Bounds | None) -> bool:
        """Whether one more can be checked without counting what may be a million."""
        if bounds is None or bounds == (None, None):
            return True
        if key not in self._totals:
            return False
        return bounds.of_scope is None or self._totals[key] < bounds.of_scope or (key, scope) in self._of_scopes

    def add(self, key: int, scope: str, more: int) -> None:
        """So many more are queued, or less."""
        if key in self._totals:
            self._totals[key] += more
        if (key, scope) in self._of_scopes:
            self._of_scopes[key, scope] += more

    def forget(self) -> None:
        """Something was taken back."""
        self._totals.clear()
        self._of_scopes.clear()

    def _total(self, key: int) -> int:
        if key not in self._totals:
            self._totals[key] = self._store.execute(_QUEUED, (key,)).fetchone()[0]
        return self._totals[key]

    def _of_scope(self, key: int, scope: str) -> int:
        if (key, scope) not in self._of_scopes:
            if len(self._of_scopes) >= MOST_SCOPES:
                self._of_scopes.clear()
            found = self._store.execute(f"{_QUEUED} AND scope = ?", (key, scope)).fetchone()
            self._of_scopes[key, scope] = found[0]
        return self._of_scopes[key, scope]


def _check(most: int | None, queued: int, more: int, whose: str) -> None:
    if most is not None and queued + more > most:
        raise QueueFull(
            f"{whose} {queued:,} instances queued of the {most:,} that may be, and {more:,} more are too many;"
            " create them when some have begun, or allow more (`WorkflowLimits`: `queued_per_scope`, `queued`)"
        )
