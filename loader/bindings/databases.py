"""A private SQLite database for each tenant, after Cloudflare's D1: opened by the host, and never by a sandbox.

A tenant's statements run in processes that do nothing else, one batch at a time for each database. What they may do is
the business of `sql`, and whose turn it is that of `lanes`; here it is who has which file, and what is said to whom.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from cloister.ipc import RpcTarget, values
from cloister.ipc.capabilities import Capability, Served, public_method
from cloister.ipc.values import Encoded

from ..errors import LoaderError
from .lanes import Lane, Lanes, Lost, Overran, closed
from .shelf import owner
from .storage import Account, Storage, StorageQuotaExceeded

Statements = list[tuple[str, list[int | float | str | bytes | None]]]
_MOST_STATEMENTS: Final = 1000
_MOST_SCRIPT: Final = 100_000
_TOLD: Final = ("bytes", "seconds", "rows", "result_bytes", "written_bytes")


class SqlError(LoaderError):
    """SQLite refused a statement, or it took too long. The message is SQLite's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLimits:
    """Of one database, and of one call: a statement or a batch."""

    bytes: int = 256 * 1024 * 1024
    """On disk."""
    seconds: float = 5.0
    rows: int = 50_000
    result_bytes: int = 8 * 1024 * 1024
    memory_bytes: int = 64 * 1024 * 1024
    """What SQLite may take in a process."""
    written_bytes: int = 1024 * 1024 * 1024
    """To files of any kind: the database, its journal, and what sorting takes."""


class Databases:
    """A folder of tenants' databases: `async with Databases("databases/") as databases`.

    So many `processes` work at the same time, each for one database; they are started when they are needed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        limits: DatabaseLimits | None = None,
        storage: Storage | None = None,
        processes: int = 4,
    ) -> None:
        self._folder = Path(folder).absolute()  # the processes that open what is in it are elsewhere
        self.limits = limits or DatabaseLimits()
        self._storage = storage or Storage()
        self._processes = processes
        self._lanes: Lanes | None = None
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lanes = Lanes(self._processes, self.limits.memory_bytes)
        self._storage.join(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            await lanes.aclose()
            self._storage.leave(self)

    async def size(self, tenant: str) -> int:
        """How many bytes a tenant's databases take on disk."""
        return await asyncio.to_thread(lambda: sum(map(_size, self._files(tenant))))

    async def size_of(self, tenant: str, name: str) -> int:
        """How many bytes one of them takes on disk."""
        path = self._place(tenant) / f"{_safe(name)}.db"
        return await asyncio.to_thread(_size, path)

    async def exists(self, tenant: str, name: str) -> bool:
        """Whether one of them was used, if only to find that nothing is in it."""
        path = self._place(tenant) / f"{_safe(name)}.db"
        return await asyncio.to_thread(path.exists)

    async def count(self, tenant: str) -> int:
        """How many databases a tenant has."""
        return await asyncio.to_thread(lambda: sum(file.suffix == ".db" for file in self._files(tenant)))

    async def drop(self, tenant: str) -> None:
        """Delete a tenant's databases."""
        for path in self._files(tenant):
            async with self._storage.held(tenant) as account, self._turn(path):
                account.correct(self, -_size(path))
                for ending in ("-journal", ""):
                    path.with_name(path.name + ending).unlink(missing_ok=True)

    async def measure(self, tenant: str, account: Account) -> None:
        """See `Store`."""
        account.learn(self, await self.size(tenant))

    async def run(self, tenant: str, name: str, statements: Statements | str, *, keep: bool = True) -> Encoded:
        """Statements, or a script of them, as one transaction: a list with the result of each, encoded as it came, so
        that many rows cost the host no more than their bytes do. What is no longer wanted is interrupted, and waited
        for. Unless it is to be kept, all is undone."""
        if self._lanes is None:
            raise closed()
        path = self._place(tenant) / f"{_safe(name)}.db"
        path.parent.mkdir(exist_ok=True)
        async with (
            self._storage.held(tenant) as account,
            self._turn(path),
            self._lanes.turn(tenant, str(path)) as lane,
        ):
            growth = _Growth(self, account, path)
            limits = {field: getattr(self.limits, field) for field in _TOLD}
            limits["bytes"] = min(self.limits.bytes, growth.size + account.room)
            batch = {"path": str(path), "statements": statements, "limits": limits, "keep": keep}
            try:
                answer = await self._ask(lane, batch, growth)
            finally:
                growth.settle()
        match answer:
            case ["done", bytes(results)]:
                return Encoded(results)
            case ["failed", "full", _] if limits["bytes"] < self.limits.bytes:
                raise growth.refusal or account.refusal(self.limits.bytes)
            case ["failed", str(kind), str(words)]:
                raise _refusal(kind, words, self.limits)
        raise SqlError("the process that runs statements gave no answer")

    async def _ask(self, lane: Lane, batch: dict[str, Any], growth: _Growth) -> list[Any]:
        running = asyncio.ensure_future(lane.run(batch, self.limits.seconds, growth.may))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(lambda ran: ran.cancelled() or ran.exception())  # nobody asks
            await lane.stop()
            await asyncio.wait({running})
            raise
        except Overran:
            return ["failed", "overran", ""]
        except Lost as error:
            raise SqlError("the process that ran the statements ended; all of them are done, or none") from error
        except OverflowError as error:
            return ["failed", "value", str(error)]

    def _turn(self, path: Path) -> asyncio.Lock:
        """One at a time has a database."""
        return self._turns.setdefault(path, asyncio.Lock())

    def _place(self, tenant: str) -> Path:
        return self._folder / _safe(owner(tenant))

    def _files(self, tenant: str) -> list[Path]:
        folder = self._place(tenant)
        return list(folder.glob("*.db")) if folder.is_dir() else []


