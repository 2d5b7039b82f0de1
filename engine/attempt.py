"""Which attempt of which step the code that runs now belongs to, for whoever it calls.

What a step does to the world outside may be done again by its next attempt, or, after a crash, still be under way in
the one before. So every attempt has a token that is larger than that of each earlier one, which a store of its own can
compare (fencing), and instances that it creates without naming them have the same ids each time.
"""

from __future__ import annotations

import contextvars
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

_ATTEMPTS_BITS = 20  # more than a step may have


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one step."""

    workflow_name: str
    scope: str
    instance_id: str
    run: int
    step: str
    count: int
    attempt: int
    claims: int
    """How often the instance was taken up to be run, this time included."""
    _made: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False, compare=False)

    @property
    def token(self) -> int:
        """Larger than the token of every earlier attempt of this instance's, those that were lost included."""
        return self.claims << _ATTEMPTS_BITS | self.attempt

    @property
    def key(self) -> str:
        """The same for every attempt of the step, and for no other step: for receivers that drop what they had.
        A slash in a scope or a name is written `%2F`.
        """
        scope, step = (part.replace("%", "%25").replace("/", "%2F") for part in (self.scope, self.step))
        return f"{self.workflow_name}/{scope}/{self.instance_id}/{self.run}/{step}/{self.count}"

    def derived_id(self) -> str:
        """An id for the next instance that the attempt creates: the n-th has the same one in each attempt."""
        parts = [self.workflow_name, self.scope, self.instance_id, self.run, self.step, self.count, next(self._made)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


current: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("attempt", default=None)


def current_attempt() -> Attempt | None:
    """The attempt on whose behalf this is called, None outside of one. It is told by the host and cannot be feigned
    for another instance; that a tenant's step is the one it says is the tenant's word.
    """
    return current.get()
