"""What an operation did to instances that it was not about, for the engine to tell once it is durable."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..records import Address, ErrorRecord


@dataclass(frozen=True, slots=True)
class Answer:
    """How an awaited instance ended, for the step that awaits it."""

    parent: Address
    name: str
    count: int
    value: bytes


@dataclass(slots=True)
class Kin:
    """What an operation did to instances that it was not about."""

    answers: list[Answer] = field(default_factory=list)
    ended: list[tuple[int, Address, ErrorRecord]] = field(default_factory=list)
    """Their numbers too: see `Store.ended_beside`."""
    queued: set[str] = field(default_factory=set)
    """The workflows of which something is queued."""
