"""What lasts of a durable object: keys and values, tables, an alarm. It lies in one database of the object's own.

Whoever asks it has the answer before anything else goes on. In a transaction what was asked is kept, and asked again
with each further question; only at its end it is done, all of it or nothing. Kept with the standard library, for those
who ask.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from typing import Any, Final

from cloister.ipc import values
from cloister.ipc.stubs import Stub

from .transports import blocking
from .values import JsDict
from .worker import result

_TABLE: Final = "_cf_KV"
_CREATE: Final = f"CREATE TABLE IF NOT EXISTS {_TABLE} (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_GET: Final = f"SELECT key, value FROM {_TABLE} WHERE key IN ({{}})"
_PUT: Final = f"INSERT INTO {_TABLE} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_DELETE: Final = f"DELETE FROM {_TABLE} WHERE key IN ({{}})"
_LIST: Final = f"SELECT key, value FROM {_TABLE} WHERE {{}} ORDER BY key {{}} LIMIT ?"
_KNOWN: Final = "SELECT name, type FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND type IN ('table', 'view')"
_MOST_KEYS: Final = 128
Statement = tuple[str, list[Any]]
_within: contextvars.ContextVar[Transaction | None] = contextvars.ContextVar("transaction", default=None)


class Done:
    """Something that was done when it was asked for, to be awaited or not."""

    __module__ = "workers"

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._error: Exception | None = None
        try:
            self._value = function(*args)
        except Exception as error:
            self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        if self._error is not None:
            raise self._error
        yield from ()
        return self._value


class Transaction:
    """What was asked so far."""

    def __init__(self, owner: Storage) -> None:
        self.owner = owner
        self.statements: list[Statement] = []
        self.undone = False


class Storage:
    """`self.ctx.storage`."""

    __module__ = "workers"

    def __init__(self, stub: Stub, *, alarms: bool) -> None:
        self._stub, self._alarms = stub, alarms
        self._made = False
        self.sql = Sql(self)
        self.kv = Keys(self)

    # Keys and values

    def get(self, key: Any, *_: Any, **__: Any) -> Awaitable[Any]:
        """A value, None if there is none; of a list of keys, a map of those that have one."""
        return Done(self.kv.get, key)

    def put(self, key: Any, value: Any = None, *_: Any, **__: Any) -> Awaitable[None]:
        """Keep a value under a key, or everything in a map."""
        return Done(self.kv.put, key, value)

    def delete(self, key: Any, *_: Any, **__: Any) -> Awaitable[Any]:
        """Whether there was one; of a list of keys, how many there were."""
        return Done(self.kv.delete, key)

    def list(self, options: Mapping[str, Any] | None = None, **more: Any) -> Awaitable[Any]:
        """Keys in order, with values: `start`, `startAfter`, `end`, `prefix`, `reverse`, `limit`."""
        return Done(lambda: self.kv.list(options, **more))

    def deleteAll(self, *_: Any, **__: Any) -> Awaitable[None]:  # noqa: N802 - the names of the SDK
        """Everything but the alarm: keys and tables."""
        return Done(self._delete_all)

    def sync(self) -> Awaitable[None]:
        """Everything is on disk: it was when it was answered."""
        return Done(lambda: None)

    def _delete_all(self) -> None:
        known = self._ask((_KNOWN, []))["results"]
        drops: list[Statement] = [
            (f'DROP {row["type"].upper()} "{row["name"].replace(chr(34), chr(34) * 2)}"', []) for row in known
        ]
        self._made = False
        if drops:
            self._run([("PRAGMA defer_foreign_keys = ON", []), *drops])

    # Transactions

    async def transaction(self, function: Callable[[Any], Any]) -> Any:
        """What a function gives that is called with the storage; what it did is done at its end, or not at all."""
        with self._transacting() as transaction:
            return await result(function, _Within(self, transaction))

    def transactionSync(self, function: Callable[[], Any]) -> Any:  # noqa: N802
        """The same for a function that waits for nothing."""
        with self._transacting():
            return function()

    @contextlib.contextmanager
    def _transacting(self) -> Iterator[Transaction]:
        outer = self._current()
        if outer is not None:  # what is inside of another one is undone with it, or by itself
            before = len(outer.statements)
            try:
                yield outer
            except BaseException:
                del outer.statements[before:]
                raise
            return
        transaction, made = Transaction(self), self._made
        token = _within.set(transaction)
        try:
            yield transaction
        finally:
            _within.reset(token)
            self._made = made
        if transaction.statements and not transaction.undone:
            self._run(transaction.statements)

    # The alarm

    def setAlarm(self, when: Any, *_: Any, **__: Any) -> Awaitable[None]:  # noqa: N802
        """Have `alarm()` called at a datetime, or at so many milliseconds since 1970. There is one alarm."""
        return Done(self._set_alarm, when)

    def getAlarm(self, *_: Any, **__: Any) -> Awaitable[float | None]:  # noqa: N802
        """When that is, in milliseconds since 1970; None if it is not set."""
        return Done(lambda: self._waited(self._stub.get_alarm()))

    def deleteAlarm(self, *_: Any, **__: Any) -> Awaitable[None]:  # noqa: N802
        """It is not set."""
        return Done(lambda: self._waited(self._stub.set_alarm(None)))

    def _set_alarm(self, when: Any) -> None:
        if not self._alarms:
            raise TypeError("Your Durable Object class must have an alarm() handler in order to call setAlarm()")
        self._waited(self._stub.set_alarm(_moment(when)))

    delete_all, set_alarm, get_alarm, delete_alarm = deleteAll, setAlarm, getAlarm, deleteAlarm
    transaction_sync = transactionSync

    # How it is asked

    def _current(self) -> Transaction | None:
        transaction = _within.get()
        return transaction if transaction is not None and transaction.owner is self else None

    def _ask(self, *statements: Statement) -> Any:
        """What the last of some statements gives."""
        transaction = self._current()
        if transaction is None:
            return self._run([*statements])[-1]
        answer = self._run([*transaction.statements, *statements], keep=False)[-1]
        transaction.statements += statements
        return answer

    def _keyed(self, *statements: Statement) -> Any:
        """The same for statements about keys, whose table is made when it is first needed."""
        answer = self._ask(*statements) if self._made else self._ask((_CREATE, []), *statements)
        self._made = True
        return answer

    def _run(self, statements: Any, *, keep: bool = True) -> Any:
        return self._waited(self._stub.batch([[query, params] for query, params in statements], keep))

    def _waited(self, call: Awaitable[Any]) -> Any:
        async def asked() -> Any:
            return await call

        return blocking(asked())


class _Within:
    """What the function of a transaction is called with."""

    def __init__(self, storage: Storage, transaction: Transaction) -> None:
        self._storage, self._transaction = storage, transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def rollback(self) -> None:
        """Nothing of it is to be done, though the function goes on."""
        self._transaction.undone = True


class Keys:
    """`self.ctx.storage.kv`: keys and values without awaiting."""

    def __init__(self, storage: Storage) -> None:
        self._ask = storage._keyed

    def get(self, key: Any) -> Any:
        """A value, None if there is none; of a list of keys, a map of those that have one."""
        keys = _keys(key)
        rows = self._ask((_GET.format(_marks(keys)), keys))["results"]
        found = {row["key"]: _value(row["value"]) for row in rows}
        return found.get(key) if isinstance(key, str) else JsDict((one, found[one]) for one in keys if one in found)

    def put(self, key: Any, value: Any = None) -> None:
        """Keep a value under a key, or everything in a map."""
        entries = key if isinstance(key, Mapping) else {key: value}
        _keys(list(entries))
        if entries:
            self._ask(*((_PUT, [name, values.dumps(one)]) for name, one in entries.items()))

    def delete(self, key: Any) -> Any:
        """Whether there was one; of a list of keys, how many there were."""
        keys = _keys(key)
        changes = self._ask((_DELETE.format(_marks(keys)), keys))["meta"]["changes"]
        return changes > 0 if isinstance(key, str) else changes

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
        return JsDict((row["key"], _value(row["value"])) for row in rows)


class Sql:
    """`self.ctx.storage.sql`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def exec(self, query: str, *params: Any) -> Cursor:
        """A statement; several in one text if there are no parameters for them, and then the result of the last."""
        if not params and ";" in query.rstrip().rstrip(";"):
            return Cursor(self._storage._ask(*((one, []) for one in self._split(query))))
        return Cursor(self._storage._ask((query, [int(one) if isinstance(one, bool) else one for one in params])))

    @property
    def databaseSize(self) -> int:  # noqa: N802
        """Bytes on disk."""
        return int(self._storage._waited(self._storage._stub.size()))

    database_size = databaseSize

    @staticmethod
    def _split(script: str) -> Iterator[str]:
        import sqlite3

        kept = ""
        for part in script.split(";"):
            kept += f"{part};"
            if sqlite3.complete_statement(kept):
                if kept.strip(" \t\r\n;"):
                    yield kept
                kept = ""
        if kept.strip(" \t\r\n;"):
            yield kept.removesuffix(";")


