"""Which compatibility flags are on, as attributes. Every name is there."""

from __future__ import annotations

from cloister.sandbox.guest import scope


def __getattr__(name: str) -> bool:
    if name.startswith("__"):
        raise AttributeError(name)
    return name in scope.flags
