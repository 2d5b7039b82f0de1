"""On whose behalf a run calls what was granted to it: the attempt of a step that a call says it comes from.

A call says that itself, with a mark. Which instance and which run it is of is known here, whatever the mark says.
"""

from __future__ import annotations

from typing import Final

from cloister.engine import Attempt, Journal
from cloister.ipc import PayloadError

_LONGEST_MARK: Final = 300
_MOST: Final = 1000
"""Attempts under way of which it is remembered how many instances they have created."""


class Attempts:
    """Those of one run that calls have named."""

    __slots__ = ("_journal", "under_way")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.under_way: dict[str, Attempt] = {}
        """By mark, and the one that was named last at the end."""

    def named(self, mark: str) -> Attempt:
        """The one that a mark stands for. `PayloadError` if it can be none."""
        if (known := self.under_way.pop(mark, None)) is None:
            match mark.split(" ", 2) if len(mark) <= _LONGEST_MARK else ():
                case [attempt, count, name] if attempt.isdecimal() and count.isdecimal():
                    pass
                case _:
                    raise PayloadError("a call says that it comes from a step which cannot be one")
            journal = self._journal
            place = journal.workflow_name, journal.scope, journal.instance_id, journal.run
            if len(self.under_way) >= _MOST:
                del self.under_way[next(iter(self.under_way))]
            known = Attempt(*place, name, int(count), int(attempt), journal.claims)
        self.under_way[mark] = known  # as the last one to be forgotten
        return known

    def ended(self, name: str, count: int, attempt: int) -> None:
        """Its outcome is on record."""
        self.under_way.pop(f"{attempt} {count} {name}", None)