class Cursor:
    """The rows of a statement, as maps."""

    __module__ = "workers"

    def __init__(self, answer: Any) -> None:
        self._rows = [JsDict(row) for row in answer["results"]]
        self._next = 0
        self.columnNames: list[str] = list(self._rows[0] if self._rows else ())
        self.rowsRead = answer["meta"]["rows_read"]
        self.rowsWritten = answer["meta"]["rows_written"]

    def __iter__(self) -> Cursor:
        return self

    def __next__(self) -> JsDict:
        if self._next >= len(self._rows):
            raise StopIteration
        self._next += 1
        return self._rows[self._next - 1]

    def next(self) -> JsDict:
        """`{done, value}`."""
        row = next(self, None)
        return JsDict(done=row is None, value=row)

    def toArray(self) -> list[JsDict]:  # noqa: N802 - the names of the SDK
        """The rows that are left."""
        from .conversions import JsArray

        return JsArray(self)

    to_array = to_py = toArray

    def one(self) -> JsDict:
        """The only row. `ValueError` if there is another number of them."""
        rows = list(self)
        if len(rows) != 1:
            raise ValueError(f"Expected exactly one result from SQL query, but got {len(rows) or 'no results'}.")
        return rows[0]

    def raw(self) -> Iterator[list[Any]]:
        """The rows as lists."""
        return (list(row.values()) for row in self)


def _keys(key: Any) -> list[str]:
    keys = [key] if isinstance(key, str) else list(key) if isinstance(key, list | tuple) else []
    if not all(isinstance(one, str) and one for one in keys) or len(keys) > _MOST_KEYS or (not keys and key != []):
        raise TypeError(f"a key is text that is not empty, or a list of at most {_MOST_KEYS} of them")
    return keys


def _marks(keys: list[str]) -> str:
    return ", ".join("?" * len(keys))


def _value(data: bytes) -> Any:
    return values.loads(data, hook=JsDict, trusted=True)


def _moment(when: Any) -> float:
    if isinstance(when, datetime.datetime):
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp() * 1000
    return float(when)
