"""Whoever keeps a live run, as its journal sees them: what is to happen to the run is said there, and decided there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from .records import Key


class JournalHost(Protocol):
    """Whoever keeps the run."""

    def on_parkable(self, waits: tuple[Key, ...]) -> None:
        """The run can only wait, and has done nothing else for a while."""

    def on_drained(self) -> None:
        """The steps in flight when the drain began have ended."""

    def on_lost(self, reason: str) -> None:
        """Something could not be recorded."""

    def on_postponed(self, reason: str) -> None:
        """Nor could this, and it is the host's affair until when."""


class _Nobody:
    def on_parkable(self, waits: tuple[Key, ...]) -> None: ...
    def on_drained(self) -> None: ...
    def on_lost(self, reason: str) -> None: ...
    def on_postponed(self, reason: str) -> None: ...


NOBODY: Final = _Nobody()
"""Keeps a run to which nothing is to happen: one that is over, or rehearsed."""
