"""Keys and values of a durable object, in one table of its database. How that is asked is the business of `storage`.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import TYPE_CHECKING, Any, Final

from cloister.ipc import values

from .headers import text
from .values import JsDict

if TYPE_CHECKING:
    from .storage import Storage

_TABLE: Final = "_cf_KV"
CREATE: Final = f"CREATE TABLE IF NOT EXISTS {_TABLE} (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_GET: Final = f"SELECT key, value FROM {_TABLE} WHERE key IN ({{}})"
_PUT: Final = f"INSERT INTO {_TABLE} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_DELETE: Final = f"DELETE FROM {_TABLE} WHERE key IN ({{}})"
_LIST: Final = f"SELECT key, value FROM {_TABLE} WHERE {{}} ORDER BY key {{}} LIMIT ?"
_MOST_KEYS: Final = 128
Statement = tuple[str, list[Any]]
"""A query, and what stands in place of its marks."""


class Keys:
    """`self.ctx.storage.kv`: keys and values without awaiting."""

    def __init__(self, storage: Storage) -> None:
        self._ask = storage._keyed

    def get(self, key: Any) -> Any:
        """A value, None if there is none; of a list of keys, a map of those that have one."""
        keys = _keys(key)
        rows = self._ask((_GET.format(_marks(keys)), keys))["results"]
        found = {row["key"]: _value(row["value"]) for row in rows}
        return Entries((one, found[one]) for one in keys if one in found) if _many(key) else found.get(keys[0])

    def put(self, key: Any, value: Any = None) -> None:
        """Keep a value under a key, or everything in a map."""
        entries = key if isinstance(key, Mapping) else {key: value}
        if keys := _keys(list(entries)):
            self._ask(*((_PUT, [name, values.dumps(one)]) for name, one in zip(keys, entries.values(), strict=True)))

    def delete(self, key: Any) -> Any:
        """Whether there was one; of a list of keys, how many there were."""
        keys = _keys(key)
        changes = self._ask((_DELETE.format(_marks(keys)), keys))["meta"]["changes"]
        return changes if _many(key) else changes > 0

    def list(self, options: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Keys in order, with values."""
        given = {**(options or {}), **more}
        tests: dict[str, Any] = {"1 = 1": []}
        for name, test in (("start", "key >= ?"), ("startAfter", "key > ?"), ("end", "key < ?")):
            if given.get(name) is not None:
                tests[test] = [given[name]]
        if prefix := given.get("prefix"):
            tests["substr(key, 1, ?) = ?"] = [len(prefix), prefix]
        params = [one for test in tests.values() for one in test]
        query = _LIST.format(" AND ".join(tests), "DESC" if given.get("reverse") else "ASC")
        limit = -1 if given.get("limit") is None else int(given["limit"])
        rows = self._ask((query, [*params, limit]))["results"]
        return Entries((row["key"], _value(row["value"])) for row in rows)


class Entries(JsDict):
    """Keys and values that were found, which can also be asked what a map of JavaScript's can."""

    __module__ = "workers"

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self)

    def has(self, key: str) -> bool:
        """Whether it was found."""
        return key in self

    def keys(self) -> Any:
        """The keys."""
        return _Names(self)


class _Names(KeysView[str]):
    """Keys, of which the next can be asked for."""

    def next(self) -> JsDict:
        """The first, as JavaScript's iterators give it."""
        return JsDict(value=next(iter(self), None), done=not self)


def _many(key: Any) -> bool:
    return isinstance(key, list | tuple)


def _keys(key: Any) -> list[str]:
    keys = [text(one) if isinstance(one, int | float) else one for one in (key if _many(key) else [key])]
    if not all(isinstance(one, str) and one for one in keys) or len(keys) > _MOST_KEYS:
        raise TypeError(f"a key is text that is not empty, or a list of at most {_MOST_KEYS} of them")
    return keys


def _marks(keys: list[str]) -> str:
    return ", ".join("?" * len(keys))


def _value(data: bytes) -> Any:
    return values.loads(data, hook=JsDict, trusted=True)
