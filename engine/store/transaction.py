"""A transaction of the host's own: writes to tables of its own and creates instances, all or nothing.

The tables are in the engine's file, beside the engine's. An authoriser sees to it that those are left alone and that
nobody but the engine begins or ends a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..database import tables
from ..errors import InstanceAlreadyExists
from ..options import Creation, together
from ..rules import check_name
from . import instances

if TYPE_CHECKING:
    from ..workflow import Workflow
    from .store import Store

T = TypeVar("T")

Write = Callable[["Transaction"], T]

_STORAGE_FAULTS = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOTADB,
})  # fmt: skip
_NEVER = frozenset({
    sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
})  # fmt: skip
_CHANGES_FIRST = frozenset({
    sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE,
})  # fmt: skip
"""Actions whose first argument is the table that they change."""
_CHANGES_SECOND = frozenset({
    sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_DROP_TRIGGER,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raised:
    """What the host's function raised, which harms nobody but itself."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What it returned, and the workflows that it created instances of."""

    result: T
    workflows: frozenset[str]


class Transaction:
    """What the function that is given to `Engine.transact` gets. It is of no use after that has returned."""

    def __init__(self, store: Store, now: int) -> None:
        self._store: Store | None = store
        self._now = now
        self.workflows: set[str] = set()

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement on tables of your own; its rows. `sqlite3.Error` as SQLite raises it."""
        return self._open().execute(statement, parameters).fetchall()

    def create(
        self, workflow: Workflow, options: Mapping[str, Any] | None = None, /, *, scope: str = "", **more: Any
    ) -> str:
        """Create an instance, as `Workflow.create` does; its id. It exists if everything else is stored."""
        store = self._open()
        creation = Creation.read(together(options, more), longest_ms=workflow.longest_retention_ms)
        store.guard(None)
        try:
            made = instances.create_batch(
                store, workflow.name, [(check_name(scope, what="scope"), creation)], self._now
            )
        finally:
            store.guard(_authorise)
        if not made[0] and not creation.derived:
            raise InstanceAlreadyExists(f"workflow {workflow.name!r} has an instance {creation.id!r} already")
        self.workflows.add(workflow.name)
        return creation.id

    def close(self) -> None:
        self._store = None

    def _open(self) -> Store:
        if self._store is None:
            raise RuntimeError("this transaction has ended; use it only in the function that it was given to")
        return self._store


def transact(store: Store, write: Write[T], now: int) -> Done[T] | Raised:
    """Run the host's function; what it raised has undone what it did."""
    transaction = Transaction(store, now)
    store.execute("SAVEPOINT own")
    store.guard(_authorise)
    try:
        result = write(transaction)
        outcome: Done[T] | Raised = Done(result, frozenset(transaction.workflows))
    except BaseException as error:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _STORAGE_FAULTS:
            raise
        outcome = Raised(error)
    finally:
        transaction.close()
        store.guard(None)
    if isinstance(outcome, Raised):
        store.roll_back("own")
    store.execute("RELEASE own")
    return outcome


def _authorise(action: int, first: str | None, second: str | None, base: str | None, trigger: str | None) -> int:
    if action in _NEVER:
        return sqlite3.SQLITE_DENY
    changed = first if action in _CHANGES_FIRST else second if action in _CHANGES_SECOND else None
    return sqlite3.SQLITE_DENY if changed in tables() else sqlite3.SQLITE_OK
