"""What the code of a tenant and version was when it was last loaded, and in which modules it differs now.

A version that was named stands for one code: other code under its name is an error. Where none was named, other code is
a redeploy. Both hold for as long as the loader lives, for those that it remembers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import cachetools

from cloister.ipc import values

from .code import Json, Module, WorkerCode
from .errors import VersionChanged

Key = TypeVar("Key", bound=Hashable)
_FIELDS: Final = ("main_module", "compatibility_date", "compatibility_flags", "preload")
_FEW: Final = 8
_LONG: Final = 80


@dataclass(frozen=True, slots=True)
class Print:
    """By what code is known again within one process: each module, and what else decides how it behaves."""

    # Thousands are kept, and a map would take twice as much.
    names: tuple[str, ...]
    hashes: tuple[int, ...]
    fields: tuple[int, ...]

    @classmethod
    def of(cls, code: WorkerCode) -> Print:
        """That of some code. Python's own hashes are keyed at random, kept with the text, and cost next to nothing."""
        flags, preload = frozenset(code.compatibility_flags), frozenset(code.preload)
        fields = code.main_module, code.compatibility_date, flags, preload
        names = tuple(sorted(code.modules))
        return cls(names, tuple(_hash(code.modules[name]) for name in names), tuple(map(hash, fields)))

    def by_name(self) -> dict[str, int]:
        """The hash of each module."""
        return dict(zip(self.names, self.hashes, strict=True))


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of modules, sorted, and of the other fields of the code that differ. As text it names a few of each."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def between(cls, old: Print, new: Print) -> Difference:
        """What the newer has that the older had not."""
        before, after = old.by_name(), new.by_name()
        return cls(
            tuple(sorted(name for name in before.keys() & after if before[name] != after[name])),
            tuple(sorted(after.keys() - before)),
            tuple(sorted(before.keys() - after)),
            tuple(name for name, one, other in zip(_FIELDS, old.fields, new.fields, strict=True) if one != other),
        )

    def __str__(self) -> str:
        parts = (("changed", self.changed), ("added", self.added), ("removed", self.removed), ("other", self.fields))
        return "; ".join(f"{word} {_few(names)}" for word, names in parts if names)


class Constancy(Generic[Key]):
    """Of the `remembered` keys that were loaded last."""

    def __init__(self, remembered: int) -> None:
        self._prints: cachetools.LRUCache[Key, Print] = cachetools.LRUCache(remembered)

    def note(self, key: Key, code: WorkerCode) -> Difference | None:
        """It is loaded: how it differs from what it was, if it does."""
        found, known = Print.of(code), self._prints.get(key)
        self._prints[key] = found
        return None if known is None or known == found else Difference.between(known, found)

    def hold(self, key: Key, tenant_id: str, version: str, code: WorkerCode) -> None:
        """It is to be loaded under a version: `VersionChanged` if that stood for other code."""
        found = Print.of(code)
        known = self._prints.setdefault(key, found)
        if known != found:
            raise VersionChanged(tenant_id, version, Difference.between(known, found))


def _few(names: Sequence[str]) -> str:
    """What somebody would read of it: code may have thousands of modules, and names as long as it likes."""
    shown = [name if len(name) <= _LONG else f"{name[:_LONG]}…" for name in names[:_FEW]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _hash(module: Module) -> int:
    if isinstance(module, Json):
        return hash((Json, values.dumps(module.content)))
    return hash((type(module), module))  # text and bytes of the same content have one hash
