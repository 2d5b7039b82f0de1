"""How much of a workflow's concurrency is taken, and by which scopes. It knows no run and no store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .sharing import Turn

if TYPE_CHECKING:
    from .records import Pull
    from .sharing import WorkflowLimits


class Slots:
    """Those of one workflow. Whoever takes one gives it back."""

    def __init__(self, concurrency: int, limits: WorkflowLimits) -> None:
        self._concurrency, self._limits = concurrency, limits
        self._taken = 0
        self.reserved = 0
        """How many of those that are taken are for instances that are about to be created."""
        self.busy: Counter[str] = Counter()
        """How many of them each scope has taken, if any."""
        self.held: set[str] = set()
        """Scopes that have something queued, and all that they may running."""
        self._last: str | None = None  # the scope that got the last one

    def free(self) -> int:
        return self._concurrency - self._taken

    def full(self, scope: str) -> bool:
        """Whether the scope has all that it may."""
        return self._limits.full(self.busy[scope])

    def admits(self, scope: str) -> bool:
        """Whether an instance of this scope may start at once, if the store has none that comes first."""
        return scope not in self.held and self._taken < self._concurrency and not self.full(scope)

    def take(self, scope: str) -> None:
        self._taken += 1
        self.busy[scope] += 1

    def give_back(self, scope: str) -> None:
        self._taken -= 1
        self.busy[scope] -= 1
        if not self.busy[scope]:
            del self.busy[scope]

    def reserve(self, scope: str) -> None:
        """Take one for an instance that is about to be created."""
        self.reserved += 1
        self.take(scope)

    def release(self, scope: str) -> None:
        """It was created, or not."""
        self.reserved -= 1
        self.give_back(scope)

    def turn(self) -> Turn:
        """What there is to give away."""
        return Turn(max(self.free(), 0), dict(self.busy), self._limits, self._last)

    def gave(self, pull: Pull) -> None:
        """What came of it."""
        self._last, self.held = pull.last, set(pull.held)

    def relents(self) -> bool:
        """Whether a scope that was held may have more by now."""
        return any(not self.full(scope) for scope in self.held)