class _Growth:
    """What becomes of the size of a file while a batch runs, as it is charged."""

    def __init__(self, store: Databases, account: Account, path: Path) -> None:
        self._store, self._account, self._path = store, account, path
        self.size = _size(path)
        self.refusal: StorageQuotaExceeded | None = None

    def may(self, size: int) -> bool:
        """Whether it may be so large."""
        try:
            self._account.charge(self._store, size - self.size)
        except StorageQuotaExceeded as refusal:
            self.refusal = refusal
            return False
        self.size = size
        return True

    def settle(self) -> None:
        """It is as large as it is."""
        self._account.correct(self._store, _size(self._path) - self.size)


def _refusal(kind: str, words: str, limits: DatabaseLimits) -> LoaderError:
    match kind:
        case "overran":
            return SqlError(f"the statements took longer than {limits.seconds:g} s, and were interrupted")
        case "overwrote":
            return SqlError(f"the statements wrote more than {limits.written_bytes:,} bytes, and were interrupted")
        case "memory":
            return SqlError(f"the statements would take more than {limits.memory_bytes:,} bytes of memory")
        case "full":
            return StorageQuotaExceeded(f"the database would be larger than {limits.bytes:,} bytes")
        case "disk":
            return SqlError("the host's disk is full; nothing was changed")
        case "value":
            return SqlError(f"a parameter that SQLite cannot store: {words}")
    return SqlError(words)


class Database(RpcTarget):
    """`env={"DB": Database(databases, tenant_id)}`. From inside: `await env.DB.prepare(query).bind(*params).all()`,
    `.first()`, `.run()`, `.raw()`; `env.DB.batch([statements])`, which is one transaction; `env.DB.exec(script)`;
    `env.DB.sql(query, *params)`, which gives rows. The host has `batch`, `exec` and `sql`.
    """

    def __init__(self, databases: Databases, tenant: str, *, name: str = "main") -> None:
        self._databases, self._tenant, self._name = databases, owner(tenant), name

    def rpc_attributes(self) -> dict[str, Any]:
        """From inside it is an object that makes statements without asking."""
        return {"workers.class": "Database"}

    def __capability__(self) -> Capability:
        """A sandbox is answered with results as they came, unless a subclass has something to say about them."""
        mine = type(self).batch is Database.batch and type(self).sql is Database.sql
        own: dict[str, Callable[..., Any]] = {"batch": self._batch, "sql": self._sql} if mine else {}
        return Served(self, lambda name: own.get(name) or public_method(self, name), self.rpc_attributes())

    async def _batch(self, statements: object) -> Encoded:
        return await self._databases.run(self._tenant, self._name, checked(statements))

    async def _sql(self, query: object, *params: object) -> Encoded:
        match values.split((await self._batch([[query, list(params)]])).data):
            case [bytes(result)] if isinstance(told := values.split(result), dict):
                return Encoded(told["results"])
        raise SqlError("the process that runs statements gave no rows")

    async def batch(self, statements: object) -> list[dict[str, Any]]:
        """Statements with their parameters, `[[query, [params]], ...]`, as one transaction: the result of each."""
        return _read(await self._batch(statements))

    async def sql(self, query: object, *params: object) -> list[dict[str, Any]]:
        """The rows of one statement."""
        (result,) = await self.batch([[query, list(params)]])
        rows: list[dict[str, Any]] = result["results"]
        return rows

    async def exec(self, script: object) -> dict[str, Any]:
        """Several statements in one text, without parameters, as one transaction: `{count, duration}`."""
        if not isinstance(script, str) or len(script) > _MOST_SCRIPT:
            raise TypeError(f"a script is text of at most {_MOST_SCRIPT:,} characters")
        results = _read(await self._databases.run(self._tenant, self._name, script))
        return {"count": len(results), "duration": sum(result["meta"]["duration"] for result in results)}


def checked(given: object) -> Statements:
    """A batch, `[[query, [params]], ...]`. `TypeError`."""
    if not isinstance(given, list) or len(given) > _MOST_STATEMENTS:
        raise TypeError(f"a batch is a list of at most {_MOST_STATEMENTS:,} statements")
    found = []
    for statement in given:
        match statement:
            case [str(query), list(params)] if all(isinstance(one, None | int | float | str | bytes) for one in params):
                found.append((query, params))
            case [str(), list()]:
                raise TypeError("a parameter is None, a number, text or bytes")
            case _:
                raise TypeError("a statement is a query and a list of parameters")
    return found


def _read(results: Encoded) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = values.loads(results.data, trusted=True)
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _safe(name: str) -> str:
    """A file name that is one tenant's and nobody else's, whatever is in the name."""
    plain = "".join(sign for sign in name.lower() if sign.isascii() and (sign.isalnum() or sign in "-_"))[:40]
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
