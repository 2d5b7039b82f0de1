"""A key-value store with expiry, after Cloudflare's KV: `KeyValue(store, tenant)` is one tenant's, and knows no other.

What has expired is not there; its row goes when something is written. One tenant may have several namespaces.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloister.ipc import RpcTarget, Stub
from cloister.ipc.streams import RemoteStream

from ..http.bodies import INLINE, read_whole
from ..http.headers import Malformed
from . import options as given
from .held import Held, Lent
from .shelf import Shelf, owner, stored

MOST_KEY: Final = 512
MOST_VALUE: Final = 8 * 1024 * 1024
MOST_METADATA: Final = 1024
SHORTEST: Final = 60
"""Seconds that a value lives at least, if it expires at all."""
_PAGE: Final = 1000
_MANY: Final = 100
_SWEEP: Final = 50
_MOST_READ: Final = 16 * 1024 * 1024
"""Bytes of all the values that are read at once."""
_MOST_PARSED: Final = 100_000
"""Values within the JSON that is read at once: the host does nothing else meanwhile."""
_IDLE_S: Final = 60.0
"""Seconds that each next piece of a value may take."""
_TYPES: Final = ("text", "json", "arrayBuffer", "bytes", "stream")


class KeyValueStore(Shelf):
    """Where the keys and values of all tenants lie: `async with KeyValueStore("keys.db") as store`."""

    schema = """
    CREATE TABLE IF NOT EXISTS pairs (
      id       INTEGER PRIMARY KEY,
      tenant   TEXT NOT NULL,
      space    TEXT NOT NULL,
      key      TEXT NOT NULL,
      value    BLOB NOT NULL,
      metadata TEXT,
      expires  REAL,
      size     INTEGER NOT NULL,
      UNIQUE (tenant, space, key)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS expiring ON pairs (expires) WHERE expires IS NOT NULL;
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held = Held()
        """Values that come in, or are read, piece by piece."""

    async def drop(self, tenant: str) -> None:
        """Delete everything that is a tenant's."""

        def work(connection: sqlite3.Connection) -> None:
            size, entries = stored(connection, tenant)
            connection.execute("DELETE FROM pairs WHERE tenant = ?", (tenant,))
            self.charge(connection, tenant, -size, -entries)

        await self.work(tenant, work)


class KeyValue(RpcTarget):
    """`env={"KV": KeyValue(store, tenant_id)}`: `put`, `get`, `get_with_metadata`, `delete`, `list`."""

    def __init__(self, store: KeyValueStore, tenant: str, *, namespace: str = "", shortest_ttl: int = SHORTEST) -> None:
        self._store, self._scope, self._shortest = store, (owner(tenant), namespace), shortest_ttl

    async def put(self, key: object, value: object, options: object = None, /, **more: object) -> None:
        """Store text, bytes or a body. Options: `expiration` (seconds since the epoch), `expiration_ttl` (seconds),
        `metadata` (a JSON value). `ValueError`, `StorageQuotaExceeded`."""
        found = given.options(options, more, "expiration expiration_ttl metadata", "put()")
        name = _key(key)
        metadata = given.as_json(found["metadata"], "metadata", MOST_METADATA) if "metadata" in found else None
        expires = self._expires(found)
        with self._store.held.one(self._scope[0]) as more_held:
            data = await _bytes(value, more_held)
            await self._store_pair(name, data, metadata, expires)

    async def _store_pair(self, name: str, data: bytes, metadata: str | None, expires: float | None) -> None:
        size = len(name.encode()) + len(data) + len(metadata or "")

        def work(connection: sqlite3.Connection) -> None:
            self._sweep(connection)
            row = connection.execute(
                "SELECT size FROM pairs WHERE tenant = ? AND space = ? AND key = ?", (*self._scope, name)
            ).fetchone()
            self._store.charge(connection, self._scope[0], size - (row[0] if row else 0), 0 if row else 1)
            connection.execute(
                "INSERT INTO pairs (tenant, space, key, value, metadata, expires, size) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (tenant, space, key) DO UPDATE SET value = excluded.value, metadata = excluded.metadata,"
                " expires = excluded.expires, size = excluded.size",
                (*self._scope, name, data, metadata, expires, size),
            )

        await self._store.work(self._scope[0], work)

    async def get(self, key: object, options: object = None, /, **more: object) -> Any:
        """A value, or None: as text, or as `type` says: json, arrayBuffer, stream. Of up to 100 keys, a map."""
        kind = _type(options, more)
        if isinstance(key, list):
            return {name: value for name, (value, _) in (await self._many(key, kind)).items()}
        return (await self._many([key], kind))[_key(key)][0]

    async def get_with_metadata(self, key: object, options: object = None, /, **more: object) -> Any:
        """The same as `{value, metadata}`."""
        kind = _type(options, more)
        found = await self._many(key if isinstance(key, list) else [key], kind)
        pairs = {name: {"value": value, "metadata": metadata} for name, (value, metadata) in found.items()}
        return pairs if isinstance(key, list) else pairs[_key(key)]

    async def getWithMetadata(self, key: object, options: object = None, /, **more: object) -> Any:  # noqa: N802
        """See `get_with_metadata`."""
        return await self.get_with_metadata(key, options, **more)

    async def delete(self, key: object) -> None:
        """Forget a key. Harmless if there is none."""
        name = _key(key)

        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "DELETE FROM pairs WHERE tenant = ? AND space = ? AND key = ? RETURNING size", (*self._scope, name)
            ).fetchone()
            if row is not None:
                self._store.charge(connection, self._scope[0], -row[0], -1)

        await self._store.work(self._scope[0], work)

    async def list(self, options: object = None, /, **more: object) -> dict[str, Any]:
        """Keys in order: `{keys: [{name, expiration, metadata}], list_complete, cursor}`. Options: `prefix`, `limit`
        (1,000 at most), `cursor`. A page may have fewer, where there is much metadata."""
        found = given.options(options, more, "prefix limit cursor", "list()")
        prefix, start = given.text(found, "prefix", MOST_KEY), given.after(found)
        limit = given.number(found, "limit", _PAGE, 1, _PAGE)
        rows = await self._store.look(
            self._scope[0],
            lambda connection: connection.execute(
                "SELECT key, expires, metadata FROM pairs WHERE tenant = ? AND space = ? AND key >= ? AND key > ?"
                " AND key < ? AND (expires IS NULL OR expires > ?) ORDER BY key LIMIT ?",
                (*self._scope, prefix, start, given.beyond(prefix), self._store.now(), limit + 1),
            ).fetchall(),
        )
        keys = _listed(rows[:limit])
        more_there = len(rows) > len(keys)
        page = {"keys": keys, "list_complete": not more_there}
        return {**page, "cursor": given.cursor(keys[-1]["name"])} if more_there else page

    async def _many(self, keys: Sequence[Any], kind: str) -> dict[str, tuple[Any, Any]]:
        names = [_key(key) for key in keys]
        if len(names) > _MANY:
            raise ValueError(f"at most {_MANY} keys are read at once, not {len(names):,}")

        def work(connection: sqlite3.Connection) -> dict[str, tuple[bytes, str | None]]:
            pairs: dict[str, tuple[bytes, str | None]] = {}
            size = 0
            for name in dict.fromkeys(names):
                row = connection.execute(
                    "SELECT value, metadata FROM pairs WHERE tenant = ? AND space = ? AND key = ?"
                    " AND (expires IS NULL OR expires > ?)",
                    (*self._scope, name, self._store.now()),
                ).fetchone()
                if row is not None:
                    pairs[name] = row
                    size += len(row[0])
                    if size > _MOST_READ:
                        raise ValueError(f"the values have more than {_MOST_READ:,} bytes together; read fewer at once")
            return pairs

        found = await self._store.look(self._scope[0], work)
        if kind == "json" and sum(map(given.within, (value for value, _ in found.values()))) > _MOST_PARSED:
            raise ValueError(
                f"this JSON may have more than {_MOST_PARSED:,} values within; read it as text and parse that"
            )
        return {name: self._read(name, *found[name], kind) if name in found else (None, None) for name in names}

    def _read(self, name: str, value: bytes, metadata: str | None, kind: str) -> tuple[Any, Any]:
        about = None if metadata is None else json.loads(metadata)
        if kind == "text":
            return value.decode("utf-8", "replace"), about
        if kind == "json":
            try:
                return json.loads(value), about
            except (ValueError, RecursionError) as error:
                raise ValueError(f"the value of {name!r:.80} is not JSON: {error}") from error
        return Lent(self._store.held, self._scope[0], value, INLINE) if kind == "stream" else value, about

    def _expires(self, found: Mapping[str, Any]) -> float | None:
        now = self._store.now()
        moments = []
        for name, base in (("expiration", 0.0), ("expiration_ttl", now)):
            if name in found:
                if type(found[name]) not in {int, float} or not 0 < found[name] < 1e11:
                    raise ValueError(f"{name} is a number of seconds, not {found[name]!r:.40}")
                moments.append(base + found[name])
        if moments and min(moments) < now + self._shortest:
            raise ValueError(f"a value lives for {self._shortest} seconds at least, if it expires at all")
        return min(moments, default=None)

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Some of what has expired, whosever it was, goes with each write."""
        gone = connection.execute(
            "DELETE FROM pairs WHERE id IN (SELECT id FROM pairs WHERE expires <= ? LIMIT ?) RETURNING tenant, size",
            (self._store.now(), _SWEEP),
        ).fetchall()
        for tenant, size in gone:
            self._store.charge(connection, tenant, -size, -1)


def _key(key: object) -> str:
    name = given.key(key, MOST_KEY)
    if name in {".", ".."}:
        raise ValueError(f"{name!r} is no key")
    return name


def _type(options: object, more: Mapping[str, Any]) -> str:
    found = given.options({"type": options} if isinstance(options, str) else options, more, "type cache_ttl", "get()")
    kind = found.get("type", "text")
    if kind not in _TYPES:
        raise ValueError(f"type is one of {', '.join(_TYPES)}, not {kind!r:.40}")
    return str(kind)


async def _bytes(value: object, more: Callable[[int], None]) -> bytes:
    match value:
        case str():
            data = value.encode("utf-8", "replace")
        case bytes():
            data = value
        case Stub() | RemoteStream():
            try:
                data = await read_whole(value, MOST_VALUE, more, _IDLE_S)
            except Malformed as error:
                raise ValueError(str(error)) from error
            except TimeoutError:
                raise TimeoutError(f"a value that is put has to go on within {_IDLE_S:g} s") from None
        case _:
            raise TypeError(f"a value is text, bytes or a body, not {type(value).__name__}")
    if len(data) > MOST_VALUE:
        raise ValueError(f"a value has at most {MOST_VALUE:,} bytes; this one has {len(data):,}")
    return data


def _listed(rows: Sequence[tuple[str, float | None, str | None]]) -> list[dict[str, Any]]:
    """A page, which ends earlier where much is told of its keys."""
    keys: list[dict[str, Any]] = []
    within = 0
    for name, expires, metadata in rows:
        if within > given.MOST_LISTED:
            break
        about: dict[str, Any] = {"name": name}
        if expires is not None:
            about["expiration"] = int(expires)
        if metadata is not None:
            about["metadata"] = json.loads(metadata)
            within += given.within(metadata)
        keys.append(about)
    return keys
