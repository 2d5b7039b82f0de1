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

from cloister.ipc.stubs import Stub

from .entries import CREATE, Keys, Statement
from .tables import Sql
from .transports import blocking
from .worker import result

_KNOWN: Final = "SELECT name, type FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND type IN ('table', 'view')"
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

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
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
        answer = self._ask(*statements) if self._made else self._ask((CREATE, []), *statements)
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


def _moment(when: Any) -> float:
    if isinstance(when, datetime.datetime):
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp() * 1000
    return float(when)
