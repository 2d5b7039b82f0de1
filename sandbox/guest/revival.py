"""Recorded errors as exceptions of the classes that they were raised as, where the program has such a class.

Only its name was recorded. Nothing is imported because of it, and nothing of the class is run: what was raised is an
exception with its words and nothing else. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import sys
from typing import Any

from . import failure, importer
from .workers.workflows import NonRetryableError


def exception(error: list[str]) -> Exception:
    """A recorded error, as an exception to raise in the tenant's `run`."""
    name, message, *_ = error
    if name == "NonRetryableError":
        return NonRetryableError(message)
    rebuilt = failure.rebuild(name, f"{name}: {message}")
    if type(rebuilt).__name__ == name:
        rebuilt.__recorded__ = failure.rebuild(name, message).args  # type: ignore[attr-defined]
        return rebuilt
    return revive(name, message) or failure.StepError(name, message)


def revive(name: str, message: str) -> Exception | None:
    """One of the only class of that name, the tenant's own before any other's. None if there is none.

    It says its class before its words, as those of Python's own classes do; `__recorded__` are the words alone.
    """
    own = {known for finder in sys.meta_path if isinstance(finder, importer.Tenant) for known in finder.names}
    others = {known for known in sys.modules if known not in own and not known.startswith("cloister.")}
    found = _named(name, own) or _named(name, others)
    if len(found) != 1:
        return None
    try:
        error: Any = Exception.__new__(*found, f"{name}: {message}")
        error.__recorded__ = (message,)
        says = str(error)
    except Exception:  # one that is made of more than its words, and says them in its own way
        return None
    return error if message in says else None  # as `UnicodeDecodeError`, which without its parts says nothing


def _named(name: str, modules: set[str]) -> set[type[Exception]]:
    found = set()
    for module in modules:
        kind = getattr(sys.modules.get(module), "__dict__", {}).get(name)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__name__ == name:
            found.add(kind)
    return found
